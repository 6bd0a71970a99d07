"""Which requests keep a training waiting, on which device."""

from __future__ import annotations

from pathlib import Path

import pytest

from labelserver.domain.infer import Priority
from labelserver.domain.paths import Roots
from labelserver.engine.workers import ASK_LANE, CLICK_LANE, INFER_LANE, LEAD_LANE, OPEN_LANE
from labelserver.storage.device_marks import FOLDER, is_interactive
from labelserver.worker.for_people import answering


@pytest.mark.parametrize(
    ("lane", "params", "device"),
    [
        (CLICK_LANE, {}, "cpu"),
        (ASK_LANE, {}, "cpu"),
        (OPEN_LANE, {}, "cpu"),
        (INFER_LANE, {}, "cpu"),
        (INFER_LANE, {"priority": Priority.OPEN_IMAGE.value, "params": {"device": "cuda"}}, "cuda:0"),
        (INFER_LANE, {"priority": Priority.BATCH.value}, None),
        (INFER_LANE, {"priority": Priority.SCORING.value}, None),
        (LEAD_LANE, {}, None),
    ],
)
def test_the_device_is_marked_while_a_person_waits(tmp_path, lane, params, device):
    roots = Roots(tmp_path, tmp_path, tmp_path)
    with answering(roots, lane, params):
        assert [name for name in ("cpu", "cuda:0") if is_interactive(tmp_path / FOLDER, name)] == (
            [device] if device else []
        )
    assert not is_interactive(tmp_path / FOLDER, "cpu")


def test_an_answer_does_not_fail_for_want_of_a_mark(tmp_path):
    nowhere = tmp_path / "file"
    nowhere.touch()
    with answering(Roots(Path(nowhere), tmp_path, tmp_path), CLICK_LANE, {}):
        assert not is_interactive(nowhere / FOLDER, "cpu")
