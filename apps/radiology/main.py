"""Segmentation of organs in CT or other 3-D images, with labels, network, spacing and patch chosen by ``--conf``."""

from __future__ import annotations

from pathlib import Path

from lib.configuration import Configuration
from lib.segmentation import NAME, Segmentation

from labelserver import InferTask, LabelApp, ScoringMethod, Strategy, TrainTask
from labelserver.tasks.scoring import Dice, Sum
from labelserver.tasks.strategies import First, HighestScore, Last, Random


class RadiologyApp(LabelApp):
    """See README.md for all options."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.options = Configuration.parse(conf)
        self.segmentation = Segmentation(Path(app_dir) / "model", self.options)
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="Radiology",
            description="Segmentation of 3-D radiological images",
            labels=list(self.options.labels),
        )

    def init_infers(self) -> dict[str, InferTask]:
        return {NAME: self.segmentation.infer()}

    def init_trainers(self) -> dict[str, TrainTask]:
        return {} if self.options.skip_trainers else {NAME: self.segmentation.trainer()}

    def init_strategies(self) -> dict[str, Strategy]:
        found: dict[str, Strategy] = {"random": Random(), "first": First(), "last": Last()}
        if not self.options.skip_strategies:
            found["epistemic"] = HighestScore(key="epistemic_entropy")
        return found

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        if self.options.skip_scoring:
            return {}
        return {"dice": Dice(), "sum": Sum(), f"{NAME}_epistemic": self.segmentation.scoring()}
