"""All scoring methods in one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labelserver.app.scoring_run import run_all
from labelserver.contracts.datastore import Datastore
from labelserver.contracts.progress import Silent, watched_by
from labelserver.domain.errors import TaskFailed
from labelserver.tasks.base import ScoringMethod
from tests.fakes.memory_datastore import MemoryDatastore


class Noting(ScoringMethod):
    """Writes down that it ran"""

    def __init__(self, ran: list[str], name: str, *, fails: bool = False) -> None:
        super().__init__()
        self.ran, self.name, self.fails = ran, name, fails

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        self.ran.append(f"{self.name} as {request['method']}, {sorted(request)}")
        if self.fails:
            raise ValueError("broken")
        return {"images": 1}


class Stopped(Silent):
    def should_stop(self) -> bool:
        return True


def test_each_runs_and_one_that_fails_keeps_no_other_from_it(tmp_path: Path) -> None:
    ran: list[str] = []
    methods = {"a": Noting(ran, "a", fails=True), "b": Noting(ran, "b")}
    found = run_all(methods, {"method": "*", "budget_s": 60}, MemoryDatastore(tmp_path))
    assert found == {"b": {"images": 1}, "a": {"error": "ValueError: broken"}}
    assert ran == ["a as a, ['budget_s', 'method']", "b as b, ['budget_s', 'method']"]


def test_a_stop_or_a_spent_budget_leaves_the_rest_to_the_next_run(tmp_path: Path) -> None:
    ran: list[str] = []
    with watched_by(Stopped()):
        assert run_all({"a": Noting(ran, "a")}, {}, MemoryDatastore(tmp_path)) == {}
    assert run_all({"a": Noting(ran, "a")}, {"budget_s": 1e-12}, MemoryDatastore(tmp_path)) == {}
    assert ran == []


def test_a_run_of_nothing_but_failures_has_failed(tmp_path: Path) -> None:
    with pytest.raises(TaskFailed, match="ValueError: broken"):
        run_all({"a": Noting([], "a", fails=True)}, {}, MemoryDatastore(tmp_path))
