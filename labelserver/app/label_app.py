"""The class an app author subclasses: hooks say what the app offers, operations run it.

The hooks run inside ``LabelApp.__init__`` in the order datastore, infers, trainers, strategies, scoring methods, batch;
an app sets its own attributes before it calls ``super().__init__``. Everything works in one process without a server,
too. Torch-free: importing this module loads neither torch nor MONAI.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

from labelserver import settings as settings_module
from labelserver.app.image_files import opened_image, unreadable
from labelserver.app.job_requests import JobSubmitter, over_http
from labelserver.app.lineages import lineage_of_infer, link_models
from labelserver.app.scoring_run import run_all
from labelserver.app.self_description import app_info
from labelserver.contracts.datastore import Datastore, DefaultLabelTag
from labelserver.contracts.model_store import WeightsInUse, answering_with
from labelserver.contracts.work import OfferingStore
from labelserver.datastore.local import LocalDatastore
from labelserver.datastore.uploads import UploadStore
from labelserver.domain.errors import ImageNotFound, InvalidParams, NotThereYet, Refused, TaskNotFound
from labelserver.domain.ids import parse_tag
from labelserver.domain.jobs import ALL_METHODS, JobKind
from labelserver.model_store.local import LocalModelStore
from labelserver.settings import Settings
from labelserver.storage.checksums import sha256_of
from labelserver.tasks.base import InferTask, Labels, ScoringMethod, Strategy, TrainTask
from labelserver.tasks.batch_infer import BatchInferTask
from labelserver.tasks.image_places import cache_home_of, kept_as
from labelserver.tasks.planned import Planned
from labelserver.tasks.strategies import Random, choose_next

logger = logging.getLogger(__name__)

#: What answers as a version where no published weights took part: an algorithm, or a network of the app's own making.
UNVERSIONED = "unversioned"

_Task = TypeVar("_Task")

#: whole-slide formats, which are tiled instead of being read at once
SLIDE_EXTENSIONS = (".bif", ".mrxs", ".ndpi", ".scn", ".svs", ".svslide", ".tif", ".tiff", ".vms", ".vmu")


class LabelApp:
    """Subclass, override the ``init_*`` hooks you need, and put the class into the app folder's ``main.py``."""

    #: where the peer publishes pretrained weights; apps join file names to it
    PRE_TRAINED_PATH = "https://github.com/Project-MONAI/MONAILabel/releases/download/data"

    def __init__(
        self,
        app_dir: str | Path,
        studies: str | Path,
        conf: Mapping[str, str] | None = None,
        name: str = "",
        description: str = "",
        version: str = "2.0",
        labels: Labels | None = None,
    ) -> None:
        """Run the hooks.

        Args:
            app_dir: the app's folder.
            studies: the folder with the images.
            conf: what ``--conf KEY VALUE`` said; all values are text.
            name: shown to people.
            description: shown to people.
            version: of the app.
            labels: names in order, or name -> value; empty: those of the models.
        """
        self.app_dir = str(app_dir)
        self.studies = str(studies)
        self.conf: dict[str, str] = dict(conf or {})
        self.name = name
        self.description = description
        self.version = version
        self.labels: Labels = labels or []
        if not hasattr(self, "model_dir"):
            self.model_dir = str(Path(self.app_dir) / "model")
        self._settings: Settings = settings_module.current()
        self._server_mode = str(self.conf.get("server_mode", "false")).lower() in ("true", "1", "yes", "on")
        self._auto_update_scoring = self._settings.auto_update_scoring
        self._submit_job: JobSubmitter | None = None
        self._sessions: UploadStore | None = None

        self._datastore: Datastore = self.init_datastore()
        self._infers: dict[str, InferTask] = dict(self.init_infers() or {})
        gates = self._settings
        self._trainers: dict[str, TrainTask] = dict(self.init_trainers() or {}) if gates.tasks_train else {}
        self._strategies: dict[str, Strategy] = dict(self.init_strategies() or {}) if gates.tasks_strategy else {}
        if gates.tasks_strategy:
            self._strategies.setdefault("random", Random())  # clients ask for this one by name
        scoring = dict(self.init_scoring_methods() or {}) if gates.tasks_scoring else {}
        self._scoring_methods: dict[str, ScoringMethod] = scoring
        self._batch_infer: Any = self.init_batch_infer() if gates.tasks_batch_infer else None
        self._lineages = link_models(self._infers, self._trainers)
        self._version_files: dict[tuple[str, int], tuple[Path | None, Path]] = {}

    # What an app overrides.

    def init_datastore(self) -> Datastore:
        """The store of images and labels; default the local folder `studies`."""
        if self.studies.startswith(("http://", "https://")):
            return self.init_remote_datastore()
        settings = self._settings
        home = settings.labels_dir or Path(self.studies)
        return LocalDatastore(
            self.studies,
            extensions=tuple(settings.datastore_file_ext),
            auto_reload=settings.datastore_auto_reload,
            read_only=settings.datastore_read_only,
            state_dir=home / ".labelserver",
            index_dir=settings.index_dir,
            held_out_share=settings.held_out_share,
            patient_pattern=settings.patient_pattern,
        )

    def init_remote_datastore(self) -> Datastore:
        """The store behind an address; override it to bring your own."""
        raise NotThereYet(f"Remote studies ({self.studies}) are not there yet; name a folder with --studies.")

    def init_infers(self) -> dict[str, InferTask]:
        """Name -> model. Names may hold spaces and signs."""
        return {}

    def init_trainers(self) -> dict[str, TrainTask]:
        """Name -> trainer."""
        return {}

    def init_strategies(self) -> dict[str, Strategy]:
        """Name -> way to choose the next image."""
        return {"random": Random()}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """Name -> way to write scores into image info."""
        return {}

    def init_batch_infer(self) -> Any:
        """What chooses the images of a batch and infers them."""
        return BatchInferTask()

    def on_init_complete(self) -> None:
        """Called once in a server, after the app is loaded. The server itself starts scoring and expires uploads."""
        logger.info("app is ready")

    def on_save_label(self, image_id: str, label_id: str) -> dict[str, Any] | None:
        """Called after a client saved a label. What it returns is merged into the reply."""
        logger.info("label saved", extra={"image_id": image_id, "label_id": label_id})
        return None

    # What a server or a script calls.

    def info(self) -> dict[str, Any]:
        """The ``/info/`` document."""
        return {
            **app_info(self.name, self.description, self.version, self.labels, self.tasks()),
            "train_stats": {name: task.stats() for name, task in self._trainers.items()},
            "datastore": self._datastore.status(),
        }

    def tasks(self) -> dict[str, Mapping[str, Any]]:
        """The registered tasks by kind: models, trainers, strategies, scoring."""
        return {
            "models": self._infers,
            "trainers": self._trainers,
            "strategies": self._strategies,
            "scoring": self._scoring_methods,
        }

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Run a model on one image.

        Args:
            request: ``model``; ``image``, an id, an absolute path or an array; ``save_label`` and ``label_tag``; and
                the task's own options.
            datastore: default the app's.

        Returns:
            ``file``: path of the answer, or None; ``array``: the answer where none was written; ``label``: the id
            of the saved label, else the file; ``tag``: under which it was saved, else ""; ``params``: the JSON answer;
            ``model_version``: number of the published version that answered, else ``unversioned``.

        Raises:
            TaskNotFound: no such model. ImageNotFound: no such image. UnreadableFile: the image is damaged.
        """
        store = datastore if datastore is not None else self._datastore
        model, task = _chosen(self._infers, request.get("model"), "model")
        built = {k: v if hasattr(v, "shape") else deepcopy(v) for k, v in request.items()}
        built["description"] = task.description
        image = built.get("image")
        image_id = image if isinstance(image, str) and not Path(image).is_absolute() else ""
        with opened_image(image, store) as opened:
            built["image"] = opened
            in_use = self._weights_in_use(model)
            try:
                with answering_with(in_use), kept_as(image_id, cache_home_of(store)):
                    result, params = task(built)
            except (ImageNotFound, Refused):
                raise
            except Exception as error:  # the app's code: ask whether the image itself is what it stumbled over
                damaged = unreadable(opened)
                if damaged is None:
                    raise
                raise damaged from error
        answer = _typed(result, params)
        answer["model_version"] = _version_of(in_use, task) or UNVERSIONED
        if image_id and answer["file"] and _is_true(request.get("save_label")):
            tag = parse_tag(str(request.get("label_tag") or DefaultLabelTag.ORIGINAL))
            label_info = {"model": model, "params": answer["params"]}
            answer.update(label=store.save_label(image_id, answer["file"], tag, label_info), tag=str(tag))
        return answer

    def infer_wsi(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """As `infer`; whole slides, which need tiling, are not there yet."""
        image = request.get("image")
        uri = (datastore or self._datastore).get_image_uri(image) if isinstance(image, str) else ""
        if str(uri or image).lower().endswith(SLIDE_EXTENSIONS):
            raise NotThereYet("Inference on whole slides is not there yet; send a region as PNG or JPEG to /infer/.")
        return self.infer(request, datastore)

    def batch_infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, dict[str, Any]]:
        """Run a model on many images (``images``: all, labeled, unlabeled or ids) and save each answer as a label."""
        _chosen(self._infers, request.get("model"), "model")
        if self._batch_infer is None:
            raise InvalidParams("Batch inference is switched off on this server (LABELSERVER_TASKS_BATCH_INFER).")
        result: dict[str, dict[str, Any]] = self._batch_infer(request, datastore or self._datastore, self.infer)
        return result

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run a trainer (``model``) and return its statistics."""
        _, task = _chosen(self._trainers, request.get("model"), "trainer")
        return task(deepcopy(request), self._datastore)

    def scoring(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any] | None:
        """Run a scoring method (``method``), or all of them (``*``), and return what it says."""
        if request.get("method") == ALL_METHODS:
            return run_all(self._scoring_methods, request, datastore if datastore is not None else self._datastore)
        _, task = _chosen(self._scoring_methods, request.get("method"), "scoring method")
        return task(deepcopy(request), datastore if datastore is not None else self._datastore)

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """The image to label next by ``strategy``; ``{}`` when nothing is left."""
        name, strategy = _chosen(self._strategies, request.get("strategy") or "random", "strategy")
        if isinstance(strategy, Planned):
            strategy.prepare(self._datastore)
        store = self._datastore
        person = request.get("client_id")
        offered = store.offered_to(str(person)) if person and isinstance(store, OfferingStore) else store
        return choose_next(name, strategy, request, offered)

    def datastore(self) -> Datastore:
        return self._datastore

    def sessions(self) -> UploadStore | None:
        """The uploads for one-off inference; None if they are switched off."""
        settings = self._settings
        if self._sessions is None and settings.sessions:
            folder = settings.session_path or Path(self.studies) / ".labelserver" / "uploads"
            self._sessions = UploadStore(Path(folder), settings.session_expiry, settings.max_upload_bytes)
        return self._sessions

    def cleanup_sessions(self) -> None:
        """Remove uploads that nobody used for long."""
        uploads = self.sessions()
        if uploads is not None:
            uploads.remove_expired()

    def server_mode(self, mode: bool) -> None:
        """Whether this app runs inside a server, which then schedules its jobs."""
        self._server_mode = mode

    def use_jobs(self, submit: JobSubmitter) -> None:
        """Send what the ``async_*`` methods ask for to `submit` instead of the server's HTTP door."""
        self._submit_job = submit

    def model_file(self, model: str, validate: bool = True) -> str | None:
        """The weight file that the model reads; None if there is none (or, without `validate`, none is named)."""
        _, task = _chosen(self._infers, model, "model")
        return task.get_path(validate)

    def model_info(self, model: str) -> dict[str, Any] | None:
        """``{"checksum": "SHA256:..", "modified_time": Unix s, "train_stats"}`` of the weights; None without any."""
        file = self.model_file(model)
        if not file or not Path(file).is_file():
            return None
        path = Path(file)
        document: dict[str, Any] = {
            "checksum": f"SHA256:{sha256_of(path)}",
            "modified_time": int(path.stat().st_mtime),
        }
        trainer = self._trainers.get(model)
        stats = trainer.stats() if trainer is not None else {}
        return {**document, "train_stats": stats} if stats else document

    def bundle_path(self, model: str) -> str | None:
        """The bundle's folder, if the trainer of this name trains a bundle."""
        path = getattr(self._trainers.get(model), "bundle_path", None)
        return str(path) if path else None

    def lineages(self) -> dict[str, str]:
        """Trainer and model names -> the model whose versions they write or read."""
        return dict(self._lineages)

    # Work in the background.

    def async_training(
        self, model: str | Iterable[str] | None, params: Mapping[str, Any] | None = None, enqueue: bool = False
    ) -> Any:
        """Start a training: one (its record is returned), or several or all (None), which are queued (name -> record).

        `params` holds overrides, either flat or under the trainer's name.
        """
        return self._start(JobKind.TRAIN, self._trainers, model, params, enqueue)

    def async_scoring(self, method: str | Iterable[str] | None, params: Mapping[str, Any] | None = None) -> Any:
        """Start a scoring method: one, several or all (None)."""
        return self._start(JobKind.SCORING, self._scoring_methods, method, params, True)

    def async_batch_infer(
        self, model: str, images: str | Iterable[str], params: Mapping[str, Any] | None = None
    ) -> Any:
        """Start inference over `images`: all, labeled, unlabeled or ids."""
        chosen = images if isinstance(images, str) else list(images)
        return self._start(JobKind.BATCH_INFER, self._infers, model, {**(params or {}), "images": chosen}, False)

    def _start(
        self,
        kind: JobKind,
        known: Mapping[str, Any],
        wanted: str | Iterable[str] | None,
        params: Mapping[str, Any] | None,
        enqueue: bool,
    ) -> Any:
        submit = self._submit_job or over_http(self._settings)
        names = [wanted] if isinstance(wanted, str) else list(known if wanted is None else wanted)
        overrides = dict(params or {})
        flat = {key: value for key, value in overrides.items() if not (key in known and isinstance(value, Mapping))}
        records: dict[str, Any] = {}
        for name in names:
            _chosen(known, name, kind.value)
            own = overrides.get(name)
            asked = {**flat, **(own if isinstance(own, Mapping) else {})}
            records[name] = submit(kind, name, asked, enqueue or len(names) > 1)
        return records[wanted] if isinstance(wanted, str) else records

    def model_version(self, model: str) -> str:
        """The number of the published version that the model answers with; "" for weights of another origin."""
        _, task = _chosen(self._infers, model, "model")
        return _version_of(self._weights_in_use(model), task)

    def _weights_in_use(self, model: str) -> WeightsInUse | None:
        """The version that a request is answered with from now on; None if none was published."""
        lineage = lineage_of_infer(model, self._lineages) or model
        store = LocalModelStore(Path(self.app_dir))
        number = store.current_number(lineage)
        if number is None:
            return None
        key = (lineage, number)
        if key not in self._version_files:  # a version never changes
            version = store.version(lineage, number)
            published = Path(self.app_dir).absolute() / version.publish_path if version.publish_path else None
            self._version_files[key] = (published, store.published_file(lineage, number))
        published, file = self._version_files[key]
        return None if published is None else WeightsInUse(str(number), published, file)


