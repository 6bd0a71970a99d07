"""Rules about labels, each on a label that breaks it alone, and confidence against cleanlab's idea of it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from labelserver.domain.oddities import Oddity
from labelserver.learning import label_quality as rules

NAMES = {1: "organ", 2: "gland"}


def sound() -> NDArray[np.uint8]:
    label = np.zeros((30, 30, 20), np.uint8)
    label[5:15, 5:15, 4:14] = 1
    label[20:26, 20:26, 5:11] = 2
    return label


def kinds(label: NDArray[np.uint8]) -> list[tuple[str, str]]:
    return sorted((one.kind.value, one.label) for one in rules.shape_findings(label, NAMES))


def test_a_sound_label_is_not_told_of() -> None:
    assert kinds(sound()) == []
    assert kinds(np.zeros((4, 4, 4), np.uint8)) == []


def test_an_island_is_found_where_it_is() -> None:
    label = sound()
    label[27:29, 2:4, 17:19] = 1
    (found,) = rules.shape_findings(label, NAMES)
    assert (found.kind, found.label) == (Oddity.ISLAND, "organ")
    assert all(a <= c < b for c, (a, b) in zip(found.center_ijk, ((27, 29), (2, 4), (17, 19)), strict=True))
    assert "8 voxels" in found.detail


def test_two_large_parts_are_no_island() -> None:
    label = sound()
    label[20:28, 2:10, 2:12] = 1
    assert kinds(label) == []


def test_a_hole_is_found_and_an_open_notch_is_none() -> None:
    label = sound()
    label[9:11, 9:11, 8:10] = 0
    (found,) = rules.shape_findings(label, NAMES)
    assert (found.kind, found.slice_k in (8, 9)) == (Oddity.HOLE, True)
    notch = sound()
    notch[9:11, 9:11, 8:14] = 0
    assert kinds(notch) == []


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_missing_slice_is_found_along_any_axis(axis: int) -> None:
    label = sound()
    cut: list[slice | int] = [slice(0, 16), slice(0, 16), slice(0, 16)]
    cut[axis] = 9
    label[tuple(cut)] = 0
    found = [one for one in rules.shape_findings(label, NAMES) if one.kind is Oddity.SLICE_GAP]
    assert [(one.label, one.center_ijk[axis]) for one in found] == [("organ", 9)]


def test_what_nobody_annotated_is_no_label() -> None:
    label = sound()
    label[0:2, 0:2, 0:2] = 255
    assert kinds(label) == []


def test_a_volume_far_from_the_others_is_an_outlier() -> None:
    volumes = {f"i{n}": 1000.0 * (1 + 0.05 * (n % 5)) for n in range(10)}
    assert rules.volume_findings(volumes, "organ") == {}
    found = rules.volume_findings({**volumes, "odd": 9000.0, "tiny": 90.0}, "organ")
    assert set(found) == {"odd", "tiny"}
    assert "larger" in found["odd"].detail
    assert rules.volume_findings(dict(list(volumes.items())[:3]) | {"odd": 9000.0}, "organ") == {}
    assert rules.volume_findings(dict.fromkeys("abcdefg", 10.0), "organ") == {}


def believed(label: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A model that is quite sure of `label`."""
    found = np.stack([label == value for value in range(3)]).astype(np.float32)
    return np.asarray(0.05 + 0.85 * found, dtype=np.float32)


def test_a_model_that_agrees_has_nothing_to_tell() -> None:
    assert rules.confidence_findings(sound(), believed(sound()), NAMES) == []


def test_a_label_that_was_forgotten_swapped_or_put_elsewhere_is_found() -> None:
    truth = believed(sound())
    forgotten = np.where(sound() == 2, 0, sound()).astype(np.uint8)
    (one,) = rules.confidence_findings(forgotten, truth, NAMES)
    assert (one.label, "not drawn" in one.detail) == ("gland", True)
    swapped = np.asarray([0, 2, 1], np.uint8)[sound()]
    assert {one.label for one in rules.confidence_findings(swapped, truth, NAMES)} == {"organ", "gland"}
    moved = np.roll(sound(), 15, axis=1)
    assert {one.label for one in rules.confidence_findings(moved, truth, NAMES)} == {"organ", "gland"}


def test_planted_errors_rank_before_honest_borders() -> None:
    """Self-confidence orders 20 honest labels (shifted by a voxel) after 5 with a wrong second part."""
    chance = np.random.default_rng(0)
    truth = believed(sound())
    honest, wrong = [], []
    for _ in range(20):
        drawn = np.roll(sound() == 1, int(chance.integers(-1, 2)), axis=int(chance.integers(3)))
        honest.append(rules.self_confidence(drawn, truth[1]))
    for _ in range(5):
        drawn = np.array(sound() == 1)
        at = chance.integers(16, 24, 2)
        drawn[at[0] : at[0] + 5, at[1] : at[1] + 5, 12:18] = True
        wrong.append(rules.self_confidence(drawn, truth[1]))
    assert max(wrong) < min(honest)


def test_readers_who_differ_are_told_of_by_label() -> None:
    other = np.where(sound() == 2, 0, sound()).astype(np.uint8)
    other[20:22, 20:26, 5:11] = 2
    (one,) = rules.disagreement_findings(sound(), other, NAMES)
    assert (one.kind, one.label) == (Oddity.DISAGREEMENT, "gland")
    assert one.severity == pytest.approx(0.5)
    assert rules.disagreement_findings(sound(), sound(), NAMES) == []
