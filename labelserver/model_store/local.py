"""Model versions as folders below the app: ``APP/versions/<model>/<n>/``, and a small file that names the current one.

A version folder is written beside and renamed into place, so it is complete or absent, and never changes afterwards
except that ``decision.json`` joins it. Only the holder of the app lock decides and publishes: first ``current`` is
swapped, then the file at ``publish_path`` (which infer tasks read) is replaced, then the decision is written. A crash
in between leaves no decision, and deciding again finishes the same work. Torch-free.
"""

from __future__ import annotations

import errno
import logging
import shutil
import tempfile
import threading
import time
from pathlib import Path

from labelserver.contracts.model_store import Candidate
from labelserver.domain.errors import ModelNotFound, StoredDataInvalid
from labelserver.domain.ids import model_folder
from labelserver.domain.models import Decision, ModelVersion, Verdict
from labelserver.model_store.gate import MARGIN, judge
from labelserver.model_store.manifest import decision_to_json, read_decision, read_version, version_to_json
from labelserver.storage import atomic
from labelserver.storage.checksums import sha256_of

logger = logging.getLogger(__name__)

#: The bare state_dict that infer tasks read.
PUBLISHED_FILE = "model.pt"


class LocalModelStore:
    """Implements `contracts.model_store.ModelStore` and `VersionWriter`. Cheap to construct; processes may share it.

    Lock: `_publishing` covers `decide` and `publish` of this process; between processes the app lock does.
    """

    def __init__(self, app_dir: Path, *, margin: float = MARGIN) -> None:
        self._app_dir = Path(app_dir).absolute()
        self._root = self._app_dir / "versions"
        self._margin = margin
        self._publishing = threading.Lock()

    def models(self) -> list[str]:
        """Names of the models with at least one version, sorted."""
        if not self._root.is_dir():
            return []
        found = (self._numbers(folder) for folder in self._root.iterdir() if folder.is_dir())
        return sorted(read_version(numbers[max(numbers)]).model for numbers in found if numbers)

    def versions(self, model: str) -> list[ModelVersion]:
        numbers = self._numbers(self._folder(model))
        return [read_version(numbers[number]) for number in sorted(numbers)]

    def version(self, model: str, number: int) -> ModelVersion:
        return read_version(self._version_folder(model, number))

    def current(self, model: str) -> ModelVersion | None:
        number = self._current_number(model)
        return None if number is None else self.version(model, number)

    def decision(self, model: str, number: int) -> Decision:
        folder = self._version_folder(model, number)
        waiting = Decision(Verdict.CANDIDATE, "Not decided yet.", read_version(folder).created_ts)
        return read_decision(folder) or waiting

    def weights_file(self, model: str, number: int) -> Path:
        folder = self._version_folder(model, number)
        return folder / read_version(folder).weights

    def add(self, candidate: Candidate) -> int:
        """Move the candidate's files into a new version folder; the rename to its number is what makes it exist.

        Raises: `DiskFull`, `StorageFailed`.
        """
        home = self._folder(candidate.model)
        with atomic.storage_errors(f"a version of {candidate.model}"):
            home.mkdir(parents=True, exist_ok=True)
            building = Path(tempfile.mkdtemp(prefix=atomic.TEMPORARY_PREFIX, dir=home))
        try:
            building.chmod(0o755)
            for file in candidate.files:
                atomic.move_file(file, building / file.name)
            checksums = {file.name: sha256_of(building / file.name) for file in candidate.files}
            while True:
                number = max(self._numbers(home), default=0) + 1
                version = self._manifest(candidate, number, checksums)
                atomic.write_json(building / "manifest.json", version_to_json(version))
                if _renamed(building, home / str(number)):
                    break
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        atomic.sync_folder(home)
        logger.info("version added", extra={"model": candidate.model, "version": number})
        return number

    def decide(self, model: str, number: int) -> Decision:
        """Publish a candidate that is not worse than the current version, else reject it (rule: `gate.judge`)."""
        with self._publishing:
            folder = self._version_folder(model, number)
            known = read_decision(folder)
            if known is not None:
                return known
            version = read_version(folder)
            current = self.current(model)
            others = None if current is None or current.number == number else current
            decision = judge(version, others, margin=self._margin, now_ts=time.time())
            if decision.verdict is not Verdict.REJECTED:
                self._make_current(version, folder)
            atomic.write_json(folder / "decision.json", decision_to_json(decision))
        logger.info("version decided", extra={"model": model, "version": number, "verdict": decision.verdict.value})
        return decision

    def publish(self, model: str, number: int, reason: str) -> Decision:
        with self._publishing:
            folder = self._version_folder(model, number)
            self._make_current(read_version(folder), folder)
            decision = Decision(Verdict.PUBLISHED, reason, time.time())
            atomic.write_json(folder / "decision.json", decision_to_json(decision))
        logger.info("version published", extra={"model": model, "version": number})
        return decision

    def _make_current(self, version: ModelVersion, folder: Path) -> None:
        """Swap the pointer, then refresh the published file. Safe to repeat."""
        files = version.extra.get("files")
        checksums = files if isinstance(files, dict) else {version.weights: version.sha256}
        for name, expected in checksums.items():
            if sha256_of(folder / name) != expected:
                raise StoredDataInvalid(
                    f"{version.model} version {version.number}: {name} does not match its checksum, so it is not "
                    "published. Restore it from a backup, or publish another version."
                )
        atomic.write_bytes(folder.parent / "current", f"{version.number}\n".encode())
        if version.publish_path and PUBLISHED_FILE in checksums:
            atomic.copy_file(folder / PUBLISHED_FILE, self._app_dir / version.publish_path)

    def _manifest(self, candidate: Candidate, number: int, checksums: dict[str, str]) -> ModelVersion:
        weights = candidate.files[0].name
        return ModelVersion(
            model=candidate.model,
            number=number,
            created_ts=time.time(),
            weights=weights,
            sha256=checksums[weights],
            job_id=candidate.job_id,
            publish_path=self._below_app(candidate.publish_path),
            key_metric=candidate.key_metric,
            metrics=candidate.metrics,
            baseline_version=candidate.baseline_version,
            baseline=candidate.baseline,
            held_out=candidate.held_out,
            labels=candidate.labels,
            extra={**candidate.extra, "files": checksums},
        )

    def _below_app(self, path: Path | None) -> str:
        """Relative to the app where possible, so that the app may move; an author's path elsewhere stays absolute."""
        if path is None:
            return ""
        absolute = Path(path).absolute()
        return (
            absolute.relative_to(self._app_dir).as_posix() if absolute.is_relative_to(self._app_dir) else str(absolute)
        )

    def _folder(self, model: str) -> Path:
        return self._root / model_folder(model)

    @staticmethod
    def _numbers(folder: Path) -> dict[int, Path]:
        if not folder.is_dir():
            return {}
        return {int(p.name): p for p in folder.iterdir() if p.name.isdecimal() and (p / "manifest.json").is_file()}

    def _version_folder(self, model: str, number: int) -> Path:
        numbers = self._numbers(self._folder(model))
        if not numbers:
            raise ModelNotFound(f"The model {model!r} has no version yet. Train it first.", model=model)
        if number not in numbers:
            listed = ", ".join(str(n) for n in sorted(numbers))
            raise ModelNotFound(f"The model {model!r} has no version {number}; it has {listed}.", model=model)
        return numbers[number]

    def _current_number(self, model: str) -> int | None:
        path = self._folder(model) / "current"
        try:
            return int(path.read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise StoredDataInvalid(
                f"versions/{path.parent.name}/current does not hold a number; publish a version again."
            ) from error


def _renamed(building: Path, target: Path) -> bool:
    """False if another process took the number first."""
    with atomic.storage_errors(target.name):
        try:
            building.rename(target)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                return False
            raise
    return True
