"""The strategies by name: each a pure function of a pool, a count and a seed, and each with its reason in words.

`CHOOSERS` is the list that the server, the simulator and the documentation share. A strategy whose numbers are missing
(no model yet, nothing scored yet) says so in its reason and chooses by chance, so that work never stands still.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from labelserver.learning import selectors
from labelserver.learning.pool import Column, Order, Pick, Pool

Chooser = Callable[[Pool, int, int], list[Pick]]

#: every tenth pick of the default strategy is by chance, so that validation on them is unbiased
RANDOM_EVERY = 10
#: of so many times the wanted rows the default takes the ones farthest apart
_SHORTLIST = 4
#: groups that a cold start begins with; then as many again as were chosen
_FIRST = 4
#: where the noise of the schedule begins: small batches of whole images need less of it than many patches do
_FEW, _BETA_FEW, _BETA_MANY = 10, 4.0, 1.0


@dataclass(frozen=True, slots=True)
class Named:
    """A strategy, for lists and for the server."""

    name: str
    description: str
    choose: Chooser
    needs: tuple[str, ...] = ()  #: ``scores``, ``embeddings``: without them it chooses by chance


def sequential(pool: Pool, count: int, seed: int) -> list[Pick]:
    return _picks(pool, range(min(count, len(pool))), "first by name")


def by_chance(pool: Pool, count: int, seed: int) -> list[Pick]:
    return _random(pool, count, seed, "by chance")


def foreground(pool: Pool, count: int, seed: int) -> list[Pick]:
    """Chance in proportion to the foreground that the model expects."""
    share = pool.score("foreground")
    if not _any(share):
        return _random(pool, count, seed, "by chance: no model has looked at the images yet")
    rows = selectors.weighted(_with_median(share), count, seed)
    return _picks(pool, rows, "by chance, likelier with much foreground ({:.0%})", share)


def highest(score: str, word: str) -> Chooser:
    """The arg-max of a score."""

    def choose(pool: Pool, count: int, seed: int) -> list[Pick]:
        found = pool.score(score)
        if not _any(found):
            return _random(pool, count, seed, _NO_SCORES)
        return _picks(pool, selectors.top(found, count), word + " {:.3f}, the highest", found)

    return choose


def power_entropy(pool: Pool, count: int, seed: int) -> list[Pick]:
    found = pool.score("entropy")
    if not _any(found):
        return _random(pool, count, seed, _NO_SCORES)
    rows = selectors.power(found, count, 1.0, seed)
    return _picks(pool, rows, "by chance, likelier where the model is unsure (entropy {:.3f})", found)


def stochastic_batches(pool: Pool, count: int, seed: int) -> list[Pick]:
    found = pool.score("entropy")
    if not _any(found):
        return _random(pool, count, seed, _NO_SCORES)
    rows = selectors.stochastic_batch(found, count, seed)
    return _picks(pool, rows, "of the most unsure of 100 random batches (entropy {:.3f})", found)


def clasp(pool: Pool, count: int, seed: int) -> list[Pick]:
    """Class-stratified entropy with power noise that dies away."""
    found = pool.score("entropy")
    if not _any(found):
        return _random(pool, count, seed, _NO_SCORES)
    rows = _stratified(pool, count, count, seed)
    return _picks(pool, rows, "the model is unsure about one of its classes here (entropy {:.3f})", found)


def farthest(pool: Pool, count: int, seed: int) -> list[Pick]:
    if not _any(pool.places):
        return _random(pool, count, seed, _NO_PLACES)
    return _picks(pool, selectors.k_center(pool.places, count, pool.labelled), "least like what has a label")


def typical(pool: Pool, count: int, seed: int) -> list[Pick]:
    if not _any(pool.places):
        return _random(pool, count, seed, _NO_PLACES)
    rows = selectors.typicality(pool.places, count, seed, pool.labelled)
    return _picks(pool, rows, "typical of a group that no label covers yet")


def cold_start(pool: Pool, count: int, seed: int) -> list[Pick]:
    """The middle of each group of images that no label covers.

    Few groups first, then finer ones: the first images of a long order are spread as widely as those of a short one.
    """
    if not _any(pool.places):
        return _random(pool, count, seed, _NO_PLACES)
    rows: list[int] = []
    while len(rows) < min(count, len(pool)):
        wanted = min(max(_FIRST, len(rows)), count - len(rows))
        free = np.setdiff1d(np.arange(len(pool)), rows)
        covered = [part for part in (pool.labelled, pool.places[rows]) if part.size]
        near = np.concatenate(covered) if covered else None
        rows += free[selectors.medoids(pool.places[free], wanted, seed, near)].tolist()
    return _picks(pool, rows, "the middle of a group that no label covers yet")


def default(pool: Pool, count: int, seed: int) -> list[Pick]:
    """`cold_start` until there is a model; then `clasp` picks a short list, and those farthest apart are taken.

    Every tenth label of the project is of an image picked by chance. After Gaillochet et al. 2023 and the entropy
    short list with k-center of Sener and Savarese 2018.
    """
    if not pool.has_model or not _any(pool.score("entropy")):
        return cold_start(pool, count, seed)
    by_chance_at = {n for n in range(count) if (pool.labels + n + 1) % RANDOM_EVERY == 0}
    wanted = count - len(by_chance_at)
    short = _stratified(pool, min(len(pool), _SHORTLIST * max(wanted, 1)), wanted, seed)
    if _any(pool.places):
        near = selectors.k_center(pool.places[short], wanted, pool.labelled)
        short = short[near]
        why = "the model is unsure here (entropy {:.3f}), and it is unlike what has a label"
    else:
        why = "the model is unsure here (entropy {:.3f})"
    best = iter(_picks(pool, short[:wanted], why, pool.score("entropy")))
    chance = iter(_random(pool, count + wanted, seed, "by chance: one in ten is, so that models are judged fairly"))
    taken: set[str] = set()
    chosen: list[Pick] = []
    reserved = {pool.ids[int(row)] for row in short[:wanted]}
    for number in range(min(count, len(pool))):
        pick = None
        if number in by_chance_at:
            pick = next((p for p in chance if p.image_id not in taken and p.image_id not in reserved), None)
        pick = pick or next((p for p in best if p.image_id not in taken), None)
        pick = pick or next((p for p in chance if p.image_id not in taken), None)
        if pick is None:
            break
        taken.add(pick.image_id)
        chosen.append(pick)
    return chosen


#: All of them, in the order of the documentation.
CHOOSERS: dict[str, Named] = {
    one.name: one
    for one in (
        Named("default", "Groups first, then what the model is unsure about", default, ("scores", "embeddings")),
        Named("random", "By chance", by_chance),
        Named("sequential", "First by name", sequential),
        Named("foreground_random", "By chance, likelier with much foreground", foreground, ("scores",)),
        Named("entropy", "Where the model is least sure", highest("entropy", "entropy"), ("scores",)),
        Named("margin", "Where two classes are nearly as likely", highest("margin", "margin score"), ("scores",)),
        Named("bald", "Where looks at the image disagree", highest("bald", "disagreement"), ("scores",)),
        Named("power_entropy", "By chance, likelier where the model is unsure", power_entropy, ("scores",)),
        Named("stochastic_batches", "The most unsure of many random batches", stochastic_batches, ("scores",)),
        Named("clasp_entropy", "Unsure class by class, with noise that dies away", clasp, ("scores",)),
        Named("k_center", "Least like what has a label", farthest, ("embeddings",)),
        Named("typicality", "Typical of groups without a label", typical, ("embeddings",)),
        Named("cold_start", "The middle of groups without a label", cold_start, ("embeddings",)),
    )
}

_NO_SCORES = "by chance: no model has scored the images yet"
_NO_PLACES = "by chance: the images have not been looked at yet"


def _stratified(pool: Pool, count: int, batch: int, seed: int) -> Order:
    beta = selectors.scheduled_beta(pool.progress, _BETA_FEW if batch < _FEW else _BETA_MANY)
    return selectors.class_stratified(pool.score("entropy"), pool.class_scores, count, beta, seed)


def _random(pool: Pool, count: int, seed: int, reason: str) -> list[Pick]:
    return _picks(pool, selectors.shuffled(len(pool), count, seed), reason)


def _picks(pool: Pool, rows: Iterable[int] | Order, reason: str, scores: Column | None = None) -> list[Pick]:
    """`reason` may hold a place for the score."""
    found = [int(row) for row in rows]
    if scores is None:
        return [Pick(pool.ids[row], reason) for row in found]
    return [
        Pick(pool.ids[row], "not scored yet" if np.isnan(scores[row]) else reason.format(scores[row])) for row in found
    ]


def _any(values: Column) -> bool:
    return bool(values.size) and not bool(np.isnan(values).all())


def _with_median(values: Column) -> Column:
    """Images that no model has looked at are as likely as the usual one."""
    return np.where(np.isnan(values), np.nanmedian(values), values)
