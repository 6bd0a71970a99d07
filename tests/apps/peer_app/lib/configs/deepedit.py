import os
from typing import Any, Dict, Optional, Union

import lib.infers
from monai.networks.nets import UNet
from monailabel.interfaces.config import TaskConfig
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.interfaces.tasks.train import TrainTask


class DeepEdit(TaskConfig):
    def init(self, name: str, model_dir: str, conf: Dict[str, str], planner: Any, **kwargs):
        super().init(name, model_dir, conf, planner, **kwargs)
        self.labels = {"organ": 1, "left kidney": 2, "background": 0}
        self.path = [os.path.join(self.model_dir, f"{name}.pt")]
        self.spatial_size = (32, 32, 32)
        self.network = UNet(
            spatial_dims=3,
            in_channels=len(self.labels) + 1,
            out_channels=len(self.labels),
            channels=(4, 8),
            strides=(2,),
        )

    def infer(self) -> Union[InferTask, Dict[str, InferTask]]:
        return {
            self.name: lib.infers.DeepEdit(
                path=self.path, network=self.network, labels=self.labels, spatial_size=self.spatial_size
            ),
            f"{self.name}_seg": lib.infers.DeepEdit(
                path=self.path,
                network=self.network,
                labels=self.labels,
                spatial_size=self.spatial_size,
                type=InferType.SEGMENTATION,
            ),
        }

    def trainer(self) -> Optional[TrainTask]:
        return None
