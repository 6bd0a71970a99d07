"""The side of an image is a property of its id."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelserver.domain.splits import Known, Side, SplitRule, fixed_sides, held_out, place_of, subject_of

IDS = st.lists(st.text(min_size=1, max_size=12), min_size=2, max_size=40, unique=True)


def test_a_single_image_is_never_held_out() -> None:
    assert held_out(["only"], 0.9) == frozenset()


def test_no_share_holds_nothing_out() -> None:
    assert held_out([f"case_{i}" for i in range(20)], 0.0) == frozenset()


def test_two_images_give_one_to_train_on_and_one_to_measure_on() -> None:
    for share in (0.01, 0.2, 0.99):
        assert len(held_out(["a", "b"], share)) == 1


def test_a_fifth_of_many_images_is_held_out() -> None:
    chosen = held_out([f"case_{i}" for i in range(2000)], 0.2)
    assert 340 <= len(chosen) <= 460


def test_another_key_draws_another_split() -> None:
    ids = [f"case_{i}" for i in range(200)]
    assert held_out(ids, 0.2, b"one") != held_out(ids, 0.2, b"two")


@given(ids=IDS, share=st.floats(0.05, 0.95))
def test_both_sides_have_at_least_one_image(ids: list[str], share: float) -> None:
    chosen = held_out(ids, share)
    assert 1 <= len(chosen) < len(ids)


@given(ids=IDS, more=IDS, share=st.floats(0.05, 0.95))
def test_adding_images_moves_none_that_its_own_place_decided(ids: list[str], more: list[str], share: float) -> None:
    before, after = held_out(ids, share), held_out([*ids, *more], share)
    by_place = {i for i in ids if place_of(i) < share}
    kept = before & by_place
    # unless everything is below the share, so that one must be left to train on
    lost = kept - after
    assert len(lost) <= 1
    assert all(place_of(i) < share for i in {*ids, *more}) or not lost
    assert (after & set(ids)) <= by_place or len(after) == 1


RULE = SplitRule(b"key", 0.2)
SUBJECTS = st.lists(st.text(min_size=1, max_size=8), max_size=30, unique=True)


@given(batches=st.lists(SUBJECTS, max_size=5), share=st.floats(0.01, 0.99))
def test_there_is_always_one_to_learn_from_and_of_two_one_to_measure_on(batches: list[list[str]], share: float) -> None:
    rule, sides = SplitRule(b"key", share), dict[str, Side]()
    for batch in batches:
        new = [subject for subject in batch if subject not in sides]
        held = sum(side is Side.HELD_OUT for side in sides.values())
        fixed = fixed_sides(new, rule, Known(len(sides) - held, held))
        assert fixed.keys() == set(new)
        sides.update(fixed)
        assert not sides or Side.TRAINING in sides.values()
        assert len(sides) < 2 or Side.HELD_OUT in sides.values()


@given(count=st.integers(2, 30), labelled=st.integers(2, 30), share=st.floats(0.01, 0.99))
def test_of_two_that_come_with_labels_one_is_to_learn_from_and_one_to_measure_on(
    count: int, labelled: int, share: float
) -> None:
    subjects = [f"s{i}" for i in range(max(count, labelled))]
    fixed = fixed_sides(subjects, SplitRule(b"key", share), Known(), subjects[:labelled], Known())
    assert {fixed[subject] for subject in subjects[:labelled]} == set(Side)


def test_about_the_share_of_many_subjects_is_held_out() -> None:
    fixed = fixed_sides([f"s{i}" for i in range(2000)], RULE, Known(1, 1))
    assert 340 <= sum(side is Side.HELD_OUT for side in fixed.values()) <= 460


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("sub-01/anat/sub-01_T1w.nii.gz", "derivatives/sub-01/x.nii.gz", True),
        ("sub-01/a.nii.gz", "sub-02/a.nii.gz", False),
        ("sub-01_T1w.nii.gz", "sub-010_T1w.nii.gz", False),
        ("mysub-01/a.nii.gz", "mysub-01/b.nii.gz", False),
        ("a/1.nii.gz", "a/2.nii.gz", False),
    ],
)
def test_a_bids_subject_is_known_by_its_label(one: str, other: str, same: bool) -> None:
    assert (subject_of(RULE, one, one) == subject_of(RULE, other, other)) is same


def test_a_patient_goes_before_a_bids_label_and_a_pattern_before_both() -> None:
    path, by_folder = "site/sub-01/a.nii.gz", SplitRule(b"key", 0.2, "^([^/]+)/")
    assert subject_of(RULE, "a", path, "P7") == subject_of(RULE, "b", "elsewhere.dcm", "P7")
    assert subject_of(by_folder, "a", path, "P7") == subject_of(by_folder, "b", "site/other.nii.gz")
    assert subject_of(RULE, "a", path, "P7") != subject_of(SplitRule(b"other key", 0.2), "a", path, "P7")
