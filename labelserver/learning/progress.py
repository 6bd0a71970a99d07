"""Does labeling pay? The learning curve with its forecast, when to stop, and what proposals save. numpy alone.

A learning curve is a power law, ``y(x) = a - b x^-c`` with 0 <= a <= 1 and b >= 0, fitted by weighted least squares
over a grid of c. Intervals are parametric bootstraps with a fixed seed: the points are drawn anew with their own
standard errors and fitted again. Sources: Cortes et al. 1994 (power law), Efron and Tibshirani 1993 (bootstrap).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Exponents that are tried; curves of segmentation networks lie between.
_EXPONENTS = np.geomspace(0.05, 2.5, 60)

#: Fits of an interval, and its ends.
_DRAWS = 400
_LOW, _HIGH = 5.0, 95.0

#: The standard error of a point about which nothing is known; one of 10 cases whose Dice spreads by 0.06.
_DEFAULT_ERROR = 0.02
_SMALLEST_ERROR = 0.002

#: Points that a curve with three parameters needs.
MIN_POINTS = 3

#: Stop advice: what the next ten labels must bring at least.
SMALLEST_GAIN = 0.005
#: Stop advice: two models that agree so much teach nothing new.
SAME_DICE = 0.98
#: Stop advice: so many of the last ten proposals were taken nearly as they were.
ACCEPTED_SHARE = 0.9
LAST_PROPOSALS = 10

#: Pieces of work with and without a proposal that a comparison needs.
MIN_PIECES = 3


@dataclass(frozen=True, slots=True)
class Point:
    """A model version on the curve."""

    x: float  #: labels, or hours
    y: float  #: mean metric over the held-out cases
    error: float | None = None  #: standard error of that mean


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """``a - b x^-c``."""

    a: float
    b: float
    c: float

    def at(self, x: float) -> float:
        return float(self.a - self.b * max(x, 1e-9) ** -self.c)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the curve promises: from `x` to `x + step`, with a 90 % interval."""

    law: PowerLaw
    x: float
    step: float
    gain: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Criterion:
    """One of the reasons to stop. `met` is None where nothing can be said."""

    name: str
    met: bool | None
    value: float | None
    limit: float
    sentence: str


@dataclass(frozen=True, slots=True)
class StopAdvice:
    """Stop if two of the three criteria are met."""

    stop: bool
    criteria: tuple[Criterion, ...]
    sentence: str


class Saving(StrEnum):
    """What proposals of a version do to the time that a label takes."""

    SAVES = "saves"
    COSTS = "costs"
    UNCLEAR = "unclear"  #: the interval holds zero
    TOO_FEW = "too_few"


@dataclass(frozen=True, slots=True)
class Timed:
    """A finished piece of work. `version`: of the model whose proposal it began with; "": none."""

    person: str
    version: str
    minutes: float


@dataclass(frozen=True, slots=True)
class Benefit:
    """Minutes that a proposal saves on an image; negative: costs. With a 90 % interval."""

    version: str
    saving: Saving
    pieces: int
    minutes: float | None  #: median of a piece with a proposal of this version
    without: float | None  #: median of a piece without any
    saved: float | None
    low: float | None
    high: float | None
    within_people: bool  #: people are compared with themselves; False: all are thrown together
    sentence: str


def fit(points: Sequence[Point]) -> PowerLaw | None:
    """The power law of these points; None for fewer than `MIN_POINTS` different x."""
    if len({point.x for point in points if point.x > 0}) < MIN_POINTS:
        return None
    x, y, weight = _columns(points)
    a, b, c = _fits(x, y[None, :], weight)
    return PowerLaw(float(a[0]), float(b[0]), float(c[0]))


def forecast(points: Sequence[Point], step: float, seed: int = 0) -> Forecast | None:
    """What `step` more brings, from the largest x on; None where `fit` knows nothing."""
    law = fit(points)
    if law is None:
        return None
    x, _, weight = _columns(points)
    fitted = np.asarray([law.at(value) for value in x])
    errors = _errors(points, fitted)
    drawn = fitted + np.random.default_rng(seed).normal(size=(_DRAWS, len(x))) * errors
    _, b, c = _fits(x, drawn, weight)
    last = float(x.max())
    gains = b * (last**-c - (last + step) ** -c)
    low, high = np.percentile(gains, [_LOW, _HIGH])
    return Forecast(law, last, step, law.at(last + step) - law.at(last), float(low), float(high))


