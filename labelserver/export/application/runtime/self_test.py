"""``--self-test``: the case that was exported with the model, answered here and compared voxel for voxel."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from labelserver.domain.errors import AppFailed
from labelserver.export.application.runtime.about import About
from labelserver.export.application.runtime.predicting import Predictor
from labelserver.export.application.runtime.studies import NiftiInput

#: voxels of 100 000 that another machine may answer otherwise, where two scores are equal up to rounding
ALLOWED = 1

logger = logging.getLogger(__name__)


def self_test(about: About, predictor: Callable[[], Predictor], folder: Path) -> bool:
    """Whether the answer equals the server's. Says how many voxels differ.

    Raises:
        AppFailed: there is no self-test case.
    """
    try:
        case = next(path for path in sorted(folder.iterdir()) if path.name.startswith("input."))
        expected = next(path for path in sorted(folder.iterdir()) if path.name.startswith("expected."))
        settings: dict[str, Any] = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    except (OSError, StopIteration, ValueError) as error:
        raise AppFailed("The application holds no self-test case.") from error
    model = predictor()
    if model.device == "cpu":
        import torch

        torch.set_num_threads(int(settings["threads"]))
    labels = model.labels_of(NiftiInput(case).volume())
    wanted = NiftiInput(expected).volume().voxels
    differing = int(np.count_nonzero(labels != wanted))
    logger.info("%s: %d of %d voxels differ from the server's answer", about.name, differing, wanted.size)
    return differing * 100_000 <= ALLOWED * wanted.size
