"""One owner per folder; an owner is dead only when that is proven."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from labelserver.domain.errors import FolderInUse
from labelserver.storage import atomic, locks
from labelserver.storage.locks import OwnerLock
from labelserver.storage.processes import ProcessIdentity, identity_of, is_proven_dead

HOLD = """
import sys
from pathlib import Path
from labelserver.storage.locks import OwnerLock
lock = OwnerLock(Path(sys.argv[1]), "The app folder")
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_this_process_lives_and_a_recycled_pid_is_another_process():
    me = identity_of()
    assert me is not None
    assert me.pid == os.getpid()
    assert not is_proven_dead(me)
    assert is_proven_dead(replace(me, started=me.started - 1))
    assert is_proven_dead(replace(me, boot="an earlier boot"))
    assert ProcessIdentity.from_json(me.to_json()) == me


def test_a_process_of_another_host_is_never_proven_dead():
    me = identity_of()
    assert me is not None
    assert not is_proven_dead(replace(me, host="elsewhere", pid=999_999))


def test_an_ended_process_is_proven_dead():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = identity_of(child.pid)
    assert identity is not None
    child.kill()
    child.communicate()
    assert is_proven_dead(identity)
    assert identity_of(child.pid) is None


@pytest.fixture
def on_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "is_network_folder", lambda folder: True)


def left_by(folder: Path, owner: ProcessIdentity) -> None:
    atomic.write_json(folder / ".lock-owner.json", {**owner.to_json(), "since_ts": 1_700_000_000.0})


def test_a_network_folder_left_by_another_machine_is_taken_over_by_command_alone(
    on_a_network: None, tmp_path: Path
) -> None:
    me = identity_of()
    assert me is not None
    left_by(tmp_path, replace(me, host="elsewhere", pid=4321))
    lock = OwnerLock(tmp_path, "The studies")
    with pytest.raises(FolderInUse, match=r"process 4321 on elsewhere since 2023.*--take-over"):
        lock.acquire()
    with pytest.raises(FolderInUse):
        lock.acquire()
    lock.acquire(take_over=True)
    assert json.loads((tmp_path / ".lock-owner.json").read_text())["pid"] == os.getpid()
    lock.release()
    lock.acquire()
    lock.release()


def test_a_network_folder_left_by_a_dead_process_of_this_machine_is_free(on_a_network: None, tmp_path: Path) -> None:
    me = identity_of()
    assert me is not None
    left_by(tmp_path, replace(me, started=me.started - 1))
    lock = OwnerLock(tmp_path, "The studies")
    lock.acquire()
    lock.release()


def test_on_a_local_disk_the_kernel_is_believed(tmp_path: Path) -> None:
    me = identity_of()
    assert me is not None
    left_by(tmp_path, replace(me, host="a container of yesterday"))
    lock = OwnerLock(tmp_path, "The studies")
    lock.acquire()
    lock.release()


def test_a_second_owner_is_told_who_the_first_is_and_a_dead_one_is_replaced(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    lock = OwnerLock(tmp_path, "The app folder")
    with pytest.raises(FolderInUse, match=rf"The app folder is in use by process {holder.pid} on .+ since 20"):
        lock.acquire()
    holder.kill()
    holder.communicate()
    lock.acquire()
    lock.release()
    lock.release()