def band(points: Sequence[Point], xs: Sequence[float], seed: int = 0) -> tuple[Floats, Floats] | None:
    """The 90 % interval of the curve at `xs`, for a plot."""
    law = fit(points)
    if law is None:
        return None
    x, _, weight = _columns(points)
    fitted = np.asarray([law.at(value) for value in x])
    drawn = fitted + np.random.default_rng(seed).normal(size=(_DRAWS, len(x))) * _errors(points, fitted)
    a, b, c = _fits(x, drawn, weight)
    curves = a[:, None] - b[:, None] * np.maximum(np.asarray(xs, np.float64), 1e-9)[None, :] ** -c[:, None]
    low, high = np.percentile(curves, [_LOW, _HIGH], axis=0)
    return np.asarray(low), np.asarray(high)


def _columns(points: Sequence[Point]) -> tuple[Floats, Floats, Floats]:
    kept = [point for point in points if point.x > 0]
    errors = np.asarray([max(p.error if p.error is not None else _DEFAULT_ERROR, _SMALLEST_ERROR) for p in kept])
    return np.asarray([p.x for p in kept]), np.asarray([p.y for p in kept]), 1.0 / errors**2


def _errors(points: Sequence[Point], fitted: Floats) -> Floats:
    """The standard error of each point, but no smaller than how far the points lie from the curve."""
    kept = [point for point in points if point.x > 0]
    own = np.asarray([p.error if p.error is not None else _DEFAULT_ERROR for p in kept])
    apart = np.asarray([p.y for p in kept]) - fitted
    spread = float(np.sqrt((apart**2).sum() / max(1, len(kept) - 2)))
    return np.asarray(np.maximum(np.maximum(own, spread), _SMALLEST_ERROR))


def _fits(x: Floats, ys: Floats, weight: Floats) -> tuple[Floats, Floats, Floats]:
    """Of each row of `ys` (D, N): a, b, c (D,), the best of all exponents, with 0 <= a <= 1 and b >= 0."""
    best = np.full(len(ys), np.inf)
    found = np.zeros((3, len(ys)))
    total = weight.sum()
    for c in _EXPONENTS:
        z = x**-c
        mean_z = (weight * z).sum() / total
        mean_y = ys @ weight / total
        variance = (weight * (z - mean_z) ** 2).sum()
        covariance = (ys - mean_y[:, None]) @ (weight * (z - mean_z))
        b = np.maximum(-covariance / variance, 0.0) if variance > 0 else np.zeros(len(ys))
        a = mean_y + b * mean_z
        above = a > 1.0
        if above.any():  # a is 1 then, and b alone is fitted
            a = np.where(above, 1.0, a)
            b = np.where(above, np.maximum(((1.0 - ys) @ (weight * z)) / (weight * z**2).sum(), 0.0), b)
        misfit = ((ys - a[:, None] + b[:, None] * z[None, :]) ** 2) @ weight
        better = misfit < best - 1e-12
        best = np.where(better, misfit, best)
        for row, values in enumerate((a, b, np.full(len(ys), c))):
            found[row] = np.where(better, values, found[row])
    return found[0], found[1], found[2]


