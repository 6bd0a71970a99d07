"""``labelserver prune`` and ``labelserver project``: nothing in use goes, nothing is lost on the way."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from labelserver.cli.main import run
from labelserver.contracts.model_store import Candidate
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.ids import FINAL, ImageId, JobId
from labelserver.domain.jobs import JobKind, JobSpec, Signal
from labelserver.engine.job_folder import EventWriter, JobFolder
from labelserver.model_store.local import LocalModelStore
from labelserver.storage.locks import OwnerLock
from tests.support.study_folder import noise_bytes, put_image, put_label, put_series

A = ImageId("a")


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        run(words)
    return int(ended.value.code or 0)


def numbers(store: LocalDatastore) -> list[int]:
    return [r.number for r in store.revisions(A, FINAL)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalDatastore]:
    """One label saved five times."""
    put_image(tmp_path / "studies", "a.nii.gz")
    store = LocalDatastore(tmp_path / "studies")
    for value in range(1, 6):
        store.save_label("a", str(put_label(tmp_path / "l.nii.gz", value)), "final", {})
    yield store
    store.close()


def add_version(app: Path, labels: dict[str, object]) -> int:
    weights = app / "new.pt"
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.write_bytes(noise_bytes(10))
    candidate = Candidate(model="m", files=(weights,), labels=labels)  # type: ignore[arg-type]
    return LocalModelStore(app).add(candidate)


def test_prune_keeps_current_revisions_and_those_a_version_was_trained_on(
    store: LocalDatastore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    studies, app = str(store.layout.studies), tmp_path / "app"
    assert command("prune", "--studies", studies) == 0
    assert numbers(store) == [1, 2, 3, 4, 5], "without settings nothing is let go"
    monkeypatch.setenv("LABELSERVER_KEEP_REVISIONS", "2")
    add_version(app, {"a": store.revisions(A, FINAL)[1].sha256})
    words = ("prune", "--studies", studies, "--app", str(app))
    assert command(*words) == 0
    assert "Nothing was changed" in capsys.readouterr().out
    assert numbers(store) == [1, 2, 3, 4, 5]
    assert command(*words, "--yes") == 0
    assert numbers(store) == [2, 4, 5]
    folder = store.revision_file(A, FINAL, 5).parent
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        f"{n}{e}" for n in (2, 4, 5) for e in (".json", ".nii.gz")
    )
    assert store.upkeep.verify().findings == []
    assert [e.act.revision for e in store.audit_log(10) if e.act.action == "prune"] == [1, 3]


def test_prune_never_takes_the_current_or_a_pinned_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = tmp_path / "app"
    made = [add_version(app, {}) for _ in range(5)]
    models = LocalModelStore(app)
    models.publish("m", made[0], "good")
    (models.weights_file("m", made[1]).parent / "pinned").touch()
    monkeypatch.setenv("LABELSERVER_KEEP_VERSIONS", "1")
    assert command("prune", "--app", str(app), "--yes") == 0
    assert [v.number for v in models.versions("m")] == [made[0], made[1], made[4]]
    current = models.current("m")
    assert current is not None
    assert current.number == made[0]


def test_prune_takes_old_logs_trash_and_caches(
    store: LocalDatastore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = tmp_path / "app"
    store.remove_image("a")
    cached = store.layout.cache_folder("x") / "y.nii.gz"
    for path in (cached, app / "logs/labelserver.log.3", app / "logs/labelserver.log"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    old = time.time() - 200 * 86400
    for path in (cached, app / "logs/labelserver.log.3", *store.layout.trash_folder("a").iterdir()):
        os.utime(path, (old, old))
    words = ("prune", "--studies", str(store.layout.studies), "--app", str(app), "--yes")
    assert command(*words) == 0
    assert not cached.exists()
    assert [p.name for p in (app / "logs").iterdir()] == ["labelserver.log"]
    assert len(list(store.layout.trash_folder("a").iterdir())) == 2, "trash is kept for ever unless somebody says"
    monkeypatch.setenv("LABELSERVER_KEEP_TRASH_DAYS", "100")
    assert command(*words) == 0
    assert list(store.layout.trash_folder("a").iterdir()) == []


def put_job(app: Path, number: int, signals: list[Signal], *, age_days: float) -> Path:
    """A job's folder with a checkpoint and a log, to which this happened; everything is so old."""
    spec = JobSpec(JobId(f"3f2b8c1e-0000-4000-8000-{number:012}"), JobKind.TRAIN, "m", {}, "Ada", 1.0)
    folder = JobFolder(app / "jobs" / spec.job_id)
    folder.create(spec)
    for signal in signals:
        if signal is Signal.EXITED:
            folder.write_exit(0)
        elif signal in (Signal.STARTED, Signal.STOP_ASKED):
            folder.say(signal, {})
        else:
            writer = EventWriter(folder)
            writer.write(signal)
            writer.close()
    for name in ("training-checkpoint.pt", "worker.log"):
        (folder.path / name).write_bytes(b"x")
    old = time.time() - age_days * 86400
    for path in folder.path.iterdir():
        os.utime(path, (old, old))
    return folder.path


DONE = [Signal.STARTED, Signal.RUNNING, Signal.RESULT, Signal.EXITED]
WAITING = [Signal.STARTED, Signal.RUNNING]