def _version_of(in_use: WeightsInUse | None, task: InferTask) -> str:
    """The version that answered; "" for weights of another origin.

    A task that reads the published file by itself counts as well.
    """
    if in_use is None:
        return ""
    path = None if in_use.was_read else task.get_path()
    return in_use.version if in_use.was_read or (path and Path(path).absolute() == in_use.published) else ""


def _chosen(known: Mapping[str, _Task], name: Any, what: str) -> tuple[str, _Task]:
    if not name or not isinstance(name, str):
        raise InvalidParams(f"Name a {what}: one of {', '.join(known) or 'none (this app has none)'}.")
    if name not in known:
        raise TaskNotFound(
            f"This app has no {what} {name[:100]!r}. It has: {', '.join(known) or 'none'}.", name=name[:100]
        )
    return name, known[name]


def _typed(result: Any, params: Any) -> dict[str, Any]:
    """What a task returned, with file and array told apart."""
    file = os.fspath(result) if isinstance(result, str | os.PathLike) else None
    answer: dict[str, Any] = {"label": file, "tag": "", "file": file, "params": dict(params or {})}
    if result is not None and file is None:
        answer["array"] = result
    return answer


def _is_true(value: Any) -> bool:
    return value.lower() in ("true", "1", "yes", "on") if isinstance(value, str) else bool(value)
