"""``labelserver models``: every verb against the real routes, through the real client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from labelserver.cli import models
from labelserver.cli.failing import CommandFailed
from labelserver.client import ClientError, LabelServerClient
from labelserver.contracts.model_store import Candidate
from tests.api.conftest import World

KEY = "val_mean_dice"


def add(world: World, dice: float) -> None:
    file: Path = world.server.spool / "weights.safetensors"
    file.write_bytes(str(dice).encode())
    candidate = Candidate(
        "tiny",
        (file,),
        key_metric=KEY,
        metrics={KEY: dice},
        cases={"ct_1": {KEY: dice, "val_liver_mean_dice": dice - 0.1}},
        held_out=("ct_1",),
        held_out_labels={"ct_1": "ab" * 32},
    )
    world.server.model_store.decide("tiny", world.server.model_store.add(candidate))


@pytest.fixture
def verbs(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Three versions, the third in use; the verbs reach the server without a socket."""
    for dice in (0.6, 0.7, 0.8):
        add(world, dice)

    def passed_on(asked: httpx.Request) -> httpx.Response:
        headers = {**dict(asked.headers), "host": "127.0.0.1:8000"}
        got = world.http.request(asked.method, asked.url.raw_path.decode(), content=asked.content, headers=headers)
        return httpx.Response(
            got.status_code, content=got.content, headers={"content-type": got.headers["content-type"]}
        )

    @contextmanager
    def asking(url: str) -> Iterator[LabelServerClient]:
        try:
            with LabelServerClient(url, person="ada", transport=httpx.MockTransport(passed_on)) as client:
                yield client
        except ClientError as error:
            raise CommandFailed(str(error)) from error

    monkeypatch.setattr(models, "asking", asking)
    return world


def said(*words: str) -> Result:
    return CliRunner().invoke(models.cli, list(words))


def in_use(world: World) -> int | None:
    current = world.server.model_store.current("tiny")
    return None if current is None else current.number


def test_list_and_versions_mark_what_is_in_use(verbs: World) -> None:
    listed = said("list").stdout
    assert "tiny" in listed
    assert "segmentation" in listed
    rows = [line.split() for line in said("versions", "tiny").stdout.splitlines()]
    assert next(row for row in rows if row[:1] == ["3"])[:2] == ["3", "*"]


def test_show_tells_each_held_out_case(verbs: World) -> None:
    shown = said("show", "tiny", "2").stdout
    assert "ct_1" in shown
    assert "0.7000" in shown
    assert "SHA-256" in shown


def test_compare_tells_each_metric_and_each_case(verbs: World) -> None:
    compared = said("compare", "tiny", "1", "3").stdout
    assert "1 shared case(s)" in compared
    assert "val_liver_mean_dice" in compared
    assert "+0.2000" in compared
    assert "ct_1" in compared


def test_publish_and_rollback_change_what_is_in_use(verbs: World) -> None:
    assert "version 1 is in use" in said("publish", "tiny", "1", "--reason", "steadier").stdout
    assert in_use(verbs) == 1
    assert "version 3 is in use again" in said("rollback", "tiny").stdout
    assert in_use(verbs) == 3


def test_reject_pin_and_delete(verbs: World) -> None:
    assert "rejected" in said("reject", "tiny", "2", "-r", "no").stdout
    said("pin", "tiny", "1")
    refused = said("delete", "tiny", "1")
    assert isinstance(refused.exception, CommandFailed)
    assert "pinned" in refused.exception.sentence
    said("unpin", "tiny", "1")
    assert "deleted" in said("delete", "tiny", "1").stdout
    assert [v.number for v in verbs.server.model_store.versions("tiny")] == [2, 3]


def test_the_version_in_use_is_not_deleted(verbs: World) -> None:
    refused = said("delete", "tiny", "3")
    assert isinstance(refused.exception, CommandFailed)
    assert "in use" in refused.exception.sentence
    assert in_use(verbs) == 3