def test_prune_takes_checkpoints_and_folders_of_ended_jobs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = tmp_path / "app"
    old, older, running, young = (
        put_job(app, number, signals, age_days=days)
        for number, (signals, days) in enumerate(((DONE, 20), (DONE, 90), (WAITING, 90), (DONE, 1)))
    )
    damaged = app / "jobs" / "damaged"
    damaged.mkdir()
    (damaged / "spec.json").write_text("{")
    words = ("prune", "--app", str(app), "--yes")
    for name in ("LABELSERVER_KEEP_CHECKPOINTS_DAYS", "LABELSERVER_KEEP_JOBS_DAYS"):
        monkeypatch.setenv(name, "0")
    assert command(*words) == 0
    assert all((folder / "training-checkpoint.pt").is_file() for folder in (old, older, running, young))
    monkeypatch.setenv("LABELSERVER_KEEP_CHECKPOINTS_DAYS", "10")
    monkeypatch.setenv("LABELSERVER_KEEP_JOBS_DAYS", "60")
    assert command(*words[:-1]) == 0
    said = capsys.readouterr().out
    assert f"job: {older}" in said
    assert f"checkpoint: {old / 'training-checkpoint.pt'}" in said
    assert older.is_dir()
    assert command(*words) == 0
    assert not older.exists()
    assert sorted(p.name for p in old.glob("*.[pl]*")) == ["worker.log"]
    assert (running / "training-checkpoint.pt").is_file(), "it goes on with its checkpoint"
    assert (young / "training-checkpoint.pt").is_file()
    assert damaged.is_dir()


def test_a_packed_project_is_the_same_elsewhere(store: LocalDatastore, tmp_path: Path) -> None:
    app = tmp_path / "app"
    app.mkdir()
    (app / "main.py").write_text("# an app")
    add_version(app, {})
    head = store.upkeep.verify().head
    before = store.json()
    packed = tmp_path / "p.tar.gz"
    assert command("project", "pack", str(packed), "--studies", str(store.layout.studies), "--app", str(app)) == 0
    assert command("project", "pack", str(packed), "--studies", str(store.layout.studies)) == 1
    target = tmp_path / "elsewhere" / "project"
    assert command("project", "unpack", str(packed), str(target)) == 0
    assert command("project", "unpack", str(packed), str(target)) == 1
    other = LocalDatastore(target / "studies")
    assert other.json() == before
    assert other.upkeep.verify(head).findings == []
    assert numbers(other) == [1, 2, 3, 4, 5]
    assert LocalModelStore(target / "app").models() == ["m"]
    other.close()


def test_images_that_are_linked_are_packed_as_files(store: LocalDatastore, tmp_path: Path) -> None:
    studies = store.layout.studies
    put_series(tmp_path / "archive" / "series", "1.2.3")
    put_image(tmp_path / "archive", "single.nii.gz")
    (studies / "ct").symlink_to(tmp_path / "archive" / "series", target_is_directory=True)
    (studies / "single.nii.gz").symlink_to(tmp_path / "archive" / "single.nii.gz")
    (studies / "ct" / "round").symlink_to(studies, target_is_directory=True)
    store.refresh()
    before = store.list_images()
    assert {"ct", "single"} <= set(before)
    packed, target = tmp_path / "p.tar.gz", tmp_path / "t"
    assert command("project", "pack", str(packed), "--studies", str(studies)) == 0
    shutil.rmtree(tmp_path / "archive")
    assert command("project", "unpack", str(packed), str(target)) == 0
    other = LocalDatastore(target / "studies")
    assert other.list_images() == before
    assert len(list((target / "studies" / "ct").glob("*.dcm"))) == 4
    other.close()


def test_a_pack_that_was_changed_is_refused(
    store: LocalDatastore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed, changed = tmp_path / "p.tar.gz", tmp_path / "q.tar.gz"
    assert command("project", "pack", str(packed), "--studies", str(store.layout.studies)) == 0
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path / "open", filter="data")
    manifest = json.loads((tmp_path / "open" / "project-pack.json").read_text())
    assert "studies/a.nii.gz" in manifest["files"]
    (tmp_path / "open/studies/a.nii.gz").write_bytes(b"other")
    with tarfile.open(changed, "w:gz") as archive:
        archive.add(tmp_path / "open", ".")
    assert command("project", "unpack", str(changed), str(tmp_path / "t")) == 1
    assert "was changed" in capsys.readouterr().err
    packed.write_bytes(packed.read_bytes()[:500])
    assert command("project", "unpack", str(packed), str(tmp_path / "t")) == 1
    assert not (tmp_path / "t").exists()


def test_pack_waits_for_no_running_server(
    store: LocalDatastore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = OwnerLock(store.layout.state, "The studies")
    lock.acquire()
    assert command("project", "pack", str(tmp_path / "p.tar.gz"), "--studies", str(store.layout.studies)) == 1
    assert "Stop that server first" in capsys.readouterr().err
    lock.release()


def test_doctor_tells_of_what_was_set_aside(
    store: LocalDatastore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = store.revision_file(A, FINAL, 1)
    file.write_bytes(b"")
    monkeypatch.setattr("labelserver.cli.doctor._devices", lambda: iter(()))
    command("doctor", "--studies", str(store.layout.studies))
    shown = capsys.readouterr().out
    assert "1.nii.gz" in shown
    assert "no copy of it is left" in shown
    assert "1 files in" in shown
