"""Scores stretched axis by axis give the labels of stretching them all, wherever in the grid the classes speak."""

from __future__ import annotations

import itertools

import pytest
import torch

from labelserver.tasks.separable import Axis, Rule, labels_on_axes


def same_axis(source: int, size: int) -> Axis:
    places = torch.arange(size)
    return Axis(source, places, places.clone(), torch.zeros(size), 0, size)


def doubled_axis(source: int, size: int) -> Axis:
    """Two positions for each voxel of the source."""
    lower = torch.arange(2 * size) // 2
    upper = (lower + 1).clamp(max=size - 1)
    weight = (torch.arange(2 * size) % 2).float() / 2
    return Axis(source, lower, upper, weight, 0, 2 * size)


def expected(scores: torch.Tensor, axes: list[Axis]) -> torch.Tensor:
    values = scores
    for dimension, axis in enumerate(axes, start=1):
        weight = axis.weight.view([-1 if d == dimension else 1 for d in range(4)])
        values = torch.lerp(
            values.index_select(dimension, axis.lower), values.index_select(dimension, axis.upper), weight
        )
    return values.argmax(0).to(torch.uint8)


@pytest.mark.parametrize("channels", [2, 3])
@pytest.mark.parametrize("doubled", list(itertools.product([False, True], repeat=3)))
@pytest.mark.parametrize("corner", [(0, 0, 0), (2, 3, 1), (4, 5, 6)])
def test_labels_are_those_of_all_scores_stretched(
    channels: int, doubled: tuple[bool, ...], corner: tuple[int, int, int]
) -> None:
    """The box that speaks for a class may end before the grid does, also along an axis that is not stretched."""
    size = (7, 9, 8)
    scores = torch.zeros(channels, *size)
    scores[0] = 0.5
    box = tuple(slice(start, start + 2) for start in corner)
    scores[(channels - 1, *box)] = 1.0
    axes = [(doubled_axis if twice else same_axis)(index, size[index]) for index, twice in enumerate(doubled)]
    assert torch.equal(labels_on_axes(scores, axes, Rule()), expected(scores, axes))


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product([False, True], repeat=3)))
def test_voxels_that_are_only_picked_are_turned_and_flipped(
    channels: int, order: tuple[int, ...], flips: tuple[bool, ...]
) -> None:
    size = (5, 7, 4)
    scores = torch.randn(channels, *size, generator=torch.Generator().manual_seed(0))
    rule = Rule(from_logit=0.25) if channels == 1 else Rule()
    axes = [same_axis(source, size[source]) for source in order]
    axes = [axis.flipped() if flip else axis for axis, flip in zip(axes, flips, strict=True)]
    labels = labels_on_axes(scores, axes, rule)
    whole = (scores[0] >= 0.25).to(torch.uint8) if channels == 1 else scores.argmax(0).to(torch.uint8)
    turned = whole.permute(order)
    assert torch.equal(labels, turned.flip([place for place, flip in enumerate(flips) if flip]))
    assert labels.permute(2, 1, 0).is_contiguous(), "the first axis lies fastest, as files want it"


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize(
    "doubled", [(True, True, False), (False, True, False), (True, False, True), (True, True, True)]
)
def test_stretched_axes_may_stand_in_any_order(order: tuple[int, ...], doubled: tuple[bool, ...]) -> None:
    """Also more rows than one slab holds."""
    size = (70, 6, 5)
    scores = torch.randn(3, *size, generator=torch.Generator().manual_seed(1))
    by_source = [(doubled_axis if twice else same_axis)(index, size[index]) for index, twice in enumerate(doubled)]
    labels = labels_on_axes(scores, [by_source[source].flipped() for source in order], Rule())
    whole = expected(scores, by_source).permute(order).flip([0, 1, 2])
    assert torch.equal(labels, whole)
