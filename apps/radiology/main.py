"""Segmentation of organs in CT or other 3-D images, with labels, network, spacing and patch chosen by ``--conf``."""

from __future__ import annotations

from pathlib import Path

from lib.configuration import Configuration
from lib.interactive import infer_tasks, trainers
from lib.segmentation import NAME, Segmentation

from labelserver import InferTask, LabelApp, ScoringMethod, Strategy, TrainTask
from labelserver.tasks.intensity_scoring import IntensityScoring
from labelserver.tasks.label_quality import LabelQuality
from labelserver.tasks.planned import learning_strategies
from labelserver.tasks.scoring import Dice, Sum
from labelserver.tasks.strategies import First, HighestScore, Last, Random


class RadiologyApp(LabelApp):
    """See README.md for all options."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.options = Configuration.parse(conf)
        self.model_dir = Path(app_dir) / "model"
        self.segmentation = Segmentation(self.model_dir, self.options)
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="Radiology",
            description="Segmentation of 3-D radiological images",
            labels=list(self.options.labels),
        )

    def init_infers(self) -> dict[str, InferTask]:
        own: dict[str, InferTask] = {NAME: self.segmentation.infer()} if NAME in self.options.models else {}
        return {**own, **infer_tasks(self.model_dir, self.options)}

    def init_trainers(self) -> dict[str, TrainTask]:
        if self.options.skip_trainers:
            return {}
        own: dict[str, TrainTask] = {NAME: self.segmentation.trainer()} if NAME in self.options.models else {}
        return {**own, **trainers(self.model_dir, self.options)}

    def init_strategies(self) -> dict[str, Strategy]:
        found: dict[str, Strategy] = {"random": Random(), "first": First(), "last": Last()}
        if not self.options.skip_strategies:
            found |= {"epistemic": HighestScore(key="epistemic_entropy"), **learning_strategies()}
        return found

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        if self.options.skip_scoring:
            return {}
        with_model = NAME in self.options.models
        own: dict[str, ScoringMethod] = {f"{NAME}_epistemic": self.segmentation.scoring()} if with_model else {}
        quality = LabelQuality(self.segmentation.infer(), NAME) if with_model else LabelQuality()
        return {"intensity": IntensityScoring(), **own, "quality": quality, "dice": Dice(), "sum": Sum()}
