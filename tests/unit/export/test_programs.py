"""``.pt2`` and ONNX give the scores of the network for any size, or a file says why there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from labelserver.export.programs import ONNX, PT2, run_onnx, run_pt2, write_programs
from tests.unit.export.export_helpers import network


def test_both_programs_give_the_networks_scores_for_other_sizes(tmp_path: Path) -> None:
    made = network().eval()
    written = write_programs(made, torch.rand(1, 1, 16, 16, 16), 2, tmp_path)
    assert [(program.name, program.reason) for program in written] == [(PT2, ""), (ONNX, "")]
    other = torch.rand(2, 1, 8, 20, 12)
    with torch.no_grad():
        expected = made(other)
    for run, name in ((run_pt2, PT2), (run_onnx, ONNX)):
        assert torch.allclose(run(tmp_path / name, other), expected, atol=1e-4)


class ByTheNumbers(nn.Module):
    """Looks at values, which no program without Python can follow."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs * 2 if float(inputs.sum()) > 0 else inputs


@pytest.mark.filterwarnings("ignore")
def test_a_network_that_does_not_allow_it_leaves_the_reason(tmp_path: Path) -> None:
    written = write_programs(ByTheNumbers(), torch.rand(1, 1, 8, 8), 1, tmp_path)
    assert all(program.reason for program in written)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{ONNX}.txt", f"{PT2}.txt"]
    assert "ByTheNumbers does not allow it" in (tmp_path / f"{PT2}.txt").read_text()


def test_without_its_packages_onnx_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    written = {p.name: p for p in write_programs(network().eval(), torch.rand(1, 1, 16, 16, 16), 2, tmp_path)}
    assert not written[PT2].reason
    assert "pip install 'labelserver[export]'" in written[ONNX].reason
    assert "pip install 'labelserver[export]'" in (tmp_path / f"{ONNX}.txt").read_text()
