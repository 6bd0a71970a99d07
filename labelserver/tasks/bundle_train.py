"""Training of a MONAI bundle: its own ``train.json`` says how; we bring the cases, watch it, and keep the result.

A bundle is code, so only one that was imported and is unchanged is run (see `bundle_trust`); its ``logging.conf`` is
never read. Its weights do not go over the file that inference reads: they become a candidate version, and the server
decides. What apps override has the names they know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from labelserver.contracts.datastore import Datastore
from labelserver.domain.errors import InvalidParams, LabelNotFound, NotThereYet
from labelserver.domain.splits import held_out
from labelserver.tasks import bundle_trust
from labelserver.tasks import train_request as asked
from labelserver.tasks.base import TrainTask
from labelserver.tasks.bundle_run import BundleRun
from labelserver.tasks.devices import device_list, name_to_device
from labelserver.tasks.train_context import Case
from labelserver.tasks.train_run import split_key_of

#: the value of ``val_split`` with which the bundle's own list of held-out cases stays
OWN_SPLIT = -1


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

    def key_checkpoint_folder(self) -> str:
        """Where the bundle's own savers write; it is led away from the weights in use."""
        return "ckpt_dir"


class BundleTrainTask(TrainTask):
    """Training of a MONAI bundle"""

    #: see `BasicTrainTask`
    lineage: str = ""

    def __init__(
        self,
        path: str | Path,
        conf: Mapping[str, str],
        const: BundleConstants | None = None,
        enable_tracking: bool = False,
        model_dict_key: str = "model",
        load_strict: bool = False,
    ) -> None:
        """Read the bundle's training configuration. Without one the task is whole, and not valid.

        Args:
            path: the bundle's folder.
            conf: of the app.
            const: names of the bundle's parts.
            enable_tracking: let requests switch MLflow on.
            model_dict_key: where a checkpoint keeps the network's state.
            load_strict: refuse weights that fit only in part.

        Raises:
            AppLoadFailed: the bundle was never imported, or its code has changed since.
        """
        self.const = const or BundleConstants()
        self.conf = dict(conf)
        self.enable_tracking = enable_tracking
        self.model_dict_key = model_dict_key
        self.load_strict = load_strict
        folder = Path(path)
        self.bundle_path = str(folder)
        self.bundle_config_path = _first_file(folder, self.const.configs())
        self.bundle_metadata_path = str(folder / "configs" / self.const.metadata_json())
        self.valid = bool(self.bundle_config_path)
        if self.valid:
            bundle_trust.ensure_trusted(folder)
        self.bundle_config: dict[str, Any] = (
            dict(ConfigParser.load_config_file(self.bundle_config_path)) if self.valid else {}
        )
        about = Path(self.bundle_metadata_path)
        metadata = dict(ConfigParser.load_config_file(about)) if self.valid and about.is_file() else {}
        self.version = str(metadata.get("version", ""))
        self.displayable_configs: dict[str, Any] = dict(
            self.bundle_config.get(self.const.key_displayable_configs()) or {}
        )
        self._publish_path = str(folder / "models" / self.const.model_pytorch())
        self._split_key = b""
        self._image_ids: dict[str, str] = {}  #: image path -> image id, of the run
        super().__init__(str(metadata.get("description", "")))

    def is_valid(self) -> bool:
        return self.valid

    def info(self) -> dict[str, Any]:
        return {**super().info(), "version": self.version}

    def config(self) -> dict[str, Any]:
        names = sorted(path.name for path in (Path(self.bundle_path) / "models").glob("*.pt"))
        first = self.const.model_pytorch()
        found: dict[str, Any] = {
            "device": device_list(),
            "pretrained": True,
            "max_epochs": 50,
            "val_split": 0.2,
            "run_id": "run",
            "model_filename": sorted(names, key=lambda name: name != first) or [first],
            **self.displayable_configs,
        }
        if self.enable_tracking:
            found |= {"tracking": ["None", "mlflow"], "tracking_uri": "", "tracking_experiment_name": ""}
        return found

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train on the datastore's accepted labels.

        Returns:
            ``model_version``, the metrics that the version reached, and those of the one in use before it.

        Raises:
            LabelNotFound: nothing to train on.
            NotThereYet: several devices are asked for.
            InvalidParams: a request that makes no sense.
            TaskFailed: the bundle's own code failed.
        """
        asked_for = {**{name: _first_choice(value) for name, value in self.config().items()}, **request}
        cases = self._fetch_datalist(asked_for, datastore)
        if not cases:
            raise LabelNotFound("No image has an accepted label. Label an image first.", reason="no_data")
        self._image_ids = {datastore.get_image_uri(i): i for i in datastore.get_labeled_images()}
        self._split_key = split_key_of(datastore)
        train, val = self._partition_datalist(cases, asked_for)
        overrides = self._overrides(asked_for, train, val)
        self._update_overrides(overrides)
        if asked.truth(asked_for, "force_multi_gpu", False):
            raise NotThereYet("A bundle is trained on one device. Leave force_multi_gpu out.")
        return dict(self.run_single_gpu(asked_for, overrides) or {})

    # What apps override.

    def _fetch_datalist(self, request: dict[str, Any], datastore: Datastore) -> list[Case]:
        """The labeled images: ``{"image": path, "label": path}`` each."""
        return [{"image": case["image"], "label": case["label"]} for case in datastore.datalist()]

    def _partition_datalist(
        self, datalist: list[Case], request: dict[str, Any], shuffle: bool = False
    ) -> tuple[list[Case], list[Case] | None]:
        """Cases to train on and cases held out, by each image's id; None leaves the bundle's own held-out list."""
        share = request.get("val_split", 0.2)
        if share in (OWN_SPLIT, str(OWN_SPLIT)):
            return datalist, None
        names = [self._image_ids.get(str(case["image"]), str(case["image"])) for case in datalist]
        chosen = held_out(names, asked.share(request, "val_split", 0.2), self._split_key)
        train = [case for case, name in zip(datalist, names, strict=True) if name not in chosen]
        return train, [case for case, name in zip(datalist, names, strict=True) if name in chosen]

    def _load_checkpoint(self, model_pytorch: str, pretrained: bool, train_handlers: Sequence[Any]) -> Any:
        """A handler that loads `model_pytorch` at the start, unless the bundle has one or nothing is to be loaded."""
        has_one = any(isinstance(h, Mapping) and h.get("_target_") == "CheckpointLoader" for h in train_handlers)
        if not pretrained or has_one or not Path(model_pytorch).is_file():
            return None
        return {
            "_target_": "CheckpointLoader",
            "load_path": model_pytorch,
            "load_dict": {self.model_dict_key: f"@{self.const.key_network()}"},
            "strict": self.load_strict,
            "map_location": f"@{self.const.key_device()}",
        }

    def _update_overrides(self, overrides: dict[str, Any]) -> dict[str, Any]:
        """A last look at what is put over the bundle's configuration."""
        return overrides

    def run_single_gpu(self, request: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
        """Train in this process."""
        return BundleRun(self, request, overrides).train()

    # What is put over the configuration.

    def _overrides(self, request: Mapping[str, Any], train: list[Case], val: list[Case] | None) -> dict[str, Any]:
        const = self.const
        overrides: dict[str, Any] = {
            const.key_bundle_root(): self.bundle_path,
            const.key_train_trainer_max_epochs(): asked.whole_number(request, "max_epochs", 50, least=1),
            const.key_train_dataset_data(): train,
            const.key_device(): f"$torch.device('{name_to_device(request.get('device'))}')",
        }
        if val is not None:
            overrides[const.key_validate_dataset_data()] = val
        handlers = deepcopy(self._configured(const.key_train_handlers()) or [])
        loader = self._load_checkpoint(str(self._weights(request)), asked.truth(request, "pretrained", True), handlers)
        if loader is not None:
            overrides[const.key_train_handlers()] = [loader, *handlers]
        if self.displayable_configs:
            overrides[const.key_displayable_configs()] = {
                name: request.get(name, _first_choice(value)) for name, value in self.displayable_configs.items()
            }
        if self.enable_tracking and str(request.get("tracking", "None")) == "mlflow":
            overrides |= {
                const.key_tracking(): "mlflow",
                const.key_tracking_uri(): str(request.get("tracking_uri", "")),
                const.key_experiment_name(): str(request.get("tracking_experiment_name", "")),
            }
        return overrides

    def _weights(self, request: Mapping[str, Any]) -> Path:
        name = str(request.get("model_filename") or self.const.model_pytorch())
        if "/" in name or "\\" in name or name.startswith("."):
            raise InvalidParams("model_filename must be the name of a file in the bundle's models folder.")
        return Path(self.bundle_path) / "models" / name

    def _configured(self, key: str) -> Any:
        """What the configuration has at ``a#b#c``."""
        value: Any = self.bundle_config
        for part in key.split("#"):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value


def _first_file(folder: Path, names: Sequence[str]) -> str:
    return next((str(path) for name in names if (path := folder / "configs" / name).is_file()), "")


def _first_choice(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value
