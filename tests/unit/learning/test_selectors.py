"""Selectors against scikit-activeml where it has the same method, and against their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from skactiveml.pool import CoreSet, TypiClust, batch_bald, uncertainty_scores

from labelserver.learning import selectors, uncertainty
from labelserver.learning.choosing import CHOOSERS, RANDOM_EVERY
from labelserver.learning.pool import Pool

SEEDS = range(6)


def points(seed: int, size: int = 60, dimensions: int = 5) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(size, dimensions))


def probabilities(seed: int, looks: int = 1, size: int = 50, classes: int = 4) -> NDArray[np.float64]:
    """(looks, size, classes)"""
    drawn = np.random.default_rng(seed).dirichlet(np.full(classes, 0.7), size=(looks, size))
    return np.asarray(drawn)


def pool(seed: int, size: int = 40) -> Pool:
    chance = np.random.default_rng(seed)
    scores = {name: chance.random(size) for name in ("entropy", "margin", "bald", "foreground")}
    return Pool(
        ids=tuple(f"image-{n:03}" for n in range(size)),
        scores=scores,
        classes=chance.random((size, 3)) * scores["entropy"][:, None],
        embeddings=points(seed, size),
        labelled=points(seed + 100, 3),
        labels=3,
        progress=0.3,
        has_model=True,
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_k_center_takes_the_rows_that_core_set_takes(seed: int) -> None:
    x = points(seed)
    y = np.full(len(x), np.nan)
    y[[3, 17, 40]] = 0
    theirs = CoreSet(random_state=0).query(x, y, batch_size=12)
    waiting = np.flatnonzero(np.isnan(y))
    ours = selectors.k_center(x[waiting], 12, x[[3, 17, 40]])
    assert waiting[ours].tolist() == theirs.tolist()


class OurClusters:
    """scikit-activeml asks a class of this shape for clusters."""

    def __init__(self, n_clusters: int, seed: int) -> None:
        self.n_clusters, self.seed = n_clusters, seed

    def fit_predict(self, x: NDArray[np.float64]) -> NDArray[np.intp]:
        return selectors.clusters(x, self.n_clusters, self.seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_typicality_takes_the_rows_that_typi_clust_takes(seed: int) -> None:
    x = points(seed, size=120)
    y = np.full(len(x), np.nan)
    y[:2] = 0  # ours puts the labelled rows first, so that both cluster the same rows in the same order
    algo: dict[str, Any] = {"seed": seed}
    theirs = TypiClust(random_state=0, k=20, cluster_algo=OurClusters, cluster_algo_dict=algo).query(x, y, batch_size=6)
    ours = selectors.typicality(x[2:], 6, seed, x[:2]) + 2
    sizes = np.bincount(selectors.clusters(x, 8, seed))
    if len(set(sizes)) == len(sizes):
        assert ours.tolist() == theirs.tolist()
    else:
        assert sorted(ours) == sorted(theirs)  # equally large clusters come in either order


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("ours", "theirs"), [("entropy", "entropy"), ("margin", "margin_sampling")])
def test_entropy_and_margin_rank_as_uncertainty_sampling_does(seed: int, ours: str, theirs: str) -> None:
    found = probabilities(seed)[0]
    scored = [uncertainty.scores_of(uncertainty.gather([p[:, None].astype(np.float32)])) for p in found]
    values = np.asarray([getattr(one, ours) for one in scored])
    reference = uncertainty_scores(found, method=theirs)
    assert selectors.top(values, 10).tolist() == np.argsort(-reference, kind="stable")[:10].tolist()
    scale = np.log(found.shape[1]) if ours == "entropy" else 1.0
    assert np.allclose(values * scale, reference, atol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_bald_is_what_batch_bald_says_of_a_single_image(seed: int) -> None:
    found = probabilities(seed, looks=6)
    ours = [
        uncertainty.scores_of(uncertainty.gather(found[:, n, :, None].astype(np.float32))).bald * np.log(4)
        for n in range(found.shape[1])
    ]
    reference = batch_bald(found, 1)[0]
    assert np.allclose(ours, reference, atol=1e-5)
    assert int(selectors.top(np.asarray(ours), 1)[0]) == int(np.argmax(reference))


@pytest.mark.parametrize("name", ["entropy", "margin", "bald"])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_chosen_image_is_the_arg_max_where_that_is_the_definition(seed: int, name: str) -> None:
    given = pool(seed)
    best = CHOOSERS[name].choose(given, 5, 0)
    assert best[0].image_id == given.ids[int(np.argmax(given.scores[name]))]
    assert [p.image_id for p in best] == [given.ids[n] for n in np.argsort(-given.scores[name])[:5]]


@pytest.mark.parametrize("name", CHOOSERS)
def test_a_strategy_is_a_function_of_pool_and_seed_alone(name: str) -> None:
    given, again = pool(1), pool(1)
    chosen = CHOOSERS[name].choose(given, 12, 7)
    assert chosen == CHOOSERS[name].choose(again, 12, 7)
    assert len({pick.image_id for pick in chosen}) == 12
    assert all(pick.reason for pick in chosen)


@pytest.mark.parametrize("name", CHOOSERS)
@pytest.mark.parametrize("size", [0, 1, 3])
def test_a_small_pool_is_given_out_whole(name: str, size: int) -> None:
    assert sorted(p.image_id for p in CHOOSERS[name].choose(pool(2, size), 5, 0)) == list(pool(2, size).ids)


@pytest.mark.parametrize("name", CHOOSERS)
def test_a_pool_of_which_nothing_is_known_is_no_obstacle(name: str) -> None:
    bare = Pool(ids=tuple("abcdefgh"))
    assert len({p.image_id for p in CHOOSERS[name].choose(bare, 4, 3)}) == 4


@pytest.mark.parametrize("name", CHOOSERS)
def test_images_that_are_not_scored_yet_do_not_break_a_strategy_and_scored_ones_come_first(name: str) -> None:
    given = pool(3, 30)
    for column in given.scores.values():
        column[::2] = np.nan
    given.classes[::2] = np.nan
    given.embeddings[::2] = np.nan
    chosen = CHOOSERS[name].choose(given, 30, 5)
    assert sorted(p.image_id for p in chosen) == list(given.ids)
    if name in ("entropy", "margin", "bald", "clasp_entropy", "k_center", "typicality", "cold_start", "power_entropy"):
        assert all(int(p.image_id[-3:]) % 2 for p in chosen[:15])


def test_power_noise_of_a_large_beta_is_the_arg_max_and_of_a_small_one_is_chance() -> None:
    scores = np.linspace(0.5, 1.0, 50)
    assert selectors.power(scores, 5, 1e6, 0).tolist() == selectors.top(scores, 5).tolist()
    firsts = [int(selectors.power(scores, 1, 1e-3, seed)[0]) for seed in range(400)]
    assert len(set(firsts)) > 45


def test_weights_are_chances() -> None:
    weights = np.asarray([1.0, 2.0, 3.0, 0.0])
    firsts = np.bincount([int(selectors.weighted(weights, 1, seed)[0]) for seed in range(6000)], minlength=4) / 6000
    assert np.allclose(firsts, [1 / 6, 2 / 6, 3 / 6, 0], atol=0.02)


def test_the_schedule_grows_exponentially_from_its_start_to_its_end() -> None:
    assert selectors.scheduled_beta(0.0, 1.0) == 1.0
    assert selectors.scheduled_beta(0.5, 1.0) == pytest.approx(10.0)
    assert selectors.scheduled_beta(2.0, 4.0) == pytest.approx(100.0)


def test_a_stochastic_batch_beats_a_random_one_and_is_not_always_the_top() -> None:
    scores = np.random.default_rng(0).random(60)
    means = [scores[selectors.stochastic_batch(scores, 6, seed)].mean() for seed in SEEDS]
    assert min(means) > scores.mean()
    assert max(means) < scores[selectors.top(scores, 6)].mean()


def test_two_thirds_are_taken_class_by_class() -> None:
    scores = np.linspace(1.0, 2.0, 90)
    classes = np.zeros((90, 3))
    for number in range(3):
        classes[number * 10 : number * 10 + 10, number] = 1.0  # rows of low entropy, unsure in one class each
    rows = selectors.class_stratified(scores, classes, 30, 1e6, 0)
    by_class = [int(((rows >= n * 10) & (rows < n * 10 + 10)).sum()) for n in range(3)]
    assert sum(by_class) in (19, 20)
    assert max(by_class) - min(by_class) <= 1


def test_medoids_are_one_of_each_uncovered_group() -> None:
    chance = np.random.default_rng(4)
    groups = [chance.normal(scale=0.1, size=(size, 2)) + at for size, at in ((30, 0.0), (20, 5.0), (10, 10.0))]
    x = np.concatenate(groups)
    first = selectors.medoids(x, 3, 0)
    assert [int(row >= 30) + int(row >= 50) for row in first] == [0, 1, 2]
    covered = selectors.medoids(x, 2, 0, np.asarray([[0.0, 0.0]]))
    assert sorted(int(row >= 30) + int(row >= 50) for row in covered) == [1, 2]


def test_one_in_ten_labels_of_the_default_is_by_chance() -> None:
    given = pool(5, 200)
    chosen = CHOOSERS["default"].choose(given, 57, 3)
    at = [given.labels + n + 1 for n, pick in enumerate(chosen) if pick.reason.startswith("by chance")]
    assert at == [10, 20, 30, 40, 50, 60]
    assert RANDOM_EVERY == 10
