"""All settings, in one frozen value; the one reader of the environment.

Order: flag over ``LABELSERVER_<NAME>`` over ``MONAI_LABEL_<NAME>`` (the peer's name) over default. A door (server,
worker, command line) builds `Settings` once and passes it on; `current` serves scripts that build an app without one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from labelserver.domain.errors import InvalidSetting
from labelserver.domain.models import GateRule

PREFIX = "LABELSERVER_"
PEER_PREFIX = "MONAI_LABEL_"

#: Names of the peer that differ from ours by more than the prefix.
_PEER_NAMES = {
    "api_prefix": "API_STR",
    "conf": "APP_CONF",
    "port": "SERVER_PORT",
}


class Settings(BaseModel):
    """Frozen settings of one process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    app_dir: Path = Field(
        default=Path(), description="App folder with a main.py; without one, images and labels alone."
    )
    studies: str = Field(default="", description="Folder with the images.")
    conf: dict[str, str] = Field(default_factory=dict, description="Options of the app, as JSON; --conf KEY VALUE.")
    labels_dir: Path | None = Field(default=None, description="Where labels go if the studies folder is read-only.")
    index_dir: Path | None = Field(default=None, description="Where the index lies if the studies are on a network.")
    take_over: bool = Field(default=False, description="Replace a server that left a network folder locked.")

    host: str = Field(default="127.0.0.1", description="Bind address.")
    port: int = Field(default=8000, ge=0, le=65535, description="Bind port; 0 picks a free one.")
    root_path: str = Field(default="", description="Prefix that a reverse proxy strips.")
    api_prefix: str = Field(default="", description="Prefix of the peer's routes.")
    project_name: str = Field(default="labelserver", description="Title of the OpenAPI page.")
    cors_origins: list[str] = Field(default_factory=list, description="Further allowed origins, as a JSON list.")
    allowed_hosts: list[str] = Field(default_factory=list, description="Further allowed Host names, as a JSON list.")
    insecure: bool = Field(default=False, description="Allow a bind beyond loopback without a proxy.")
    behind_proxy: bool = Field(default=False, description="A proxy that checks callers stands in front.")
    max_upload_bytes: int = Field(default=8 * 2**30, gt=0, description="Largest accepted upload.")

    sessions: bool = Field(default=True, description="Accept uploads for one-off inference (PUT /session/).")
    session_path: Path | None = Field(default=None, description="Folder of uploads; default below the studies.")
    session_expiry: int = Field(default=3600, description="Seconds an unused upload is kept; 60 or less means 3600.")

    nni_sessions: int = Field(default=8, ge=1, le=1000, description="Clients of nnInteractive at a time.")
    nni_idle_s: int = Field(
        default=3600, ge=10, description="Seconds without an action after which such a client gives up its place."
    )
    nni_liveness_s: int = Field(
        default=60, ge=0, description="Seconds without a sign of life after which it does; 0: never."
    )
    nni_api_key: str = Field(default="", description="Key that such clients must send; empty: none.")
    nni_model: str = Field(
        default="", description="Model, or MODEL/LABEL, that clients find at / of a second port; empty: none."
    )
    nni_port: int = Field(default=1527, ge=1, le=65535, description="That second port.")

    tasks_train: bool = Field(default=True, description="Load trainers.")
    tasks_strategy: bool = Field(default=True, description="Load strategies.")
    tasks_scoring: bool = Field(default=True, description="Load scoring methods.")
    tasks_batch_infer: bool = Field(default=True, description="Allow batch inference.")
    auto_update_scoring: bool = Field(default=True, description="Run all scoring methods at start and after training.")
    scoring_budget_s: float = Field(
        default=0, ge=0, description="Seconds that such a scoring may take; the next one does the rest. 0: no limit."
    )
    infer_timeout: int = Field(default=600, gt=0, description="Seconds one inference may take.")
    click_timeout: int = Field(default=60, gt=0, description="Seconds the answer to a prompt of a session may take.")

    datastore_auto_reload: bool = Field(default=True, description="Notice files that arrive or vanish.")
    datastore_read_only: bool = Field(default=False, description="Never write into the studies folder.")
    datastore_file_ext: list[str] = Field(
        default_factory=list, description="Patterns of image files, as a JSON list; empty: all known types."
    )

    keep_revisions: int = Field(default=0, ge=0, description="Newest revisions of a label to keep; 0: all.")
    keep_versions: int = Field(default=0, ge=0, description="Newest versions of a model to keep; 0: all.")
    keep_jobs_days: int = Field(default=0, ge=0, description="Days that folders of ended jobs are kept; 0: for ever.")
    keep_checkpoints_days: int = Field(
        default=30, ge=0, description="Days that checkpoints of ended trainings are kept; 0: for ever."
    )
    keep_trash_days: int = Field(
        default=0, ge=0, description="Days that removed images and files set aside are kept; 0: for ever."
    )
    keep_cache_days: int = Field(
        default=30, ge=0, description="Days that unused converted images are kept; 0: for ever."
    )
    keep_sessions_days: int = Field(
        default=30, ge=0, description="Days that unused interactive sessions are kept; 0: for ever."
    )
    keep_logs_days: int = Field(default=90, ge=0, description="Days that old log files are kept; 0: for ever.")

    gate_rule: GateRule = Field(
        default=GateRule.MEAN,
        description="What must not be worse for a version to be published: mean, every_label or every_case.",
    )
    gate_margin: float = Field(
        default=0.005, ge=0, le=1, description="How much lower the compared number may be, e.g. of a Dice."
    )
    held_out_share: float = Field(
        default=0.2, gt=0, lt=1, description="Share of images or patients that new projects hold out of trainings."
    )
    patient_pattern: str = Field(
        default="", description="Regular expression whose first group is the patient in an image's path."
    )
    training_memory_bytes: int = Field(
        default=0, ge=0, description="Memory of a training for prepared cases; 0: four tenths of what is free."
    )
    case_cache_bytes: int = Field(
        default=20 * 2**30, ge=0, description="Disk space for prepared cases and images; 0: none are kept."
    )

    volume_cache_bytes: int = Field(
        default=10 * 2**30, ge=0, description="Disk space for images decoded for the page; the newest one always is."
    )

    warm_job_s: int = Field(
        default=0, ge=0, description="Seconds a process that has loaded the app waits for a job; 0: none is kept."
    )
    leave_jobs: bool = Field(default=False, description="Let jobs run on when the server stops.")
    workers_per_device: int = Field(default=1, ge=1, le=8, description="Worker processes on each device.")
    prepared_images_bytes: int = Field(
        default=0, ge=0, description="Memory of a worker for prepared images; 0: an eighth of what is free."
    )

    @property
    def has_app(self) -> bool:
        """False for a server that keeps images and labels and has no models."""
        return self.app_dir != Path()

    @property
    def state_dir(self) -> Path:
        """Where the server keeps index, revisions, uploads and spool."""
        return (self.labels_dir or Path(self.studies)) / ".labelserver"

    @property
    def upload_dir(self) -> Path:
        return self.session_path or self.state_dir / "uploads"

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None, **flags: Any) -> Settings:
        """Build from flags (None means "not given") over environment over defaults.

        Raises:
            InvalidSetting: a value that makes no sense, naming the variable or flag.
        """
        source = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for name in cls.model_fields:
            for variable in (PREFIX + name.upper(), PEER_PREFIX + _PEER_NAMES.get(name, name.upper())):
                if source.get(variable, "") != "":
                    values[name] = _parse(cls, name, variable, source[variable])
                    break
        values.update({name: value for name, value in flags.items() if value is not None})
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise InvalidSetting(
                f"The setting {name} ({PREFIX}{name.upper()}) is not valid: {first['msg']}. Given: {first['input']!r}."
            ) from error

    def to_environment(self) -> dict[str, str]:
        """Variables from which a child process builds the same settings."""
        result = {}
        for name, value in self.model_dump(mode="json").items():
            if value is not None:
                result[PREFIX + name.upper()] = json.dumps(value) if isinstance(value, dict | list) else str(value)
        return result


def _parse(cls: type[Settings], name: str, variable: str, text: str) -> Any:
    """Lists and objects are JSON, a list also comma-separated; pydantic does the rest."""
    annotation = str(cls.model_fields[name].annotation)
    if annotation.startswith(("list", "dict")):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            if annotation.startswith("list"):
                return [part.strip() for part in text.split(",")]
            raise InvalidSetting(f'{variable} must be a JSON object, for example {{"models": "all"}}.') from error
    return text


_installed: Settings | None = None


def install(settings: Settings) -> None:
    """Make `settings` what `current` answers in this process. Called by doors."""
    global _installed
    _installed = settings


def current() -> Settings:
    """The settings of this process: those a door installed, else those of the environment."""
    return _installed if _installed is not None else Settings.from_environment()
