"""Model versions as folders below the app: ``APP/versions/<model>/<n>/``, and a small file that names the current one.

A version folder is written beside and renamed into place, so it is complete or absent, and never changes afterwards
except that ``decision.json`` and ``pinned`` join it. Only the holder of the app lock decides and publishes: first
``current`` is swapped, then the file at ``publish_path`` (which infer tasks of older apps read) is replaced, then the
decision is written, then a line of ``history.jsonl``. A crash in between leaves no decision, and deciding again
finishes the same work. Torch-free.
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
from labelserver.domain.errors import Conflict, ModelNotFound, StoredDataInvalid, VersionTaken
from labelserver.domain.ids import model_folder
from labelserver.domain.models import (
    Decision,
    ModelAct,
    ModelEvent,
    ModelVersion,
    Verdict,
    published_before,
)
from labelserver.model_store.gate import Gate
from labelserver.model_store.manifest import (
    decision_to_json,
    event_from_json,
    event_to_json,
    read_decision,
    read_version,
    version_to_json,
)
from labelserver.storage import atomic
from labelserver.storage.append import append_json_line, read_json_lines
from labelserver.storage.checksums import sha256_of

logger = logging.getLogger(__name__)

#: The bare state_dict that infer tasks read.
PUBLISHED_FILE = "model.pt"

#: A file of this name in a version's folder keeps it, whatever the settings say.
PINNED_FILE = "pinned"


class LocalModelStore:
    """Implements `contracts.model_store.ModelStore` and `VersionWriter`. Cheap to construct; processes may share it.

    Lock: `_publishing` covers all changes but `add` in this process; between processes the app lock does.
    """

    def __init__(self, app_dir: Path, *, gate: Gate | None = None) -> None:
        self._app_dir = Path(app_dir).absolute()
        self._root = self._app_dir / "versions"
        self._gate = gate or Gate()
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
        number = self.current_number(model)
        return None if number is None else self.version(model, number)

    def current_number(self, model: str) -> int | None:
        """As `current`, without reading more than the pointer."""
        path = self._folder(model) / "current"
        try:
            return int(path.read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise StoredDataInvalid(
                f"versions/{path.parent.name}/current does not hold a number; publish a version again."
            ) from error

    def decision(self, model: str, number: int) -> Decision:
        folder = self._version_folder(model, number)
        waiting = Decision(Verdict.CANDIDATE, "Not decided yet.", read_version(folder).created_ts)
        return read_decision(folder) or waiting

    def weights_file(self, model: str, number: int) -> Path:
        folder = self._version_folder(model, number)
        return folder / read_version(folder).weights

    def published_file(self, model: str, number: int) -> Path:
        folder = self._version_folder(model, number)
        bare = folder / PUBLISHED_FILE
        return bare if bare.is_file() else folder / read_version(folder).weights

    def history(self, model: str) -> list[ModelEvent]:
        lines = read_json_lines(self._history_file(model))
        return [event for line in lines if (event := event_from_json(line)) is not None]

    def is_pinned(self, model: str, number: int) -> bool:
        return (self._version_folder(model, number) / PINNED_FILE).exists()

    def add(self, candidate: Candidate) -> int:
        """Move the candidate's files into a new version folder; the rename to its number is what makes it exist.

        Raises: `DiskFull`, `StorageFailed`, `VersionTaken`.
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
                number = self._next_number(candidate.model) if candidate.number is None else candidate.number
                version = self._manifest(candidate, number, checksums)
                atomic.write_json(building / "manifest.json", version_to_json(version))
                if _renamed(building, home / str(number)):
                    break
                if candidate.number is not None:
                    raise VersionTaken(f"The model {candidate.model!r} has a version {number} already.")
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        atomic.sync_folder(home)
        logger.info("version added", extra={"model": candidate.model, "version": number})
        return number

    def decide(self, model: str, number: int) -> Decision:
        """Publish a candidate that is not worse than the current version, else reject it (rule: `gate.Gate`)."""
        with self._publishing:
            folder = self._version_folder(model, number)
            known = read_decision(folder)
            if known is not None:
                return known
            version, current = read_version(folder), self.current(model)
            other = None if current is None or current.number == number else current
            pinned = other is not None and self.is_pinned(model, other.number)
            decision = self._gate.judge(version, other, pinned=pinned, now_ts=time.time())
            if decision.verdict is not Verdict.REJECTED:
                self._make_current(version, folder)
            act = ModelAct.REJECT if decision.verdict is Verdict.REJECTED else ModelAct.PUBLISH
            self._write_down(folder, decision, act)
        logger.info("version decided", extra={"model": model, "version": number, "verdict": decision.verdict.value})
        return decision

    def publish(self, model: str, number: int, reason: str, person: str = "") -> Decision:
        with self._publishing:
            return self._publish(model, number, reason, person, ModelAct.PUBLISH)

    def roll_back(self, model: str, reason: str, person: str = "") -> int:
        with self._publishing:
            numbers = set(self._numbers(self._folder(model)))
            before = published_before(self._publications(model), self.current_number(model), numbers)
            if before is None:
                raise Conflict(
                    f"No other version of {model!r} was in use before, so there is nothing to go back to. "
                    "Publish one by its number.",
                    model=model,
                )
            self._publish(model, before, reason, person, ModelAct.ROLL_BACK)
            return before

    def reject(self, model: str, number: int, reason: str, person: str = "") -> Decision:
        with self._publishing:
            folder = self._version_folder(model, number)
            self._refuse_current(model, number, "rejected")
            known = read_decision(folder)
            decision = Decision(Verdict.REJECTED, reason, time.time(), person, known.numbers if known else None)
            self._write_down(folder, decision, ModelAct.REJECT)
            return decision

    def pin(self, model: str, number: int, person: str = "", *, pinned: bool = True) -> None:
        with self._publishing:
            folder = self._version_folder(model, number)
            file = folder / PINNED_FILE
            if pinned == file.exists():
                return
            with atomic.storage_errors(file.name):
                file.touch() if pinned else file.unlink(missing_ok=True)
            act = ModelAct.PIN if pinned else ModelAct.UNPIN
            self._tell(folder.parent, ModelEvent(act, number, time.time(), person))

    def delete(self, model: str, number: int, person: str = "") -> None:
        with self._publishing:
            folder = self._version_folder(model, number)
            self._refuse_current(model, number, "deleted")
            if (folder / PINNED_FILE).exists():
                raise Conflict(f"Version {number} of {model!r} is pinned. Unpin it, then delete it.", version=number)
            self._tell(folder.parent, ModelEvent(ModelAct.DELETE, number, time.time(), person))
            with atomic.storage_errors(f"version {number} of {model}"):
                gone = Path(tempfile.mkdtemp(prefix=atomic.TEMPORARY_PREFIX, dir=folder.parent))
                folder.rename(gone / folder.name)
                shutil.rmtree(gone)
        logger.info("version deleted", extra={"model": model, "version": number})

    def _publish(self, model: str, number: int, reason: str, person: str, act: ModelAct) -> Decision:
        """The caller holds the lock. What the gate compared stays on record."""
        folder = self._version_folder(model, number)
        self._make_current(read_version(folder), folder)
        known = read_decision(folder)
        decision = Decision(Verdict.PUBLISHED, reason, time.time(), person, known.numbers if known else None)
        self._write_down(folder, decision, act)
        logger.info("version published", extra={"model": model, "version": number})
        return decision

    def _refuse_current(self, model: str, number: int, what: str) -> None:
        if self.current_number(model) == number:
            raise Conflict(
                f"Version {number} of {model!r} is in use, so it cannot be {what}. Publish another version first.",
                version=number,
            )

    def _make_current(self, version: ModelVersion, folder: Path) -> None:
        """Swap the pointer, then refresh the published file. Safe to repeat."""
        files = version.extra.get("files")
        checksums = files if isinstance(files, dict) else {version.weights: version.sha256}
        for name, expected in checksums.items():
            if not (folder / name).is_file() or sha256_of(folder / name) != expected:
                raise StoredDataInvalid(
                    f"{version.model} version {version.number}: {name} does not match its checksum, so it is not "
                    "published. Restore it from a backup, or publish another version."
                )
        atomic.write_bytes(folder.parent / "current", f"{version.number}\n".encode())
        if version.publish_path and PUBLISHED_FILE in checksums:
            atomic.copy_file(folder / PUBLISHED_FILE, self._app_dir / version.publish_path)

    def _write_down(self, folder: Path, decision: Decision, act: ModelAct) -> None:
        atomic.write_json(folder / "decision.json", decision_to_json(decision))
        self._tell(folder.parent, ModelEvent(act, int(folder.name), decision.ts, decision.person, decision.reason))

    @staticmethod
    def _tell(home: Path, event: ModelEvent) -> None:
        append_json_line(home / "history.jsonl", event_to_json(event))

    def _publications(self, model: str) -> list[ModelEvent]:
        """The history; of versions from before there was one, as far as their decisions tell."""
        known = self.history(model)
        told = {event.number for event in known if event.act is ModelAct.PUBLISH}
        untold = [
            ModelEvent(ModelAct.PUBLISH, number, decision.ts)
            for number, folder in self._numbers(self._folder(model)).items()
            if number not in told
            and (decision := read_decision(folder)) is not None
            and decision.verdict in (Verdict.PUBLISHED, Verdict.UNCHECKED)
        ]
        return sorted([*untold, *known], key=lambda event: event.ts)

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
            cases=candidate.cases,
            baseline_version=candidate.baseline_version,
            baseline=candidate.baseline,
            baseline_cases=candidate.baseline_cases,
            held_out=candidate.held_out,
            held_out_labels=candidate.held_out_labels,
            labels=candidate.labels,
            revisions=candidate.revisions,
            network_hash=candidate.network_hash,
            outputs=candidate.outputs,
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

    def _history_file(self, model: str) -> Path:
        return self._folder(model) / "history.jsonl"

    @staticmethod
    def _numbers(folder: Path) -> dict[int, Path]:
        if not folder.is_dir():
            return {}
        return {int(p.name): p for p in folder.iterdir() if p.name.isdecimal() and (p / "manifest.json").is_file()}

    def _next_number(self, model: str) -> int:
        """Beyond every number that there is or was: an answer names its version for ever."""
        deleted = [event.number for event in self.history(model) if event.act is ModelAct.DELETE]
        return max([*self._numbers(self._folder(model)), *deleted, 0]) + 1

    def _version_folder(self, model: str, number: int) -> Path:
        numbers = self._numbers(self._folder(model))
        if not numbers:
            raise ModelNotFound(f"The model {model!r} has no version yet. Train it first.", model=model)
        if number not in numbers:
            listed = ", ".join(str(n) for n in sorted(numbers))
            raise ModelNotFound(f"The model {model!r} has no version {number}; it has {listed}.", model=model)
        return numbers[number]


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
