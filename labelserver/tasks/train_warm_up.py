"""What only the first step of a training loads: done on a toy network, while a warm process waits for its job."""

from __future__ import annotations

import torch
from monai.engines import SupervisedTrainer
from monai.losses import DiceCELoss

from labelserver.tasks import segmentation_train, train  # noqa: F401 - an app may not have loaded them yet


def first_step() -> None:
    """One step of MONAI's trainer on eight voxels."""
    network = torch.nn.Conv3d(1, 2, 1)
    case = {"image": torch.zeros(1, 1, 2, 2, 2), "label": torch.zeros(1, 1, 2, 2, 2)}
    SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[case],
        network=network,
        optimizer=torch.optim.Adam(network.parameters()),
        loss_function=DiceCELoss(to_onehot_y=True, softmax=True),
    ).run()
