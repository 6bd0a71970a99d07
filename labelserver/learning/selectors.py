"""How rows are chosen: pure functions of scores, embeddings and a seed. numpy and scipy only.

Each returns rows in the order in which they should be labeled, never twice the same, at most as many as there are. The
same arguments give the same rows, on any machine with the same numpy. Rows whose score is NaN come after all others.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.late import LateModule
from labelserver.learning.pool import Column, Order, Table

if TYPE_CHECKING:
    from scipy.cluster import vq as quantizing
else:
    quantizing = LateModule("scipy.cluster.vq")

#: smallest score whose logarithm is taken
_TINY = 1e-12
#: neighbours that say how typical a row is (Hacohen et al. 2022, https://arxiv.org/abs/2202.02794)
_NEIGHBOURS = 20
#: rounds of k-means; the medoids hardly move afterwards
_ROUNDS = 20
#: beginnings of k-means, of which the one with the tightest clusters counts
_TRIES = 5
#: clusters that are told apart, at most
_MOST_CLUSTERS = 256
#: from so many rows on, clusters are found among a sample of them
_CLUSTERED = 5000


def top(scores: Column, count: int) -> Order:
    """The highest scores first; ties by row."""
    return np.argsort(-_without_nan(scores), kind="stable")[:count]


def shuffled(size: int, count: int, seed: int) -> Order:
    """`count` of `size` rows, each order as likely as any other."""
    return np.random.default_rng(seed).permutation(size)[:count]


def weighted(weights: Column, count: int, seed: int) -> Order:
    """Without replacement, each row drawn with a chance in proportion to its weight; rows of no weight come last.

    By Gumbel noise on the log weights, which gives exactly that (Kool et al. 2019, https://arxiv.org/abs/1903.06059).
    """
    return power(np.maximum(np.nan_to_num(weights), 0.0), count, 1.0, seed)


def power(scores: Column, count: int, beta: float, seed: int) -> Order:
    """The highest of log score + Gumbel(0, 1 / beta): a small `beta` is nearly random, a large one nearly `top`.

    Source: Kirsch et al. 2021, "Stochastic batch acquisition", https://arxiv.org/abs/2106.12059, power acquisition.
    """
    return top(noised(scores, beta, np.random.default_rng(seed)), count)


def noised(scores: Column, beta: float, chance: np.random.Generator) -> Column:
    """log score + Gumbel(0, 1 / beta); NaN stays NaN. Scores are not negative."""
    noise = chance.gumbel(0.0, 1.0 / beta, size=len(scores))
    return np.asarray(np.log(np.maximum(scores, _TINY)) + noise, dtype=np.float64)


def stochastic_batch(scores: Column, count: int, seed: int, batches: int = 100) -> Order:
    """Of many random batches the one with the highest mean score, its best row first.

    Source: Gaillochet et al. 2023, https://arxiv.org/abs/2301.07670.
    """
    known = _floored(scores)
    count = min(count, len(known))
    if count == 0:
        return np.empty(0, dtype=np.intp)
    chance = np.random.default_rng(seed)
    drawn = np.stack([chance.permutation(len(known))[:count] for _ in range(batches)])
    best = drawn[int(np.argmax(known[drawn].mean(axis=1)))]
    return np.asarray(best[np.argsort(-known[best], kind="stable")], dtype=np.intp)


def class_stratified(
    scores: Column, classes: Table, count: int, beta: float, seed: int, stratified: float = 0.66
) -> Order:
    """A share of the rows taken class by class, the rest by the plain score, all with power noise.

    Args:
        scores: (N,) predictive entropy.
        classes: (N, C) predictive entropy weighted by the probability of each class. Classes that the model sees
            nowhere take no turn.
        count: rows wanted.
        beta: of the noise, see `power` and `scheduled_beta`.
        seed: of noise and of the order of the classes.
        stratified: share that is taken class by class.

    Source: "ClaSP PE", TMLR 01/2026: 66 % class-stratified predictive entropy, 34 % predictive entropy.
    """
    chance = np.random.default_rng(seed)
    plain = top(noised(scores, beta, chance), len(scores))
    seen = [c for c in range(classes.shape[1]) if np.nanmax(classes[:, c], initial=0.0) > _TINY]
    by_class = {c: iter(top(noised(classes[:, c], beta, chance), len(scores))) for c in chance.permutation(seen)}
    turns = list(by_class)
    chosen: dict[int, None] = {}
    owed = 0.0
    rest = iter(plain)
    while len(chosen) < min(count, len(scores)):
        owed += stratified
        source = rest
        if turns and owed >= 1.0 - stratified:
            owed -= 1.0
            source = by_class[turns[0]]
            turns = [*turns[1:], turns[0]]
        row = next((int(r) for r in source if int(r) not in chosen), None)
        if row is None:
            row = next(int(r) for r in plain if int(r) not in chosen)
        chosen[row] = None
    return np.fromiter(chosen, dtype=np.intp)


def scheduled_beta(progress: float, start: float, end: float = 100.0) -> float:
    """From `start` to `end`, growing exponentially with `progress` (0 to 1): explore first, trust the model later."""
    return float(start * (end / start) ** min(1.0, max(0.0, progress)))


def k_center(embeddings: Table, count: int, labelled: Table | None = None) -> Order:
    """Farthest first: each row is the one farthest from all labelled and all chosen ones; ties by row.

    Without anything labelled the first is row 0. Rows that are not known come last.

    Source: Sener and Savarese 2018, https://arxiv.org/abs/1708.00489, the greedy form.
    """
    known = _known(embeddings)
    distance = np.where(known, np.inf, -1.0)
    if labelled is not None and len(labelled) and known.any():
        distance[known] = quantizing.vq(embeddings[known], labelled, check_finite=False)[1]
    chosen: list[int] = []
    taken = np.zeros(len(embeddings), dtype=bool)
    while len(chosen) < min(count, len(embeddings)):
        row = int(np.argmax(np.where(taken, -2.0, distance)))
        chosen.append(row)
        taken[row] = True
        if known[row]:
            distance = np.minimum(distance, np.where(known, _distances(embeddings, embeddings[row]), -1.0))
    return np.asarray(chosen, dtype=np.intp)


def clusters(points: Table, count: int, seed: int) -> NDArray[np.intp]:
    """(N,) number of the k-means cluster of each row, 0 to `count` - 1; some may be empty.

    Of very many rows a sample makes the centres; all rows are given to the nearest of them.
    """
    chance = np.random.default_rng(seed)
    sample = points if len(points) <= _CLUSTERED else points[np.sort(chance.permutation(len(points))[:_CLUSTERED])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an empty cluster is an answer
        tries = [
            quantizing.kmeans2(sample, min(count, len(sample)), iter=_ROUNDS, minit="++", rng=chance)[0]
            for _ in range(_TRIES)
        ]
    spreads = [float((quantizing.vq(sample, centers)[1] ** 2).sum()) for centers in tries]
    return np.asarray(quantizing.vq(points, tries[int(np.argmin(spreads))])[0], dtype=np.intp)


def medoids(embeddings: Table, count: int, seed: int, labelled: Table | None = None) -> Order:
    """The middle row of each cluster that no label covers yet, the largest cluster first.

    There are as many clusters as labels, now and after this batch. If too few are uncovered, the rest is taken by
    `k_center`. Rows that are not known come last.
    """
    return _by_cluster(embeddings, count, seed, labelled, _most_central)


def typicality(embeddings: Table, count: int, seed: int, labelled: Table | None = None) -> Order:
    """The most typical row (nearest to its neighbours) of each cluster that no label covers, the largest first.

    Source: Hacohen et al. 2022, "TypiClust", https://arxiv.org/abs/2202.02794.
    """
    return _by_cluster(embeddings, count, seed, labelled, most_typical)


def most_typical(points: Table) -> int:
    """Row with the smallest mean distance to its 20 nearest neighbours within `points`."""
    if len(points) == 1:
        return 0
    near = min(len(points) - 1, _NEIGHBOURS)
    total = np.empty(len(points))
    for row, point in enumerate(points):
        total[row] = np.partition(_distances(points, point), near)[: near + 1].sum()
    return int(np.argmin(total))


def _most_central(points: Table) -> int:
    return int(np.argmin(_distances(points, points.mean(axis=0))))


#: Rows of one cluster that are compared with each other, which costs their square.
_COMPARED = 2000


def _by_cluster(
    embeddings: Table, count: int, seed: int, labelled: Table | None, best: Callable[[Table], int]
) -> Order:
    known = np.flatnonzero(_known(embeddings))
    chosen: dict[int, None] = {}
    if len(known):
        covered = labelled if labelled is not None and len(labelled) else np.empty((0, embeddings.shape[1]))
        points = np.concatenate([covered, embeddings[known]])
        numbers = clusters(points, min(len(covered) + count, _MOST_CLUSTERS), seed)
        own = numbers[len(covered) :]
        free, sizes = np.unique(own[~np.isin(own, numbers[: len(covered)])], return_counts=True)
        for number in free[np.argsort(-sizes, kind="stable")][:count]:
            rows = known[own == number]
            rows = rows if len(rows) <= _COMPARED else rows[:: len(rows) // _COMPARED + 1]
            chosen[int(rows[best(embeddings[rows])])] = None
    if len(chosen) < min(count, len(embeddings)):
        near = np.concatenate(
            [part for part in (labelled, embeddings[list(chosen)]) if part is not None and len(part)]
            or [np.empty((0, embeddings.shape[1]))]
        )
        for row in k_center(embeddings, count + len(chosen), near):
            if len(chosen) == min(count, len(embeddings)):
                break
            chosen[int(row)] = None
    return np.fromiter(chosen, dtype=np.intp)


def _known(embeddings: Table) -> NDArray[np.bool_]:
    known = np.isfinite(embeddings).all(axis=1) & (embeddings.shape[1] > 0)
    return np.asarray(known, dtype=np.bool_)


def _distances(points: Table, center: NDArray[np.float64]) -> Column:
    return np.asarray(np.sqrt(((points - center) ** 2).sum(axis=1)), dtype=np.float64)


def _without_nan(scores: Column) -> Column:
    return np.where(np.isnan(scores), -np.inf, scores)


def _floored(scores: Column) -> Column:
    """NaN becomes the smallest score, so that means of batches stay numbers."""
    low = np.nanmin(scores) if len(scores) and not np.isnan(scores).all() else 0.0
    return np.where(np.isnan(scores), low, scores)
