"""An archive gives the numbers of the network that the server runs, carries its documents, and loads by itself."""

from __future__ import annotations

import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from monai.networks.nets import SegResNet, UNet
from torch import nn

from labelserver.domain.errors import InvalidParams, UnreadableFile
from labelserver.export import torchscript
from labelserver.tasks.fast_forward import tune_for_cpu


def volume_network() -> nn.Module:
    torch.manual_seed(0)
    return UNet(3, 1, 3, (4, 8, 16), (2, 2), norm="INSTANCE", dropout=0.2).eval()


class Branching(nn.Module):
    """Scripting refuses it (a global that is no constant), tracing does not."""

    table = {"scale": torch.tensor(2.0)}  # noqa: RUF012 - meant to be what scripting refuses

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv3d(1, 2, 3, padding=1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.inner(inputs) * getattr(self, "table")["scale"]  # noqa: B009
        return scores


@pytest.mark.parametrize(
    "network",
    [volume_network(), SegResNet(3, 8, 1, 2, blocks_down=(1, 1), blocks_up=(1,)), UNet(2, 3, 2, (4, 8), (2,))],
    ids=["unet", "segresnet", "pictures"],
)
def test_scores_are_those_of_the_servers_network_to_the_last_bit(network: nn.Module, tmp_path: Path) -> None:
    network = network.eval()
    channels = 3 if isinstance(network, UNet) and network.dimensions == 2 else 1
    dims = 2 if channels == 3 else 3
    example = torch.rand(1, channels, *[16] * dims)
    servers = tune_for_cpu(deepcopy(network))
    found = torchscript.scripted(servers, example)
    torchscript.save(found.program, tmp_path / "model.ts", {}, {})
    other = torch.rand(2, channels, *[24] * dims)
    with torch.no_grad():
        assert torch.equal(torchscript.load(tmp_path / "model.ts")(other), servers(other))


def test_the_network_itself_is_left_as_it_is() -> None:
    network = volume_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torchscript.scripted(network, torch.rand(1, 1, 16, 16, 16))
    assert [type(m) for m in network.modules()] == [type(m) for m in volume_network().modules()]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_what_cannot_be_scripted_is_traced() -> None:
    network = Branching().eval()
    found = torchscript.scripted(network, torch.rand(1, 1, 8, 8, 8))
    assert found.method == "trace"
    other = torch.rand(2, 1, 12, 8, 10)
    with torch.no_grad():
        assert torch.allclose(found.program(other), network(other), atol=1e-5)


def test_a_network_that_depends_on_chance_is_refused() -> None:
    class Chance(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs + torch.rand_like(inputs)

    with pytest.raises(InvalidParams, match="differs by"):
        torchscript.scripted(Chance(), torch.zeros(1, 1, 4, 4))


def test_several_outputs_are_refused() -> None:
    class Two(nn.Module):
        def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return inputs, inputs

    with pytest.raises(InvalidParams, match="instead of one tensor"):
        torchscript.scripted(Two(), torch.zeros(1, 1, 4, 4))


def test_the_archive_is_called_like_the_file_and_carries_its_documents(tmp_path: Path) -> None:
    path = tmp_path / "model.ts"
    found = torchscript.scripted(volume_network(), torch.rand(1, 1, 16, 16, 16))
    torchscript.save(found.program, path, {"version": "7.0.0"}, {"inferer": 1})
    assert torchscript.archive_root(path) == "model"
    assert torchscript.documents(path) == {"metadata.json": {"version": "7.0.0"}, "inference.json": {"inferer": 1}}
    alone = "import sys; sys.modules['labelserver'] = None; import warnings; warnings.simplefilter('ignore'); "
    alone += f"import torch; print(tuple(torch.jit.load({str(path)!r})(torch.rand(1, 1, 16, 16, 16)).shape))"
    output = subprocess.run([sys.executable, "-c", alone], check=True, capture_output=True, text=True).stdout
    assert output.strip() == "(1, 3, 16, 16, 16)"


def test_another_file_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "model.ts"
    path.write_bytes(b"no archive")
    assert not torchscript.is_torchscript(path)
    for read in (torchscript.load, torchscript.documents):
        with pytest.raises(UnreadableFile, match=r"model\.ts"):
            read(path)
