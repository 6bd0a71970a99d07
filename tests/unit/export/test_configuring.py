"""Objects are written with the arguments that they were built with, and MONAI builds the same from that."""

from __future__ import annotations

import functools
from typing import Any

import monai.transforms as mt
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.networks.nets import UNet
from torch import nn

from labelserver.export.carrying import CarriedCode
from labelserver.export.configuring import MAX_ARRAY, CannotWrite, Configuration
from labelserver.export.recording import Recording, recorded, without_defaults


def written(build: Any) -> Any:
    """What `build` makes, as configuration; and the statements that its expressions need."""
    with recorded() as recording:
        made = build()
    configuration = Configuration(recording, CarriedCode(None))
    return configuration.component(made, "It"), sorted(configuration.imports)


def built_again(document: Any, imports: list[str]) -> Any:
    parser = ConfigParser(
        {"imports": [f"${line}" for line in imports], "device": "$torch.device('cpu')", "it": document}
    )
    parser.parse()
    return parser.get_parsed_content("it")


def test_arguments_are_those_of_the_class_itself_and_defaults_are_left_out() -> None:
    document, _ = written(lambda: mt.Spacingd("image", pixdim=(1, 2, 3), mode="nearest"))
    assert document == {
        "_target_": "monai.transforms.Spacingd",
        "keys": "image",
        "pixdim": [1, 2, 3],
        "mode": "nearest",
    }


def test_a_subclass_that_fills_in_arguments_is_written_as_it_was_called() -> None:
    class Own(mt.Orientationd):
        def __init__(self, keys: str) -> None:
            super().__init__(keys, axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))

    with recorded() as recording:
        made = Own("image")
    found = recording.of(made)
    assert found is not None
    assert found.named == {"keys": "image"}


def test_what_is_built_in_another_thread_or_later_is_not_recorded() -> None:
    with recorded() as recording:
        pass
    assert recording.of(mt.Flipd("image")) is None
    assert Recording().of(object()) is None


VALUES: list[tuple[Any, Any]] = [
    (np.float32, "$numpy.float32"),
    (torch.float16, "$torch.float16"),
    (np.dtype("uint8"), "$np.dtype('uint8')"),
    (float("inf"), "$float('inf')"),
    (np.int64(3), 3),
    ("@home", "$'\\x40home'"),
    ({1: 2}, "${1: 2}"),
    (slice(1, 2), "$slice(1, 2, None)"),
    (torch.tensor([1, 2]), "$torch.tensor([1, 2], dtype=torch.int64)"),
    (np.array([0.5]), "$np.array([0.5], dtype='float64')"),
    (torch.sigmoid, "$torch.sigmoid"),
]


@pytest.mark.parametrize(("value", "text"), VALUES, ids=[str(text) for _, text in VALUES])
def test_values_without_a_json_form_become_expressions_of_the_same_value(value: Any, text: Any) -> None:
    configuration = Configuration(Recording(), CarriedCode(None))
    found = configuration.value(value, "here")
    assert found == text
    again = built_again(found, sorted(configuration.imports))
    if isinstance(value, np.ndarray | torch.Tensor):
        assert type(again) is type(value)
        assert again.tolist() == value.tolist()
    else:
        assert again == value


def test_functions_and_partials_are_found_by_their_names() -> None:
    document, imports = written(lambda: mt.Lambdad("image", func=functools.partial(np.clip, a_min=0, a_max=1)))
    step = built_again(document, imports)
    assert step({"image": np.array([-2.0, 0.5, 7.0])})["image"].tolist() == [0.0, 0.5, 1.0]


def test_transforms_inside_transforms_and_positional_parts_are_written() -> None:
    document, imports = written(lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()))
    again = built_again(document, imports)
    assert [type(part) for part in again] == [nn.Conv2d, nn.ReLU]
    document, _ = written(lambda: mt.Compose([mt.LoadImaged("image", reader="NibabelReader"), mt.Flipd("image", 0)]))
    assert [part["_target_"] for part in document["transforms"]] == [
        "monai.transforms.LoadImaged",
        "monai.transforms.Flipd",
    ]


def test_a_network_is_built_again_with_the_same_shape() -> None:
    with torch.random.fork_rng(devices=[]):
        document, imports = written(
            lambda: UNet(3, 1, 4, channels=(4, 8), strides=(2,), norm=("group", {"num_groups": 2}))
        )
    again = built_again(document, imports)
    assert {name: tuple(value.shape) for name, value in again.state_dict().items()} == {
        name: tuple(value.shape)
        for name, value in UNet(3, 1, 4, (4, 8), (2,), norm=("group", {"num_groups": 2})).state_dict().items()
    }


def test_the_device_is_that_of_whoever_runs_it() -> None:
    document, _ = written(lambda: mt.EnsureTyped("image", device="cuda:3"))
    assert document["device"] == "@device"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), "object cannot be written"),
        (lambda x: x, "a lambda"),
        (np.zeros(MAX_ARRAY + 1), "too large"),
        ({(1, 2): 3}, "neither texts nor numbers"),
    ],
    ids=["object", "lambda", "array", "keys"],
)
def test_what_has_no_form_is_refused_and_says_where(value: Any, words: str) -> None:
    with pytest.raises(CannotWrite, match=words):
        Configuration(Recording(), CarriedCode(None)).value(value, "The transform X, argument y")


def test_defaults_are_told_by_type_and_value() -> None:
    def like(a: float = 1.0, b: str = "x") -> None: ...

    assert without_defaults(like, {"a": 1.0, "b": "x"}) == {}  # type: ignore[arg-type]
    assert without_defaults(like, {"a": 1, "b": "y"}) == {"a": 1, "b": "y"}  # type: ignore[arg-type]
