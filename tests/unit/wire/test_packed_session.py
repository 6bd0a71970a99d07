"""Calls and answers of sessions survive the way through a frame; damaged ones are refused."""

import numpy as np
import pytest

from labelserver.domain.errors import StoredDataInvalid, UnreadableFile
from labelserver.domain.ids import ImageId
from labelserver.domain.interaction import MaskChange, SessionAnswer, SessionCall, SessionVerb, Step
from labelserver.domain.paths import Root, RootedPath
from labelserver.domain.prompts import MaskBox, Prompt, PromptKind
from labelserver.wire.mask_box import decode_box, with_params
from labelserver.wire.packed_session import pack_answer, pack_call, pack_change, unpack_answer, unpack_call

SHAPE = (20, 10, 6)
CHANGE = MaskChange((1, 2, 3), np.array([[[1, 0, 2]]], np.uint8))
DRAWN = np.random.default_rng(0).random((5, 4, 3)) > 0.5
PROMPTS = (
    Prompt(PromptKind.POINT, "liver", False, np.array([[1.5, 2, 3]])),
    Prompt(PromptKind.SCRIBBLE, "", True, mask=MaskBox((2, 3, 1), DRAWN)),
)


def test_a_call_with_its_history():
    packed = pack_change(CHANGE, SHAPE)
    steps = (Step(PROMPTS, CHANGE, "3", packed=packed), Step((), CHANGE, predicted=False, cleared=True, packed=packed))
    call = SessionCall(
        "s",
        SessionVerb.OPEN,
        "task",
        "ann",
        image_id=ImageId("a/b"),
        prompts=PROMPTS,
        predict=False,
        params={"a": [1]},
        history=steps,
        undone=steps[:1],
        at=17,
        forget=True,
        ext=".nrrd",
        renumber=True,
    )
    document, block = pack_call(call)
    again = unpack_call(document, block)
    for name in (
        "session",
        "verb",
        "task",
        "person",
        "image_id",
        "predict",
        "params",
        "at",
        "forget",
        "ext",
        "renumber",
    ):
        assert getattr(again, name) == getattr(call, name), name
    assert (again.prompts[0].points == PROMPTS[0].points).all()
    assert (again.prompts[0].label, again.prompts[0].positive) == ("liver", False)
    assert again.prompts[1].mask.lo == (2, 3, 1)
    assert (again.prompts[1].mask.voxels == DRAWN).all()
    assert len(again.history) == 2
    assert len(again.undone) == 1
    assert (again.history[0].change.values == CHANGE.values).all()
    assert (again.history[1].cleared, again.history[1].predicted) == (True, False)
    assert again.history[0].model_version == "3"


def test_a_call_without_history_is_not_one_with_an_empty_one():
    file = RootedPath(Root.STATE, "sessions/x/image.nii.gz")
    for history in (None, ()):
        call = SessionCall("s", SessionVerb.PROMPT, "t", "p", image_file=file, history=history)
        again = unpack_call(*pack_call(call))
        assert again.history == history
        assert again.image_file == file


def test_an_answer():
    answer = SessionAnswer(True, CHANGE, False, {"pre": 0.5}, "4", RootedPath(Root.STATE, "spool/x"), {"zoom": 2})
    again = unpack_answer(*pack_answer(answer, SHAPE))
    assert (again.change.values == CHANGE.values).all()
    assert again.change.lo == CHANGE.lo
    assert (again.ran, again.final, again.seconds, again.model_version) == (True, False, {"pre": 0.5}, "4")
    assert (again.file, again.notes) == (answer.file, {"zoom": 2})
    assert again.packed == pack_change(CHANGE, SHAPE)


@pytest.mark.parametrize("place", [[0, 10**9], [-1, 4], [0], None, ["a", "b"]])
def test_places_outside_the_block_are_refused(place):
    document, block = pack_call(SessionCall("s", SessionVerb.PROMPT, "t", "p", prompts=PROMPTS))
    document["prompts"][1]["mask"]["at"] = place
    with pytest.raises(StoredDataInvalid):
        unpack_call(document, block)


def test_a_mask_that_claims_another_size_is_refused():
    for shape in ([500, 500, 500], [2, 2, 2], [0, 1, 1], [2**20, 2**20, 2**20]):
        document, block = pack_call(SessionCall("s", SessionVerb.PROMPT, "t", "p", prompts=PROMPTS))
        document["prompts"][1]["mask"]["shape"] = shape
        with pytest.raises(StoredDataInvalid):
            unpack_call(document, block)


def test_other_json_in_a_packed_change_leaves_its_voxels():
    packed = pack_change(CHANGE, SHAPE)
    changed = decode_box(with_params(with_params(packed, {"a": "x" * 500}), {"b": 2}))
    assert changed.params == {"b": 2}
    assert (changed.voxels == CHANGE.values).all()
    with pytest.raises(UnreadableFile):
        with_params(b"PK", {})
