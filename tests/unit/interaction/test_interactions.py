"""Sessions on the server's side: who may use them, what is kept of them, and what survives what."""

import json

import numpy as np
import pytest

from labelserver.datastore.local import LocalDatastore
from labelserver.domain.errors import (
    ImageNotFound,
    InvalidPrompt,
    NoImageGiven,
    Refused,
    SessionNotFound,
    TaskNotFound,
)
from labelserver.domain.ids import FINAL, ImageId
from labelserver.domain.labels import LabelSource
from labelserver.domain.paths import Root, Roots
from labelserver.domain.prompts import MaskBox, Prompt, PromptKind
from labelserver.imaging.volumes import read_volume, write_volume
from labelserver.interaction.service import Interactions
from tests.fakes.fake_engine import FakeEngine, described
from tests.fakes.fake_sessions import masks_of

pytestmark = pytest.mark.anyio

SHAPE = (12, 10, 8)
CT = ImageId("ct_1")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def point(i, j, k, *, positive=True, label=""):
    return Prompt(PromptKind.POINT, label, positive, np.array([[i, j, k]], dtype=float))


class House:
    """A service over a fake engine, whose clock the test holds."""

    def __init__(self, folder):
        self.roots = Roots(folder / "app", folder / "studies", folder / "studies" / ".labelserver")
        (self.roots.state / "spool").mkdir(parents=True)
        affine = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -3], [0, 0, 3.0, 1], [0, 0, 0, 1]])
        write_volume(self.roots.studies / "ct_1.nii.gz", np.zeros(SHAPE, np.int16), affine, compress=True)
        self.engine = FakeEngine(self.roots, described())
        self.store = LocalDatastore(self.roots.studies, state_dir=self.roots.state)
        self.now = 1_000_000.0
        self.service = self.again()

    def again(self):
        """The service of a server that was started again."""
        return Interactions(self.engine, lambda: self.store, self.roots, keep_days=2.0, clock=lambda: self.now)

    async def mask(self, session_id, person="ann"):
        path = await self.service.mask_file(session_id, person)
        try:
            return read_volume(path).voxels
        finally:
            path.unlink()


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


async def test_open_says_what_the_client_needs(house):
    opened = await house.service.open("ann", "deepedit", image_id=CT)
    assert opened.grid.shape == SHAPE
    assert opened.label_values == {"liver": 1}
    assert opened.prompt_kinds == {PromptKind.POINT, PromptKind.SCRIBBLE, PromptKind.BOX, PromptKind.MASK}
    assert opened.expires_ts == house.now + 2 * 86400
    assert len(opened.session_id) >= 32
    assert (await house.service.get(opened.session_id, "ann")).undoable == 0


async def test_changes_add_up_to_the_mask_and_undo_redo_reset_walk_through_it(house):
    opened = await house.service.open("ann", "deepedit", image_id=CT)
    sid, service = opened.session_id, house.service
    answers = [
        await service.prompt(sid, "ann", [point(3, 3, 3)]),
        await service.prompt(sid, "ann", [point(8, 6, 4)]),
        await service.undo(sid, "ann"),
    ]
    one = masks_of(answers[:1], SHAPE)
    assert (masks_of(answers, SHAPE) == one).all()
    assert (await house.mask(sid) == one).all()
    answers.append(await service.redo(sid, "ann"))
    two = masks_of(answers[:2], SHAPE)
    assert (masks_of(answers, SHAPE) == two).all()
    assert two[8, 6, 4]
    answers.append(await service.reset(sid, "ann"))
    assert not masks_of(answers, SHAPE).any()
    assert (await service.get(sid, "ann")).prompts == 0
    answers.append(await service.undo(sid, "ann"))
    assert (masks_of(answers, SHAPE) == two).all()
    assert (await service.get(sid, "ann")).prompts == 2


async def test_undo_of_nothing_does_not_run(house):
    opened = await house.service.open("ann", "deepedit", image_id=CT)
    assert not (await house.service.undo(opened.session_id, "ann")).ran
    assert not (await house.service.redo(opened.session_id, "ann")).ran


async def test_a_reset_that_forgets_leaves_nothing_to_undo(house):
    opened = await house.service.open("ann", "deepedit", image_id=CT)
    await house.service.prompt(opened.session_id, "ann", [point(3, 3, 3)])
    answer = await house.service.reset(opened.session_id, "ann", forget=True)
    assert answer.ran
    assert not answer.change.empty
    assert not (await house.service.undo(opened.session_id, "ann")).ran


@pytest.mark.parametrize("lost", ["worker", "worker and server"])
async def test_a_session_is_rebuilt_from_its_log(house, lost):
    sid = (await house.service.open("ann", "deepedit", image_id=CT)).session_id
    await house.service.prompt(sid, "ann", [point(3, 3, 3)])
    await house.service.prompt(sid, "ann", [point(8, 6, 4)])
    before = await house.mask(sid)
    await house.service.prompt(sid, "ann", [point(1, 1, 1)])
    await house.service.undo(sid, "ann")
    house.engine.sessions.forget()
    if "server" in lost:
        house.service = house.again()
    assert (await house.mask(sid) == before).all()
    house.engine.sessions.forget()
    redone = await house.service.redo(sid, "ann")
    assert redone.ran
    assert (await house.mask(sid))[1, 1, 1] == 1


