import os
from typing import Any, Dict, Optional, Union

import lib.infers
import lib.trainers
from monai.networks.nets import SegResNet
from monailabel.interfaces.config import TaskConfig
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.train import TrainTask


class Segmentation(TaskConfig):
    def init(self, name: str, model_dir: str, conf: Dict[str, str], planner: Any, **kwargs):
        super().init(name, model_dir, conf, planner, **kwargs)
        self.labels = {"organ": 1, "vessel": 2}
        self.path = [
            os.path.join(self.model_dir, f"pretrained_{name}.pt"),
            os.path.join(self.model_dir, f"{name}.pt"),
        ]
        self.target_spacing = (4.0, 4.0, 4.0)
        self.roi_size = (32, 32, 32)
        self.network = SegResNet(
            spatial_dims=3,
            in_channels=1,
            out_channels=len(self.labels) + 1,
            init_filters=8,
            blocks_down=(1, 1),
            blocks_up=(1,),
            dropout_prob=0.2,
        )

    def infer(self) -> Union[InferTask, Dict[str, InferTask]]:
        return lib.infers.Segmentation(
            path=self.path,
            network=self.network,
            roi_size=self.roi_size,
            target_spacing=self.target_spacing,
            labels=self.labels,
            preload=False,
            config={"largest_cc": False},
        )

    def trainer(self) -> Optional[TrainTask]:
        return lib.trainers.Segmentation(
            model_dir=os.path.join(self.model_dir, self.name),
            network=self.network,
            load_path=self.path[0],
            publish_path=self.path[1],
            roi_size=self.roi_size,
            target_spacing=self.target_spacing,
            labels=self.labels,
        )
