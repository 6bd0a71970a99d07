"""An app as one would write it for MONAI Label, with its import paths: nothing here knows labelserver."""

import logging
import os
from typing import Dict

import lib.configs
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.config import TaskConfig
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.scribbles.infer import GMMBasedGraphCut, HistogramBasedGraphCut
from monailabel.sam2.utils import is_sam2_module_available
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random
from monailabel.tasks.scoring.dice import Dice
from monailabel.utils.others.class_utils import get_class_names
from monailabel.utils.others.generic import strtobool

import monailabel

logger = logging.getLogger(__name__)


class MyApp(MONAILabelApp):
    def __init__(self, app_dir, studies, conf):
        self.model_dir = os.path.join(app_dir, "model")
        configs = {}
        for c in get_class_names(lib.configs, "TaskConfig"):
            name = c.split(".")[-2].lower()
            configs[name] = c
        models = conf.get("models", "all")
        models = list(configs) if models == "all" else [m.strip() for m in models.split(",")]
        self.models: Dict[str, TaskConfig] = {}
        for n in models:
            from monailabel.utils.others.class_utils import init_class

            self.models[n] = init_class(configs[n])
            self.models[n].init(n, self.model_dir, conf, None)
        self.zoo = settings.MONAI_ZOO_SOURCE
        self.scribbles = strtobool(conf.get("scribbles", "false"))
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name=f"Peer style ({monailabel.__version__})",
            description="DeepLearning models",
            version=monailabel.__version__,
        )

    def init_datastore(self) -> Datastore:
        return super().init_datastore()

    def init_infers(self) -> Dict[str, InferTask]:
        infers: Dict[str, InferTask] = {}
        for n, task_config in self.models.items():
            c = task_config.infer()
            c = c if isinstance(c, dict) else {n: c}
            for k, v in c.items():
                infers[k] = v
        if self.scribbles:
            infers["Histogram+GraphCut"] = HistogramBasedGraphCut(intensity_range=(-300, 200, 0.0, 1.0, True))
            infers["GMM+GraphCut"] = GMMBasedGraphCut(intensity_range=(-300, 200, 0.0, 1.0, True))
        if is_sam2_module_available():
            raise RuntimeError("not expected here")
        return infers

    def init_trainers(self) -> Dict[str, TrainTask]:
        trainers: Dict[str, TrainTask] = {}
        if strtobool(self.conf.get("skip_trainers", "false")):
            return trainers
        for n, task_config in self.models.items():
            t = task_config.trainer()
            if t:
                trainers[n] = t
        return trainers

    def init_strategies(self) -> Dict[str, Strategy]:
        return {"random": Random(), "first": First()}

    def init_scoring_methods(self) -> Dict[str, ScoringMethod]:
        return {"dice": Dice()}
