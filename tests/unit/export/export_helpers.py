"""Small tasks of several kinds, and what a receiver of an export would do with it, in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.networks.nets import UNet
from torch import nn

from labelserver.export import standalone
from labelserver.export.contents import ExportContents
from labelserver.export.preparing import ExportSource, Prepared, prepare
from labelserver.export.recording import Recording, recorded
from labelserver.export.selftest import label_map
from labelserver.tasks.infer import BasicInferTask


def network(channels: int = 1, outputs: int = 3, dims: int = 3) -> nn.Module:
    """Untrained, with scores that differ from voxel to voxel."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = UNet(dims, channels, outputs, (4, 8), (2,))
        for parameter in made.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return made


def weights(made: nn.Module, folder: Path) -> Path:
    """Saved as a trainer does."""
    path = folder / "weights.pt"
    torch.save(made.state_dict(), path)
    return path


def prepared(
    build: Callable[[Path], Any], folder: Path, app_dir: Path | None = None, **options: Any
) -> tuple[Prepared, BasicInferTask]:
    """Build a task as an app does while it is loaded, and prepare its export below `folder`."""
    recording = Recording()
    with recorded(recording):
        task = build(folder)
    source = ExportSource(app_dir or folder, "Test app", "model", task, recording, **options)
    return prepare(source, folder / "model"), task


@contextmanager
def forgetting_scripts() -> Iterator[None]:
    """As a new process would begin: without the package of another export."""
    path = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = path
        for name in [n for n in sys.modules if n == "scripts" or n.startswith("scripts.")]:
            del sys.modules[name]


def answer(contents: ExportContents, *, scripts: bool = True) -> dict[str, Any]:
    with forgetting_scripts():
        return standalone.answer(contents.folder, contents.selftest_input, scripts=scripts)


def differing(contents: ExportContents, *, scripts: bool = True) -> int:
    """Voxels in which the export and the server's answer differ."""
    found = answer(contents, scripts=scripts)["labels"]
    expected = label_map(contents.selftest_expected)
    assert found.shape == expected.shape
    return int(np.count_nonzero(found != expected))


def several_labels(contents: ExportContents) -> bool:
    """Whether the case can tell a right answer from a constant one."""
    return len(np.unique(label_map(contents.selftest_expected))) > 1
