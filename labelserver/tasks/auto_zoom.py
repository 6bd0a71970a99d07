"""From a patch to the image: look closely first, farther away if the object does not fit, then sharpen what changed.

    window round the new prompts -> answer -> does the change touch a face? -> 1.5 times coarser, at most `max_zoom`
    coarse answer is shown -> tiles over the surface that changed, at the finest zoom that needs few tiles -> answer

Every view has the same shape, and the number of views of one answer is bounded, so that an answer costs the same in
any volume. Voxels outside the window never change; in a coarse view only voxels near a change do. What a person marked
voxel by voxel stays as marked (`drawn_voxels`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from labelserver.domain.geometry import Grid
from labelserver.domain.prompts import Prompt, PromptKind
from labelserver.tasks.drawn_voxels import keep_drawn
from labelserver.tasks.hints import Hint, extent, hints_on
from labelserver.tasks.transform_runs import stop_if_asked
from labelserver.tasks.windows import (
    Box,
    Patch,
    PatchMask,
    Window,
    bounds,
    inside_image,
    sampled,
    sampled_mask,
    unsampled,
    window_at,
)

#: A face counts as crossed if the change covers this share of it, or the smaller share with a relative change above
#: `_RELATIVE`: the numbers of nnInteractive (1 500 or 100 voxels of 192 x 192, 20 %), as shares.
_MANY, _SOME, _RELATIVE = 1500 / 192**2, 100 / 192**2, 0.2
_FACTOR = 1.5
#: Share of a tile at each side that only gives context.
_MARGIN = 1 / 8
#: Extent of new prompts plus this share of the patch fits into the first window.
_AROUND = 1 / 3


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What an engine sees."""

    window: Window
    image: Patch  #: intensities
    previous: Patch  #: share of the current mask, 0 to 1
    on_image: PatchMask
    hints: list[Hint]
    #: 0, or: `previous` answers the same prompts this many times coarser, and only its edge is in doubt
    refining: float = 0.0


class PatchEngine(Protocol):
    """Answers one view with the probability of the label at each patch voxel."""

    @property
    def roi(self) -> int:
        """Patch voxels along each axis."""

    @property
    def max_zoom(self) -> float:
        """How much coarser than the closest view it looks at most."""

    @property
    def max_tiles(self) -> int:
        """How many views it takes at most to sharpen an answer."""

    @property
    def looks_at_all(self) -> bool:
        """Begin with a window that holds all prompts if there is one, not only the new ones."""

    @property
    def corrects_locally(self) -> bool:
        """After the first answer look from near only: a correction is about one place, not about the whole object."""

    def answer(self, view: View) -> Patch:
        """The probability at each patch voxel."""


@dataclass(frozen=True, slots=True, eq=False)
class ZoomedAnswer:
    """What the label is in the box at `lo` now."""

    lo: tuple[int, int, int]
    inside: NDArray[np.bool_]  #: (A, B, C)
    zoom: float
    tiles: int = 0
    final: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """All that stays the same while one question is answered."""

    image: NDArray[np.generic]  #: (I, J, K)
    grid: Grid
    prompts: Sequence[tuple[Prompt, bool]]  #: with their signs for the label asked about, oldest first
    new: int  #: how many of them, at the end, are to be answered
    spacing_mm: float | None = None  #: of the finest view


def answered(engine: PatchEngine, scene: Scene, mask: NDArray[np.generic], value: int) -> Iterator[ZoomedAnswer]:
    """Answer the new prompts about the label `value` of `mask` (I, J, K); a coarse answer may come before the last."""
    focus = _focus(engine, scene)
    if focus is None:
        return
    window, patch, previous = _zoomed_out(engine, scene, mask, value, focus)
    current = _Current.cut(mask, value, window)
    changed = _changed(patch, previous)
    current.paste(patch, window, changed if max(window.step) > 1.25 else None)
    tiles = _tiles(engine, scene, window, patch, changed)
    keep_drawn(current.inside, current.box, scene.prompts)
    if tiles:
        yield current.answer(window.zoom, len(tiles), final=False)
    for tile in tiles:
        stop_if_asked()
        view = _view(scene, tile, current.sampled(tile), refining=window.zoom / tile.zoom)
        current.paste_core(engine.answer(view), tile)
    keep_drawn(current.inside, current.box, scene.prompts)
    yield current.answer(window.zoom, len(tiles), final=True)


