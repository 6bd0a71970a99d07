"""What one training run knows about itself, filled in step by step and handed to every hook."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labelserver.domain.json_types import JsonObject
from labelserver.domain.labels import Revision
from labelserver.domain.models import OutputLabel
from labelserver.domain.splits import ImageSide

#: One case as transforms receive it: ``{"image": path, "label": path, ...}``, free keys by the app.
Case = dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadCase:
    """A case that was left out of a training, and why (a sentence)."""

    image: str
    reason: str

    def to_json(self) -> JsonObject:
        return {"image": self.image, "reason": self.reason}


@dataclass
class Context:
    """The state of a run. Filled in the order request, data, network, optimizer, evaluator, trainer.

    So `evaluator` is ready when `train_handlers` is called, and everything when `finalize` is.
    """

    start_ts: float = 0.0  #: Unix seconds
    run_id: str = ""  #: local time as YYYYMMDD_HHMMSS
    request: dict[str, Any] = field(default_factory=dict)  #: the task's config, overridden by what was asked

    output_dir: str = ""  #: ``<model_dir>/<name>``
    cache_dir: str = ""  #: removed after the run
    events_dir: str = ""  #: for TensorBoard

    datalist: list[Case] = field(default_factory=list)
    train_datalist: list[Case] = field(default_factory=list)
    val_datalist: list[Case] = field(default_factory=list)
    train_batch_size: int = 1
    val_batch_size: int = 1
    dataset_type: str = "CacheDataset"
    dataloader_type: str = "DataLoader"

    pretrained: bool = True
    max_epochs: int = 1
    multi_gpu: bool = False
    local_rank: int = 0
    world_size: int = 1

    device: Any = None  #: torch.device
    network: Any = None
    optimizer: Any = None
    trainer: Any = None  #: monai.engines.SupervisedTrainer
    evaluator: Any = None  #: monai.engines.SupervisedEvaluator; None without validation cases

    tracking: str | None = None
    tracking_uri: str | None = None
    tracking_experiment_name: str | None = None
    tracking_run_name: str | None = None

    seed: int = 0  #: asked for, or drawn; every random number of the run follows from it
    split_key: bytes = b""  #: of the project; decides with an image's id whether it is held out
    early_stopping: Any = None  #: ignite's EarlyStopping, if asked for
    sides: dict[str, ImageSide] = field(default_factory=dict)  #: image id -> its fixed side, if the store has one
    revisions: dict[str, Revision] = field(default_factory=dict)  #: image id -> the label that is trained on
    outputs: tuple[OutputLabel, ...] = ()  #: what the network's channels stand for; () if the trainer does not say
    cache_home: str = ""  #: where prepared cases may be kept for the next run; "": nowhere
    memory_left_bytes: int | None = None  #: for prepared cases; None: not asked for yet
    label_values: dict[str, int] = field(default_factory=dict)  #: the project's schema: name -> value in label files
    image_ids: dict[str, str] = field(default_factory=dict)  #: image path -> image id
    bad_cases: list[BadCase] = field(default_factory=list)

    def image_id_of(self, case: Case) -> str:
        """The datastore's id of a case's image; its file name if an app made the case itself."""
        image = str(case.get("image", ""))
        return self.image_ids.get(image) or Path(image).name or image
