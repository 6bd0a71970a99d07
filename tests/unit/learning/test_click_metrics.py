"""Numbers about clicks: against MONAI where it has them, against hand-made curves where it has not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from labelserver.learning import click_metrics as metrics


def blobs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(random.normal(size=(24, 20, 16)), 3)
    other = field + ndimage.gaussian_filter(random.normal(size=field.shape), 2) * 0.4
    return field > 0.02, other > 0.02


@pytest.mark.filterwarnings("ignore:monai.metrics.utils:FutureWarning")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 3.0)])
def test_dice_and_surface_dice_are_monais(seed: int, spacing: tuple[float, float, float]) -> None:
    torch = pytest.importorskip("torch")
    from monai.metrics import compute_dice, compute_surface_dice

    first, second = blobs(seed)
    one, two = (torch.from_numpy(mask)[None, None].float() for mask in (first, second))
    assert metrics.dice(first, second) == pytest.approx(float(compute_dice(one, two)), abs=1e-6)
    theirs = compute_surface_dice(one, two, class_thresholds=[2.0], include_background=True, spacing=spacing)
    assert metrics.surface_dice(first, second, spacing, 2.0) == pytest.approx(float(theirs), abs=1e-6)


def test_empty_masks_have_a_surface_dice() -> None:
    empty, full = np.zeros((4, 4, 4), bool), np.ones((4, 4, 4), bool)
    assert metrics.surface_dice(empty, empty, (1, 1, 1)) == 1
    assert metrics.surface_dice(empty, full, (1, 1, 1)) == 0
    assert metrics.dice(empty, empty) == 1


def test_clicks_are_counted_to_the_first_that_is_enough() -> None:
    curve = [0.3, 0.86, 0.8, 0.91]
    assert [metrics.clicks_to(curve, q, 20) for q in metrics.ENOUGH] == [2, 2, 4]
    assert metrics.clicks_to([0.1, 0.2], 0.8, 20) == 20
    assert metrics.never([0.1, 0.2], 0.8)
    assert not metrics.never(curve, 0.9)


def test_the_area_of_a_constant_is_the_constant_and_a_short_curve_keeps_its_end() -> None:
    assert metrics.area([0.7] * 5) == pytest.approx(0.7)
    assert metrics.area([0.0, 1.0]) == pytest.approx((0.5 + 1 + 1 + 1) / 4)


def test_a_step_back_is_told_from_noise() -> None:
    assert metrics.steps_back([0.5, 0.495, 0.6, 0.4]) == pytest.approx(1 / 3)


def test_far_changes_are_counted_along_the_worst_axis() -> None:
    before, after = np.zeros((40, 9, 9), bool), np.zeros((40, 9, 9), bool)
    after[[2, 30], 4, 4] = True
    assert metrics.far_changes(before, after, (2, 4, 4), reach=10) == 1


def test_a_summary_has_every_number() -> None:
    found = metrics.summary([[0.5, 0.9]], [[0.2, 0.4]], [metrics.Times(0.1, 0.2, 0.01)], limit=2)
    assert found["dice@1"] == 0.5
    assert found["nsd@2"] == 0.4
    assert (found["noc@90"], found["never@90"]) == (2, 0)
    assert found["server_ms"] == {"p50": 200.0, "p95": 200.0}
    assert metrics.summary([], [], [], 5) == {"objects": 0}
