"""Training of MONAI bundles: the names apps import. Running a bundle's own ``train.json`` is not there yet.

A bundle is code (its configuration holds expressions), so it needs the trust rules that come with bundle import. Until
then an app that only imports these names, or subclasses the task, loads; one that makes such a task is told so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labelserver.contracts.datastore import Datastore
from labelserver.domain.errors import NotThereYet
from labelserver.tasks.base import TrainTask


class BundleConstants:
    """Names of files and configuration keys inside a bundle; override a method for a bundle that differs."""

    def configs(self) -> list[str]:
        return ["train.json", "train.yaml"]

    def multi_gpu_configs(self) -> list[str]:
        return ["multi_gpu_train.json", "multi_gpu_train.yaml"]

    def metadata_json(self) -> str:
        return "metadata.json"

    def model_pytorch(self) -> str:
        return "model.pt"

    def key_device(self) -> str:
        return "device"

    def key_bundle_root(self) -> str:
        return "bundle_root"

    def key_network(self) -> str:
        return "network"

    def key_network_def(self) -> str:
        return "network_def"

    def key_train_trainer_max_epochs(self) -> str:
        return "train#trainer#max_epochs"

    def key_train_dataset_data(self) -> str:
        return "train#dataset#data"

    def key_train_handlers(self) -> str:
        return "train#handlers"

    def key_validate_dataset_data(self) -> str:
        return "validate#dataset#data"

    def key_tracking(self) -> str:
        return "tracking"

    def key_tracking_uri(self) -> str:
        return "tracking_uri"

    def key_experiment_name(self) -> str:
        return "experiment_name"

    def key_run_name(self) -> str:
        return "run_name"

    def key_displayable_configs(self) -> str:
        return "displayable_configs"


class BundleTrainTask(TrainTask):
    """Training of a MONAI bundle"""

    def __init__(
        self,
        path: str,
        conf: Mapping[str, str],
        const: BundleConstants | None = None,
        enable_tracking: bool = False,
        model_dict_key: str = "model",
        load_strict: bool = False,
    ) -> None:
        """Refuse, with advice.

        Raises:
            NotThereYet: always.
        """
        super().__init__()
        raise NotThereYet(
            f"Training the MONAI bundle {path} is not there yet. Leave it out (--conf skip_trainers true), or subclass "
            "BasicTrainTask with the bundle's network, loss and transforms."
        )

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        raise NotThereYet("Training MONAI bundles is not there yet.")