def stop_advice(gain: float | None, same: float | None, accepted: Sequence[bool]) -> StopAdvice:
    """Two of three criteria.

    Args:
        gain: that the next ten labels promise.
        same: mean Dice between what the last two models say about a fixed set of unlabeled images.
        accepted: of the newest proposals, oldest first: was less than one percent of the voxels changed?
    """
    last = list(accepted)[-LAST_PROPOSALS:]
    share = float(np.mean(last)) if len(last) == LAST_PROPOSALS else None
    criteria = (
        Criterion(
            "small_gain",
            None if gain is None else gain < SMALLEST_GAIN,
            gain,
            SMALLEST_GAIN,
            "The learning curve is too short to say what more labels bring."
            if gain is None
            else f"The next ten labels bring about {gain:+.4f}; below {SMALLEST_GAIN} they hardly pay.",
        ),
        Criterion(
            "same_models",
            None if same is None else same > SAME_DICE,
            same,
            SAME_DICE,
            "The last two models were not compared on unlabeled images yet."
            if same is None
            else f"The last two models agree with a Dice of {same:.3f}; above {SAME_DICE} they are the same.",
        ),
        Criterion(
            "accepted_proposals",
            None if share is None else share > ACCEPTED_SHARE,
            share,
            ACCEPTED_SHARE,
            f"Fewer than {LAST_PROPOSALS} proposals were compared with what people made of them."
            if share is None
            else f"Of the last {LAST_PROPOSALS} proposals {share:.0%} were taken with less than 1 % changed.",
        ),
    )
    met = sum(1 for criterion in criteria if criterion.met)
    said = "Two of three signs say that more labels bring little." if met >= 2 else "Go on labeling."
    return StopAdvice(met >= 2, criteria, said)


def benefits(pieces: Sequence[Timed], seed: int = 0) -> list[Benefit]:
    """Of each version whose proposals somebody began with, in the order of their first use."""
    versions = list(dict.fromkeys(piece.version for piece in pieces if piece.version))
    return [_benefit(version, pieces, seed) for version in versions]


def _benefit(version: str, pieces: Sequence[Timed], seed: int) -> Benefit:
    people = sorted({p.person for p in pieces})
    groups = [
        (
            np.asarray([p.minutes for p in pieces if p.person == person and p.version == version]),
            np.asarray([p.minutes for p in pieces if p.person == person and not p.version]),
        )
        for person in people
    ]
    paired = [(w, o) for w, o in groups if len(w) >= MIN_PIECES and len(o) >= MIN_PIECES]
    within = bool(paired)
    if not within:
        paired = [(np.concatenate([w for w, _ in groups]), np.concatenate([o for _, o in groups]))]
    count = sum(len(w) for w, _ in groups)
    if any(len(w) < MIN_PIECES or len(o) < MIN_PIECES for w, o in paired):
        said = f"Too little is known: {count} labels began with version {version}, {len(paired[0][1])} with nothing."
        return Benefit(version, Saving.TOO_FEW, count, None, None, None, None, None, within, said)
    rng = np.random.default_rng(seed)
    weights = np.asarray([len(w) for w, _ in paired], np.float64)
    saved = _saved([(np.median(w), np.median(o)) for w, o in paired], weights)
    drawn = [
        _saved([(np.median(rng.choice(w, len(w))), np.median(rng.choice(o, len(o)))) for w, o in paired], weights)
        for _ in range(_DRAWS)
    ]
    low, high = (float(v) for v in np.percentile(drawn, [_LOW, _HIGH]))
    saving = Saving.SAVES if low > 0 else Saving.COSTS if high < 0 else Saving.UNCLEAR
    minutes = float(np.median(np.concatenate([w for w, _ in paired])))
    without = float(np.median(np.concatenate([o for _, o in paired])))
    return Benefit(
        version, saving, count, minutes, without, saved, low, high, within, _said(version, saving, saved, low, high)
    )


def _saved(medians: Sequence[tuple[np.floating, np.floating]], weights: Floats) -> float:
    differences = np.asarray([float(without) - float(with_it) for with_it, without in medians])
    return float((differences * weights).sum() / weights.sum())


def _said(version: str, saving: Saving, saved: float, low: float, high: float) -> str:
    interval = f"(90 %: {low:+.1f} to {high:+.1f})"
    match saving:
        case Saving.SAVES:
            return f"A proposal of version {version} saves {saved:.1f} minutes an image {interval}."
        case Saving.COSTS:
            return (
                f"A proposal of version {version} costs {-saved:.1f} minutes an image {interval}: drawing from nothing "
                "is faster. Do not show it, or train a better version first."
            )
    return f"Whether a proposal of version {version} saves time cannot be told yet: {saved:+.1f} minutes {interval}."