def _focus(engine: PatchEngine, scene: Scene) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Lowest and highest voxel index of what has to be seen."""
    if engine.looks_at_all:
        found = extent(prompt for prompt, _ in scene.prompts)
        if found is not None:
            window = window_at(found[0], scene.grid, engine.roi, engine.max_zoom, spacing_mm=scene.spacing_mm)
            if ((found[1] - found[0] + 1) / np.asarray(window.step) <= engine.roi * (1 - _AROUND)).all():
                return found
    return extent(prompt for prompt, _ in scene.prompts[-scene.new :])


def _zoomed_out(
    engine: PatchEngine,
    scene: Scene,
    mask: NDArray[np.generic],
    value: int,
    focus: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> tuple[Window, Patch, Patch]:
    """The first window that the answer fits into, the answer there, and the mask before."""
    lo, hi = focus
    zoom = 1.0
    drawn = [prompt.kind for prompt, _ in scene.prompts[-scene.new :]]
    # A box or an initial mask speaks about a whole object, not about a place in it.
    whole = PromptKind.BOX in drawn or PromptKind.MASK in drawn
    corrects = engine.corrects_locally and len(scene.prompts) > scene.new and not whole
    while True:
        stop_if_asked()
        window = window_at((lo + hi) / 2, scene.grid, engine.roi, zoom, spacing_mm=scene.spacing_mm)
        fits = ((hi - lo + 1) / np.asarray(window.step) + engine.roi * _AROUND <= engine.roi).all()
        last = zoom >= engine.max_zoom or window.covers(scene.grid.shape) or (corrects and fits)
        if fits or last:
            previous = sampled_label(mask, value, window)
            patch = engine.answer(_view(scene, window, previous))
            if last or not crosses_a_face(patch > 0.5, previous > 0.5):
                return window, patch, previous
        zoom = min(zoom * _FACTOR, engine.max_zoom)


def crosses_a_face(after: PatchMask, before: PatchMask) -> bool:
    """Whether the change reaches so much of a side of the patch that the object goes on beyond it."""
    for axis in range(3):
        if after.shape[axis] == 1:
            continue
        for index in (0, -1):
            new, old = after.take(index, axis=axis), before.take(index, axis=axis)
            count = int(np.count_nonzero(new != old))
            relative = count / max(1, int(np.count_nonzero(old)))
            if count > _MANY * new.size or (count > max(1.0, _SOME * new.size) and relative > _RELATIVE):
                return True
    return False


def _view(scene: Scene, window: Window, previous: Patch, refining: float = 0.0) -> View:
    return View(
        window,
        sampled(scene.image, window),
        previous,
        inside_image(scene.grid.shape, window),
        hints_on(window, scene.prompts, scene.new),
        refining,
    )


def _changed(patch: Patch, previous: Patch) -> PatchMask:
    """Where the answer differs from before, and its neighbours."""
    differs = (patch > 0.5) != (previous > 0.5)
    grown: PatchMask = ndimage.binary_dilation(differs, structure=np.ones((3, 3, 3), dtype=bool))
    return grown


def _tiles(engine: PatchEngine, scene: Scene, window: Window, patch: Patch, changed: PatchMask) -> list[Window]:
    """Windows over the changed surface at the finest zoom that needs at most `max_tiles`; none if that is no finer."""
    inside = patch > 0.5
    surface = ndimage.binary_dilation(inside) & ~ndimage.binary_erosion(inside, border_value=1) & changed
    box = bounds(surface)
    if window.zoom <= 1 or box is None:
        return []
    zoom = 1.0
    while zoom < window.zoom / 1.2:
        core = engine.roi * (1 - 2 * _MARGIN) * zoom / window.zoom  # in patch voxels of the coarse window
        found = [
            window_at(center, scene.grid, engine.roi, zoom, spacing_mm=scene.spacing_mm)
            for center in _centers(surface, box, core, window)
        ]
        if len(found) <= engine.max_tiles:
            return found
        zoom *= _FACTOR
    return []


def _centers(surface: PatchMask, box: Box, core: float, window: Window) -> list[NDArray[np.float64]]:
    """Centres (voxel indices) of a regular grid of cores over `box`, of those that hold some surface."""
    edges = []
    for axis in range(3):
        size = box[1][axis] - box[0][axis]
        count = 1 if window.shape[axis] == 1 else max(1, int(np.ceil(size / core)))
        edges.append(np.linspace(box[0][axis], box[1][axis], count + 1))
    found = []
    for cell in product(*(range(len(edge) - 1) for edge in edges)):
        lo = [int(np.floor(edges[axis][cell[axis]])) for axis in range(3)]
        hi = [int(np.ceil(edges[axis][cell[axis] + 1])) for axis in range(3)]
        if not surface[tuple(slice(a, b) for a, b in zip(lo, hi, strict=True))].any():
            continue
        middle = [(edges[axis][cell[axis]] + edges[axis][cell[axis] + 1] - 1) / 2 for axis in range(3)]
        offset = (np.asarray(middle) - (np.asarray(window.shape) - 1) / 2) * np.asarray(window.step)
        found.append(np.asarray(window.center_ijk) + offset)
    return found


def _slices(box: Box) -> tuple[slice, ...]:
    return tuple(slice(a, b) for a, b in zip(*box, strict=True))


def sampled_label(mask: NDArray[np.generic], value: int, window: Window) -> Patch:
    """Share of the label `value` of `mask` (I, J, K) at each patch voxel; only the window's part of it is read."""
    current = _Current.cut(mask, value, window)
    return current.sampled(window)


