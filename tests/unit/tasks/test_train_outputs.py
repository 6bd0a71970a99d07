"""A network that learns one more class answers for the others as it did before."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import BasicUNet, SegResNet, UNet

from labelserver.domain.models import OutputLabel
from labelserver.tasks.train_outputs import as_state, grown, moved_channels, outputs_of

OLD = outputs_of(["liver", "spleen"], {})


def unet(classes: int, units: int = 0) -> torch.nn.Module:
    network: torch.nn.Module = UNet(3, 1, classes, channels=(4, 8), strides=(2,), num_res_units=units, norm="INSTANCE")
    return network


def basic(classes: int) -> torch.nn.Module:
    network: torch.nn.Module = BasicUNet(3, 1, classes, features=(4, 4, 4, 4, 4, 4))
    return network


def resnet(classes: int) -> torch.nn.Module:
    network: torch.nn.Module = SegResNet(3, 8, 1, classes, blocks_down=(1, 1), blocks_up=(1,))
    return network


MAKERS = {"unet": unet, "residual": lambda classes: unet(classes, 2), "basic": basic, "resnet": resnet}


def answers(network: torch.nn.Module) -> torch.Tensor:
    torch.manual_seed(3)
    with torch.no_grad():
        found: torch.Tensor = network.eval()(torch.rand(1, 1, 32, 32, 32))
    return found


#: Labels of the new network, and which old channel each known one had.
CHANGES: list[tuple[list[str], dict[int, int]]] = [
    (["liver", "spleen", "stomach"], {0: 0, 1: 1, 2: 2}),
    (["stomach", "liver", "spleen"], {0: 0, 2: 1, 3: 2}),
    (["spleen"], {0: 0, 1: 2}),
    (["spleen", "liver"], {0: 0, 1: 2, 2: 1}),
    (["spleen", "stomach"], {0: 0, 1: 2}),
]


@pytest.mark.parametrize(
    ("maker", "labels", "same"),
    # The last convolution of a residual network takes a class that is gone into account, so there all must stay.
    [(maker, *change) for maker in MAKERS for change in CHANGES if maker != "residual" or "liver" in change[0]],
)
def test_logits_of_known_classes_are_unchanged_at_the_start(
    maker: str, labels: list[str], same: dict[int, int]
) -> None:
    torch.manual_seed(1)
    before, after = MAKERS[maker](3), MAKERS[maker](len(labels) + 1)
    state = grown(as_state(before), as_state(after), OLD, outputs_of(labels, {}))
    assert state.keys() == after.state_dict().keys()
    after.load_state_dict(state)
    old, new = answers(before), answers(after)
    for channel, was in same.items():
        torch.testing.assert_close(new[:, channel], old[:, was], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("maker", ["unet", "basic", "resnet"])
def test_old_weights_never_answer_a_class_they_do_not_know(maker: str) -> None:
    torch.manual_seed(1)
    before, after = MAKERS[maker](3), MAKERS[maker](4)
    wanted = outputs_of(["liver", "spleen", "stomach"], {})
    after.load_state_dict(grown(as_state(before), as_state(after), OLD, wanted, never_new=True))
    assert torch.equal(answers(after).argmax(1), answers(before).argmax(1))


def test_a_renamed_class_is_known_by_its_id_in_the_schema() -> None:
    before = (OutputLabel(1, "liver", "l"), OutputLabel(2, "spleen", "s"))
    after = (OutputLabel(1, "Milz", "s"), OutputLabel(2, "liver", "l"), OutputLabel(3, "spleen", "new"))
    assert moved_channels(before, after) == {0: 0, 1: 2, 2: 1}


def test_labels_become_channels_in_the_order_of_their_values() -> None:
    outputs = outputs_of({"background": 0, "spleen": 7, "liver": 3}, {"spleen": "s"})
    assert outputs == (OutputLabel(1, "liver"), OutputLabel(2, "spleen", "s"))


def test_weights_of_unknown_classes_are_taken_as_far_as_their_shapes_fit() -> None:
    before, after = unet(3), unet(4)
    state = grown(as_state(before), as_state(after), (), outputs_of(["a", "b", "c"], {}))
    assert 0 < len(state) < len(after.state_dict())
    assert all(state[name].shape == value.shape for name, value in after.state_dict().items() if name in state)