async def test_a_new_step_ends_the_undone_branch_and_the_log_shrinks(house, monkeypatch):
    monkeypatch.setattr("labelserver.interaction.session_log.COMPACT_FROM_BYTES", 0)
    sid = (await house.service.open("ann", "deepedit", image_id=CT)).session_id
    log = house.roots.state / "sessions" / sid / "log.jsonl"
    for i in range(1, 7):
        await house.service.prompt(sid, "ann", [point(i, 3, 3)])
    for _ in range(6):
        await house.service.undo(sid, "ann")
    big = log.stat().st_size
    await house.service.prompt(sid, "ann", [point(9, 8, 6)])
    assert log.stat().st_size < big / 2
    assert not (await house.service.redo(sid, "ann")).ran
    house.service = house.again()
    mask = await house.mask(sid)
    assert mask[9, 8, 6]
    assert not mask[1, 3, 3]


async def test_a_torn_last_line_costs_one_step(house):
    sid = (await house.service.open("ann", "deepedit", image_id=CT)).session_id
    await house.service.prompt(sid, "ann", [point(3, 3, 3)])
    one = await house.mask(sid)
    await house.service.prompt(sid, "ann", [point(8, 6, 4)])
    log = house.roots.state / "sessions" / sid / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-40])
    house.engine.sessions.forget()
    house.service = house.again()
    assert (await house.mask(sid) == one).all()


async def test_another_person_does_not_find_the_session(house):
    sid = (await house.service.open("ann", "deepedit", image_id=CT)).session_id
    with pytest.raises(SessionNotFound):
        await house.service.get(sid, "bob")
    with pytest.raises(SessionNotFound):
        await house.service.prompt(sid, "bob", [point(3, 3, 3)])
    with pytest.raises(SessionNotFound):
        await house.service.get("x" * 32, "ann")
    with pytest.raises(SessionNotFound):
        await house.service.get("../ct_1", "ann")


async def test_a_session_that_is_not_held_for_a_person_is_for_whoever_knows_its_id(house):
    sid = (await house.service.open("ann", "deepedit", image_id=CT, hold_person=False)).session_id
    assert (await house.service.prompt(sid, "bob", [point(3, 3, 3)])).ran


async def test_an_unused_session_expires_and_a_used_one_does_not(house):
    old = (await house.service.open("ann", "deepedit", image_id=CT)).session_id
    used = (await house.service.open("ann", "deepedit", image_id=CT)).session_id
    house.now += 86400.0
    await house.service.get(used, "ann")
    await house.service.held.stop()
    house.now += 86400.0 * 1.5
    await house.service.held.expire()
    with pytest.raises(SessionNotFound):
        await house.service.get(old, "ann")
    assert not (house.roots.state / "sessions" / old).exists()
    assert (await house.service.get(used, "ann")).session_id == used


async def test_close_forgets_the_log(house):
    sid = (await house.service.open("ann", "deepedit", image_id=CT)).session_id
    await house.service.prompt(sid, "ann", [point(3, 3, 3)])
    await house.service.close(sid, "ann")
    assert list((house.roots.state / "sessions").iterdir()) == []
    with pytest.raises(SessionNotFound):
        await house.service.get(sid, "ann")


async def test_accept_makes_a_revision_that_says_where_it_came_from(house):
    sid = (await house.service.open("ann", "deepedit", image_id=CT)).session_id
    await house.service.prompt(sid, "ann", [point(3, 3, 3)])
    label_id, revision = await house.service.accept(sid, "ann", FINAL, client="test")
    assert label_id == CT
    assert revision.provenance.source is LabelSource.PROMPTS
    assert (revision.provenance.person, revision.provenance.client) == ("ann", "test")
    assert (revision.provenance.model, revision.provenance.model_version) == ("deepedit", "7")
    assert revision.info["prompts"]["count"] == 1
    assert len(revision.info["prompts"]["sha256"]) == 64
    saved = read_volume(house.store.label_file(CT, FINAL)[1])
    assert saved.voxels[3, 3, 3] == 1
    assert (await house.service.get(sid, "ann")).undoable == 1


async def test_a_picture_gets_a_picture_as_label(house):
    house.engine.app.info["models"]["deepedit"]["interactive"]["dimensions"] = [2]
    write_volume(house.roots.studies / "slide.png", np.zeros((9, 7, 1), np.uint8), np.eye(4), compress=True)
    house.store.refresh()
    slide = ImageId("slide")
    house.engine.sessions._image_of = lambda call: house.roots.studies / "slide.png"
    sid = (await house.service.open("ann", "deepedit", image_id=slide)).session_id
    await house.service.prompt(sid, "ann", [point(3, 3, 0)])
    _, revision = await house.service.accept(sid, "ann", FINAL)
    assert revision.ext == ".png"
    assert read_volume(house.store.label_file(slide, FINAL)[1]).voxels[3, 3, 0] == 1


