"""The sample studies are what they claim: the same for a seed, varied, anatomically plausible and not trivial."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labelserver.imaging.volumes import read_grid, read_volume
from labelserver.phantoms import LABELS, Phantom, make_phantom, make_study_set, with_shifted_appearance

COARSE_MM = 9.0


@pytest.fixture(scope="module")
def cases() -> list[Phantom]:
    return [make_phantom(number, spacing_mm=6.0) for number in range(16)]


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first = make_study_set(tmp_path / "a", 3, seed=5, spacing_mm=COARSE_MM)
    second = make_study_set(tmp_path / "b", 3, seed=5, spacing_mm=COARSE_MM)
    other = make_study_set(tmp_path / "c", 1, seed=6, spacing_mm=COARSE_MM)
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert first[0].read_bytes() != other[0].read_bytes()


def test_a_case_does_not_depend_on_how_many_are_made() -> None:
    assert np.array_equal(make_phantom(2, spacing_mm=COARSE_MM).voxels, make_phantom(2, spacing_mm=COARSE_MM).voxels)


def test_references_lie_apart_from_the_studies_on_the_same_grid(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    images = make_study_set(
        tmp_path / "set", 4, spacing_mm=COARSE_MM, on_progress=lambda done, count: seen.append((done, count))
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert sorted(p.name for p in (tmp_path / "set").iterdir()) == [p.name for p in images]
    for image in images:
        reference = tmp_path / "set-reference" / image.name
        assert read_grid(image).same_place(read_grid(reference))
        assert set(np.unique(read_volume(reference).voxels)) == {0, *LABELS.values()}


def test_every_organ_of_every_case_has_a_plausible_size(cases: list[Phantom]) -> None:
    limits_ml = {"liver": (500, 2200), "spleen": (50, 450), "right_kidney": (40, 350), "left_kidney": (40, 350)}
    for case in cases:
        voxel_ml = abs(np.linalg.det(case.affine[:3, :3])) / 1000
        for name, value in LABELS.items():
            low, high = limits_ml[name]
            assert low < (case.labels == value).sum() * voxel_ml < high, (case.name, name)


def test_organs_lie_on_their_side_of_the_patient(cases: list[Phantom]) -> None:
    for case in cases:
        center = {}
        for name, value in LABELS.items():
            ijk = np.argwhere(case.labels == value).mean(axis=0)
            center[name] = case.affine[:3, :3] @ ijk + case.affine[:3, 3]
        # RAS+: x grows towards the patient's right, z upwards.
        assert center["liver"][0] > center["spleen"][0] + 60, case.name
        assert center["right_kidney"][0] > center["left_kidney"][0] + 60, case.name
        assert center["liver"][2] > center["right_kidney"][2], case.name


def test_pose_spacing_orientation_and_contrast_vary(cases: list[Phantom]) -> None:
    assert len(cases) == 16
    spacings = [np.linalg.norm(case.affine[:3, :3], axis=0) for case in cases]
    assert sum(s.max() / s.min() > 1.8 for s in spacings) >= 3, "a few are anisotropic"
    oblique = [
        np.sort(np.abs(c.affine[:3, :3] / s), axis=None)[-3] < 0.999 for c, s in zip(cases, spacings, strict=True)
    ]
    assert any(oblique)
    assert not all(oblique)
    orders = {tuple(np.argmax(np.abs(c.affine[:3, :3]), axis=0)) for c in cases}
    signs = {tuple(np.sign(c.affine[:3, :3].sum(axis=0))) for c in cases}
    assert len(orders) >= 3
    assert len(signs) >= 3
    assert len({case.voxels.shape for case in cases}) == 16
    assert {case.contrast for case in cases} == {True, False}


def test_hounsfield_units_are_plausible(cases: list[Phantom]) -> None:
    for case in cases:
        median = {name: float(np.median(case.voxels[case.labels == value])) for name, value in LABELS.items()}
        assert 25 < median["liver"] < 140
        assert 30 < median["spleen"] < 140
        assert 15 < median["left_kidney"] < 190
        assert case.voxels.min() < -900
        assert case.voxels.max() > 200
        assert case.voxels.dtype == np.int16


def test_no_threshold_finds_an_organ(cases: list[Phantom]) -> None:
    """Within the middle 90 % of an organ's HU there is more of other tissue than of the organ."""
    for case in cases[:4]:
        for name, value in LABELS.items():
            if name == "liver" or (case.contrast and "kidney" in name):
                continue
            inside = case.labels == value
            low, high = np.percentile(case.voxels[inside], [5, 95])
            taken = (case.voxels >= low) & (case.voxels <= high)
            assert (taken & ~inside).sum() > (taken & inside).sum(), (case.name, name)


def test_another_appearance_shows_the_same_body_in_other_intensities(cases: list[Phantom]) -> None:
    case = cases[1]
    shifted = with_shifted_appearance(case)
    assert np.array_equal(shifted.labels, case.labels)
    assert np.array_equal(with_shifted_appearance(case).voxels, shifted.voxels)
    soft = (case.voxels > -160) & (case.voxels < 240)
    assert abs(np.corrcoef(case.voxels[soft], shifted.voxels[soft])[0, 1]) < 0.7
    air = case.voxels < -900
    assert shifted.voxels[air].mean() < 0