class _Current:
    """The label inside a window's box, at the image's own resolution, while it is being answered."""

    def __init__(self, box: Box, inside: PatchMask, shape: tuple[int, int, int]) -> None:
        self.box, self.inside, self._shape = box, inside, shape
        self._before = inside.copy()

    @classmethod
    def cut(cls, mask: NDArray[np.generic], value: int, window: Window) -> _Current:
        shape = (mask.shape[0], mask.shape[1], mask.shape[2])
        box = window.box(shape)
        return cls(box, np.asarray(mask[_slices(box)] == value), shape)

    def sampled(self, window: Window) -> Patch:
        """Share of the label on `window`; outside of this box it counts as absent."""
        if not self.inside.any():
            return np.zeros(window.shape, dtype=np.float32)
        lo = self.box[0]
        center = (window.center_ijk[0] - lo[0], window.center_ijk[1] - lo[1], window.center_ijk[2] - lo[2])
        return sampled_mask(self.inside, Window(window.shape, center, window.step, window.zoom))

    def paste(self, patch: Patch, window: Window, changed: PatchMask | None) -> None:
        """Take `patch` over, only where `changed` if given."""
        found = unsampled(patch, window, self.box) > 0.5
        if changed is None:
            self.inside = found
        else:
            near = unsampled(changed.astype(np.float32), window, self.box) > 0.25
            self.inside = np.where(near, found, self.inside)

    def paste_core(self, patch: Patch, tile: Window) -> None:
        """Take over what lies in the middle of `tile`."""
        core = Window(_shrunk(tile.shape), tile.center_ijk, tile.step, tile.zoom).box(self._shape)
        lo = [max(a, b) for a, b in zip(core[0], self.box[0], strict=True)]
        hi = [max(min(a, b), start) for a, b, start in zip(core[1], self.box[1], lo, strict=True)]
        part: Box = ((lo[0], lo[1], lo[2]), (hi[0], hi[1], hi[2]))
        inner = tuple(slice(a - c, b - c) for a, b, c in zip(lo, hi, self.box[0], strict=True))
        self.inside[inner] = unsampled(patch, tile, part) > 0.5

    def answer(self, zoom: float, tiles: int, *, final: bool) -> ZoomedAnswer:
        """Cut to what holds the label now or held it before."""
        box = bounds(self.inside | self._before)
        if box is None:
            return ZoomedAnswer(self.box[0], np.zeros((0, 0, 0), dtype=bool), zoom, tiles, final)
        lo = tuple(a + b for a, b in zip(box[0], self.box[0], strict=True))
        return ZoomedAnswer((lo[0], lo[1], lo[2]), self.inside[_slices(box)].copy(), zoom, tiles, final)


def _shrunk(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    a, b, c = (size if size == 1 else int(size * (1 - 2 * _MARGIN)) for size in shape)
    return a, b, c
