"""The learner of a simulation that is an app's own train task: each round it trains anew from the app's start.

A round gets a copy of the app without its versions, and a studies folder that holds only the labels so far; so nothing
of one round reaches the next. What is measured is what the app's infer task answers with the weights just trained.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelserver.app.label_app import LabelApp
from labelserver.app.loading import load_app
from labelserver.domain.errors import TaskFailed
from labelserver.imaging.formats import split_ext
from labelserver.imaging.volumes import read_volume
from labelserver.learning.simulation import Case, Trained
from labelserver.learning.uncertainty import ImageScores, gather, scores_of
from labelserver.tasks.pool_looks import class_probabilities
from labelserver.tasks.scoring import dice_per_label

_NOT_COPIED = shutil.ignore_patterns("versions", "jobs", "logs", "marks", "__pycache__", "*.jsonl", ".lock")


class AppLearner:
    """Trains `model` of the app in folder `app` on files of `studies` and `labels`."""

    def __init__(
        self,
        app: Path,
        model: str,
        studies: Path,
        labels: Path,
        conf: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        """`params` go to each training: ``max_epochs``, ``learning_rate`` and so on."""
        self._app, self._model = app, model
        self._files = {split_ext(p.relative_to(labels).as_posix())[0]: p.relative_to(labels) for p in labels.rglob("*")}
        self._studies, self._labels = studies, labels
        self._conf, self._params = dict(conf or {}), dict(params or {})

    def train(self, cases: Sequence[Case], seed: int, round_number: int) -> Trained:
        """Raises `TaskFailed` if the app has no such model, or the training leaves no weights."""
        home = Path(tempfile.mkdtemp(prefix="labelserver-simulation-"))
        try:
            return self._train_in(home, cases, 1000 * seed + round_number)
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise

    def _train_in(self, home: Path, cases: Sequence[Case], seed: int) -> Trained:
        shutil.copytree(self._app, home / "app", ignore=_NOT_COPIED)
        for case in cases:
            relative = self._files[case.name]
            for source, target in (
                (self._studies / relative, home / "studies" / relative),
                (self._labels / relative, home / "studies" / "labels" / "final" / relative),
            ):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(source.absolute())
        app = load_app(home / "app", str(home / "studies"), self._conf)
        if self._model not in app.tasks()["trainers"] or self._model not in app.tasks()["models"]:
            raise TaskFailed(f"The app has no model {self._model!r} with a trainer of the same name.")
        asked = {"val_split": 0, "seed": seed, **self._params, "model": self._model}
        app.train(asked)
        return _TrainedApp(app, self._model, self._studies, self._files, home)


class _TrainedApp:
    """The app after a training; its folder lives as long as it does."""

    def __init__(
        self,
        app: LabelApp,
        model: str,
        studies: Path,
        files: Mapping[str, Path],
        home: Path,
    ) -> None:
        self._task, self._studies, self._files = app.tasks()["models"][model], studies, files
        weakref.finalize(self, shutil.rmtree, home, ignore_errors=True)
        if not self._task.get_path():
            raise TaskFailed(f"The training of {model!r} left no weights behind.")

    def dice(self, case: Case) -> dict[int, float]:
        found, _ = self._task({"image": self._image(case), "result_extension": ".nii.gz"})
        try:
            return dice_per_label(case.label, self._voxels(found))
        finally:
            Path(found).unlink(missing_ok=True)

    def scores(self, case: Case) -> ImageScores:
        _, data = self._task({"image": self._image(case), "skip_writer": True})
        return scores_of(gather([class_probabilities(data["pred"])]))

    def _image(self, case: Case) -> str:
        return str((self._studies / self._files[case.name]).absolute())

    def _voxels(self, found: Any) -> NDArray[Any]:
        return np.asarray(read_volume(Path(found)).voxels)
