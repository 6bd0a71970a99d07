"""The side of an image is a property of its id."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from labelserver.domain.splits import held_out, place_of

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
