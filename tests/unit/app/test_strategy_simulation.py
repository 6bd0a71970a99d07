"""The simulator: the check that is built in, that runs repeat themselves, and that a broken-off one goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from labelserver.app.fast_learner import FastLearner
from labelserver.app.strategy_evaluation import Notebook, Plan, read_cases, run, split_cases
from labelserver.cli.failing import CommandFailed
from labelserver.cli.main import cli
from labelserver.domain.errors import InvalidParams
from labelserver.imaging.volumes import write_volume
from labelserver.learning.choosing import CHOOSERS
from labelserver.learning.practice_task import CLASSES, practice_cases
from labelserver.learning.simulation import Budget, DataSet, Round, simulate
from labelserver.learning.strategy_metrics import aubc

SMALL = Budget(start=2, batch=2, rounds=2)


def small() -> tuple[DataSet, FastLearner]:
    pool, test = practice_cases(3, pool=12, test=3)
    return DataSet.of(pool, test), FastLearner(len(CLASSES))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_default_beats_chance_on_the_practice_task(capsys: pytest.CaptureFixture[str]) -> None:
    """AUBC at least 0.08 above chance, and better with at least 5 of 6 seeds; entropy alone is told beside it."""
    data, learner = DataSet.of(*practice_cases()), FastLearner(len(CLASSES))
    areas = {
        name: [aubc([r.dice for r in simulate(data, learner, CHOOSERS[name].choose, Budget(), s)]) for s in seeds]
        for name, seeds in (("default", range(6)), ("random", range(6)), ("entropy", range(3)))
    }
    with capsys.disabled():
        print({name: [round(value, 3) for value in values] for name, values in areas.items()})
    ours, chance = np.asarray(areas["default"]), np.asarray(areas["random"])
    assert ours.mean() >= 0.86
    assert ours.mean() >= chance.mean() + 0.08
    assert (ours > chance).sum() >= 5


def test_the_same_seed_gives_the_same_run() -> None:
    data, learner = small()
    runs = [simulate(data, learner, CHOOSERS["default"].choose, SMALL, 4) for _ in range(2)]
    assert runs[0] == runs[1]
    assert simulate(*small(), CHOOSERS["default"].choose, SMALL, 4) == runs[0]
    assert simulate(data, learner, CHOOSERS["default"].choose, SMALL, 5) != runs[0]


def test_strategies_that_start_by_chance_start_alike() -> None:
    data, learner = small()
    starts = {
        simulate(data, learner, CHOOSERS[name].choose, Budget(2, 2, 0), 1)[0].to_json()["dice"]
        for name in ("random", "entropy", "bald", "clasp_entropy")
    }
    assert len(starts) == 1


def test_a_run_that_was_broken_off_goes_on_and_ends_as_if_it_had_not(tmp_path: Path) -> None:
    data, learner = small()
    plan = Plan(("entropy", "random"), (0, 1), SMALL)
    whole = run(data, learner, plan, Notebook(tmp_path / "whole.json", {"a": 1}))

    class Ended(Exception):
        pass

    done: list[str] = []

    def end_soon(strategy: str, seed: int, found: Round) -> None:
        done.append(f"{strategy}/{seed}/{found.labels}")
        if len(done) == 5:
            raise Ended

    with pytest.raises(Ended):
        run(data, learner, plan, Notebook(tmp_path / "broken.json", {"a": 1}), end_soon)
    rest: list[str] = []
    again = run(
        data,
        learner,
        plan,
        Notebook(tmp_path / "broken.json", {"a": 1}),
        lambda strategy, seed, found: rest.append(f"{strategy}/{seed}/{found.labels}"),
    )
    assert again == whole
    assert not set(rest) & set(done)
    assert len(rest) + len(done) == 2 * 2 * 3
    assert json.loads((tmp_path / "broken.json").read_text()) == json.loads((tmp_path / "whole.json").read_text())


def test_results_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    data, learner = small()
    run(data, learner, Plan(("random",), (0,), SMALL), Notebook(tmp_path / "x.json", {"a": 1}))
    assert Notebook(tmp_path / "x.json", {"a": 1}).rounds("random", 0)
    assert not Notebook(tmp_path / "x.json", {"a": 2}).rounds("random", 0)


def test_unknown_strategies_are_named() -> None:
    with pytest.raises(InvalidParams, match="no strategy 'luck'"):
        Plan(("luck",), (0,))


def write_cases(folder: Path) -> tuple[Path, Path]:
    pool, test = practice_cases(1, pool=9, test=3)
    (folder / "studies").mkdir()
    (folder / "labels").mkdir()
    for case in (*pool, *test):
        for name, voxels in (("studies", case.image), ("labels", case.label)):
            write_volume(folder / name / f"{case.name}.nii.gz", voxels, np.eye(4), compress=True)
    return folder / "studies", folder / "labels"


def test_any_labeled_folder_is_replayed_from_the_command_line(tmp_path: Path) -> None:
    studies, labels = write_cases(tmp_path)
    output = tmp_path / "out" / "strategies.json"
    command = ["evaluate", "strategies", "--studies", str(studies), "--labels", str(labels), "--budget", "4"]
    command += ["--strategies", "default,random", "--seeds", "2", "--start", "2", "--batch", "1"]
    result = CliRunner().invoke(cli, [*command, "--output", str(output)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    document = json.loads(output.read_text())
    assert set(document["runs"]) == {"default/0", "default/1", "random/0", "random/1"}
    assert [one["labels"] for one in document["runs"]["default/0"]] == [2, 3, 4]
    row = document["summary"]["strategies"]["default"]
    assert 0 < row["aubc"] < 1
    assert row["against_random"]["seeds"] == 2
    assert len(document["summary"]["penalty"]["matrix"]) == 2
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_budget_beyond_the_pool_and_wrong_seeds_are_refused(tmp_path: Path) -> None:
    studies, labels = write_cases(tmp_path)
    command = ["evaluate", "strategies", "-s", str(studies), "-l", str(labels), "-o", str(tmp_path / "o.json")]
    for extra, word in ((["--budget", "400"], "larger pool"), (["--seeds", "0-"], "--seeds"), (["-l", "no"], "labels")):
        result = CliRunner().invoke(cli, [*command, *extra])
        assert isinstance(result.exception, CommandFailed)
        assert word in str(result.exception)
    assert not (tmp_path / "o.json").exists()


def test_the_test_set_does_not_depend_on_the_order_of_the_cases(tmp_path: Path) -> None:
    cases = read_cases(*write_cases(tmp_path))
    first, second = split_cases(cases, 0.3), split_cases(cases[::-1], 0.3)
    assert {c.name for c in first[1]} == {c.name for c in second[1]}
    assert len(first[1]) == round(0.3 * len(cases))
