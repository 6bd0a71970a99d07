"""Times come from signs of life; a submitted label ends a piece of work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from labelserver.app.proof import PROPOSALS, keep_proposal, learning_curve, measure_some
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.effort import Piece, Proposal, Sign
from labelserver.domain.errors import ModelNotFound
from labelserver.domain.ids import FINAL, ORIGINAL, ImageId, folder_key
from labelserver.domain.labels import LabelSource, Provenance
from labelserver.imaging.volumes import read_volume, write_volume
from labelserver.model_store.local import LocalModelStore
from tests.support.study_folder import AFFINE, put_image, put_label

IMAGE = ImageId("i0")
NAMES = {"label_info": [{"name": "organ", "idx": 1}]}


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("labelserver.datastore.labels.time.time", found)
    return found


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[LocalDatastore]:
    (tmp_path / "studies").mkdir()
    for number in range(3):
        put_image(tmp_path / "studies", f"i{number}.nii.gz")
    opened = LocalDatastore(tmp_path / "studies")
    opened.work.times._clock = clock
    yield opened
    opened.close()


def submit(store: LocalDatastore, file: Path, person: str = "anna", tag: str = FINAL, **info: object) -> None:
    store.accept_label(IMAGE, file, ".nii.gz", tag, Provenance(person), {**NAMES, **info})  # type: ignore[arg-type, dict-item]


def only(store: LocalDatastore) -> Piece:
    (piece,) = store.work.times.pieces()
    return piece


def test_time_between_signs_counts_unless_it_is_long(store: LocalDatastore, tmp_path: Path, clock: Clock) -> None:
    times, began = store.work.times, clock.now
    times.note("anna", Sign.OPEN, IMAGE)
    for gap, sign in ((30, Sign.ACTIVE), (50, Sign.EDIT), (61, Sign.EDIT), (10, Sign.PROMPT), (600, Sign.ACTIVE)):
        clock.now += gap
        times.note("anna", sign, IMAGE)
    clock.now += 20
    submit(store, put_label(tmp_path / "l.nii.gz"))
    piece = only(store)
    assert piece.active_s == pytest.approx(30 + 50 + 10 + 20)
    assert (piece.opened_ts, piece.edited_ts) == (began, began + 80)
    assert piece.submitted_ts == pytest.approx(clock.now)
    assert (piece.prompts, piece.tag, piece.revision, piece.proposal) == (1, "final", 1, None)


def test_scripted_work_is_timed_within_five_percent(store: LocalDatastore, tmp_path: Path, clock: Clock) -> None:
    truth = 0.0
    store.work.times.note("anna", Sign.OPEN, IMAGE)
    for number in range(200):
        gap = 90.0 if number % 40 == 39 else 2.0 + number % 7
        clock.now += gap
        truth += gap if gap <= 60 else 0.0
        store.work.times.note("anna", Sign.EDIT if number % 3 else Sign.ACTIVE, IMAGE)
        if number % 50 == 0:
            store.work.times.flush()
    submit(store, put_label(tmp_path / "l.nii.gz"))
    assert only(store).active_s == pytest.approx(truth, rel=0.05)


def test_each_person_and_each_submission_has_a_piece_of_its_own(
    store: LocalDatastore, tmp_path: Path, clock: Clock
) -> None:
    for person in ("anna", "bea"):
        store.work.times.note(person, Sign.OPEN, IMAGE)
    clock.now += 5
    submit(store, put_label(tmp_path / "l.nii.gz"))
    store.work.times.note("anna", Sign.EDIT, IMAGE)
    pieces = store.work.times.pieces()
    assert [(p.person, p.submitted_ts is not None) for p in pieces] == [
        ("anna", True),
        ("bea", False),
        ("anna", False),
    ]
    assert [p.person for p in store.work.times.pieces(person="bea")] == ["bea"]
    assert len(store.work.times.pieces(submitted=True)) == 1


def test_signs_without_work_begin_nothing(store: LocalDatastore, tmp_path: Path) -> None:
    store.work.times.note("anna", Sign.ACTIVE, IMAGE)
    store.work.times.note("anna", Sign.PROMPT)
    store.work.times.note("anna", Sign.OPEN, "unknown")
    submit(store, put_label(tmp_path / "l.nii.gz"))
    assert store.work.times.pieces() == []


def test_prompts_of_a_session_are_counted_with_its_label(store: LocalDatastore, tmp_path: Path) -> None:
    store.work.times.note("anna", Sign.OPEN, IMAGE)
    submit(store, put_label(tmp_path / "l.nii.gz"), prompts={"count": 7, "steps": 7, "sha256": "x"})
    assert only(store).prompts == 7


def test_a_stored_proposal_is_compared_with_what_became_of_it(store: LocalDatastore, tmp_path: Path) -> None:
    proposed = put_label(tmp_path / "p.nii.gz")
    made = Provenance("labelserver", source=LabelSource.MODEL, model="seg", model_version="4")
    store.accept_label(IMAGE, proposed, ".nii.gz", ORIGINAL, made, dict(NAMES))  # type: ignore[arg-type]
    store.work.times.note("anna", Sign.OPEN, IMAGE)
    voxels = read_volume(proposed).voxels.copy()
    voxels[0, 0, :3] = 0
    final = tmp_path / "f.nii.gz"
    write_volume(final, voxels, AFFINE, compress=True)
    submit(store, final)
    assert measure_some(store) == 1
    piece = only(store)
    assert piece.proposal == Proposal("seg", "4", "original", 1)
    assert (piece.voxels_changed, piece.voxels) == (3, 60)
    assert piece.proposal_dice == pytest.approx(2 * 57 / (60 + 57))
    assert piece.accepted is False
    assert measure_some(store) == 0


def test_a_shown_proposal_is_kept_until_it_was_compared(store: LocalDatastore, tmp_path: Path) -> None:
    submit(store, put_label(tmp_path / "l.nii.gz"), "carl")  # the schema knows the label then
    shown = put_label(tmp_path / "p.nii.gz", 3)
    store.work.times.note("anna", Sign.OPEN, IMAGE)
    keep_proposal(store, IMAGE, "anna", Proposal("seg", "5"), shown, {"organ": 3})
    folder = store.layout.state / "cache" / PROPOSALS / folder_key(IMAGE)
    assert len(list(folder.iterdir())) == 2
    submit(store, put_label(tmp_path / "l.nii.gz"))
    measure_some(store)
    piece = only(store)
    assert (piece.proposal, piece.proposal_dice, piece.accepted) == (Proposal("seg", "5"), 1.0, True)
    assert list(folder.iterdir()) == []


def test_a_damaged_proposal_is_given_up_once(store: LocalDatastore, tmp_path: Path) -> None:
    store.work.times.note("anna", Sign.OPEN, IMAGE)
    keep_proposal(store, IMAGE, "anna", Proposal("seg", "5"), b"not a box", {"organ": 1})
    submit(store, put_label(tmp_path / "l.nii.gz"))
    assert measure_some(store) == 1
    assert only(store).proposal_dice is None
    assert measure_some(store) == 0


def test_times_come_back_from_the_backup(store: LocalDatastore, tmp_path: Path, clock: Clock) -> None:
    store.work.times.note("anna", Sign.OPEN, IMAGE)
    clock.now += 30
    submit(store, put_label(tmp_path / "l.nii.gz"))
    before = only(store)
    store.upkeep.backup()
    store.close()
    for part in store.layout.index_file.parent.glob("index.sqlite*"):
        part.unlink()
    again = LocalDatastore(tmp_path / "studies")
    assert only(again) == before
    again.close()


def test_a_model_that_nobody_trained_has_no_curve(store: LocalDatastore, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    with pytest.raises(ModelNotFound, match="Train one first"):
        learning_curve(LocalModelStore(tmp_path / "app"), store, "seg")
