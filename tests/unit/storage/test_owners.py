"""One owner per folder; an owner is dead only when that is proven."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from labelserver.domain.errors import FolderInUse
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