async def test_the_digest_tells_other_prompts_apart(house):
    digests = set()
    for i in (3, 4):
        sid = (await house.service.open("ann", "deepedit", image_id=CT)).session_id
        await house.service.prompt(sid, "ann", [point(i, 3, 3)])
        digests.add((await house.service.accept(sid, "ann", FINAL))[1].info["prompts"]["sha256"])
    assert len(digests) == 2


async def test_an_image_of_ones_own_moves_into_the_session(house):
    file = house.roots.state / "spool" / "given.nii.gz"
    write_volume(file, np.zeros((6, 6, 6), np.float32), np.eye(4), compress=True)
    opened = await house.service.open("ann", "deepedit", image_file=house.roots.relative(file, Root.STATE))
    assert not file.exists()
    assert opened.grid.shape == (6, 6, 6)
    house.service = house.again()
    house.engine.sessions.forget()
    assert (await house.service.prompt(opened.session_id, "ann", [point(3, 3, 3)])).ran
    with pytest.raises(Refused):
        await house.service.accept(opened.session_id, "ann", FINAL)


async def test_an_initial_mask_is_taken_over_without_a_prediction(house):
    sid = (await house.service.open("ann", "deepedit", image_id=CT)).session_id
    voxels = np.zeros((2, 3, 2), dtype=bool)
    voxels[1, 1] = True
    seed = Prompt(PromptKind.MASK, mask=MaskBox((4, 4, 4), voxels))
    answer = await house.service.prompt(sid, "ann", [seed], predict=False)
    assert not answer.ran
    assert answer.change.values.sum() == 2
    assert (await house.mask(sid)).sum() == 2


async def test_bad_prompts_change_nothing(house):
    sid = (await house.service.open("ann", "deepedit", image_id=CT)).session_id
    bad = [
        point(12, 0, 0),
        point(-1, 0, 0),
        point(3, 3, 3, label="no such label"),
        Prompt(PromptKind.SCRIBBLE),
        Prompt(PromptKind.BOX, points=np.array([[3.0, 3, 3], [3, 3, 3]])),
        Prompt(PromptKind.LASSO, points=np.array([[3.0, 3, 3], [3, 4, 3], [4, 4, 3]])),
        Prompt(PromptKind.SCRIBBLE, mask=MaskBox((0, 0, 0), np.zeros((2, 2, 2), bool))),
        Prompt(PromptKind.SCRIBBLE, mask=MaskBox((11, 0, 0), np.ones((2, 2, 2), bool))),
    ]
    for prompt in bad:
        with pytest.raises(InvalidPrompt):
            await house.service.prompt(sid, "ann", [point(3, 3, 3), prompt])
    with pytest.raises(InvalidPrompt):
        await house.service.prompt(sid, "ann", [], predict=False)
    with pytest.raises(InvalidPrompt):
        await house.service.prompt(sid, "ann", [point(3, 3, 3)] * 1001)
    assert not (await house.mask(sid)).any()
    assert not (house.roots.state / "sessions" / sid / "log.jsonl").exists()


async def test_open_refuses_what_cannot_be_prompted(house):
    with pytest.raises(TaskNotFound, match="deepedit"):
        await house.service.open("ann", "segmentation", image_id=CT)
    with pytest.raises(TaskNotFound):
        await house.service.open("ann", "nothing", image_id=CT)
    with pytest.raises(ImageNotFound):
        await house.service.open("ann", "deepedit", image_id=ImageId("ct_9"))
    with pytest.raises(NoImageGiven):
        await house.service.open("ann", "deepedit")
    flat = house.roots.state / "spool" / "flat.nii.gz"
    write_volume(flat, np.zeros((6, 6, 1), np.uint8), np.eye(4), compress=True)
    with pytest.raises(Refused, match="3-D"):
        await house.service.open("ann", "deepedit", image_file=house.roots.relative(flat, Root.STATE))
    assert not list((house.roots.state / "sessions").glob("*"))


async def test_a_person_has_room_for_new_sessions_as_long_as_nothing_drawn_is_lost(house, monkeypatch):
    monkeypatch.setattr("labelserver.interaction.session_files.MAX_PER_PERSON", 2)
    drawn = (await house.service.open("ann", "deepedit", image_id=CT)).session_id
    await house.service.prompt(drawn, "ann", [point(3, 3, 3)])
    empty = (await house.service.open("ann", "deepedit", image_id=CT)).session_id
    third = (await house.service.open("ann", "deepedit", image_id=CT)).session_id
    left = {path.name for path in (house.roots.state / "sessions").iterdir()}
    assert left == {drawn, third}
    assert empty not in left


async def test_the_record_is_readable_json(house):
    sid = (await house.service.open("ann", "deepedit", image_id=CT)).session_id
    record = json.loads((house.roots.state / "sessions" / sid / "session.json").read_text())
    assert record["person"] == "ann"
    assert record["shape"] == list(SHAPE)
