"""Every error of the tree has a status, a shape and a sentence, on old routes and new."""

from __future__ import annotations

import json

import pytest

from labelserver.api.problem_responses import STATUS_OF, problem_response, status_of
from labelserver.domain import errors
from labelserver.domain.errors import LabelServerError

TREE = sorted((cls for cls in LabelServerError.registry.values() if cls.__module__ == errors.__name__), key=str)


@pytest.mark.parametrize("cls", TREE)
def test_every_error_has_a_status_of_its_own_or_its_ancestors(cls: type[LabelServerError]) -> None:
    assert any(ancestor in STATUS_OF for ancestor in cls.__mro__)
    assert 400 <= status_of(cls("A sentence.")) <= 599


@pytest.mark.parametrize("cls", TREE)
def test_every_error_says_when_it_happens(cls: type[LabelServerError]) -> None:
    assert cls.__doc__
    assert cls.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize("cls", TREE)
def test_old_routes_answer_a_detail_and_new_ones_a_problem(cls: type[LabelServerError]) -> None:
    error = cls("What to do.", job_id="7")
    old, new = problem_response("/infer/m", error), problem_response("/api/v1/jobs", error)
    assert old.status_code == new.status_code == status_of(error)
    assert json.loads(bytes(old.body)) == {"detail": "What to do."}
    document = json.loads(bytes(new.body))
    assert new.media_type == "application/problem+json"
    assert (document["status"], document["detail"]) == (new.status_code, "What to do.")
    assert (document["code"], document["fields"]) == (cls.__name__, {"job_id": "7"})
    assert document["title"]


def test_statuses_are_the_ones_of_the_plan() -> None:
    expected = {
        errors.ImageNotFound: 404,
        errors.GridsDiffer: 422,
        errors.InvalidParams: 422,
        errors.VersionTaken: 409,
        errors.NotAllowed: 403,
        errors.TooLarge: 413,
        errors.QueueFull: 429,
        errors.WorkerNotReady: 429,
        errors.NotThereYet: 501,
        errors.UploadsOff: 406,
        errors.TaskFailed: 500,
        errors.WorkerDied: 500,
        errors.StoredDataInvalid: 500,
        errors.DiskFull: 507,
        errors.DeviceMemoryFull: 507,
    }
    assert {cls: status_of(cls("x")) for cls in expected} == expected


def test_a_client_told_to_wait_is_told_how_long() -> None:
    assert problem_response("/infer/m", errors.QueueFull("x")).headers["retry-after"]
