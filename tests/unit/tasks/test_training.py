"""A whole training in a second: hooks, files, versions, stop and resume, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import EventEnum, Events
from monai.data import get_track_meta
from monai.inferers import SlidingWindowInferer
from safetensors.torch import load_file
from training_fakes import CaseStore, TinyTrain, Watcher, make_store, tiny, write_case

from labelserver.contracts.model_store import writing_to
from labelserver.contracts.progress import watched_by
from labelserver.domain.errors import DeviceMemoryFull, InvalidParams, LabelNotFound, StoredDataInvalid, TaskFailed
from labelserver.domain.models import Verdict
from labelserver.model_store.local import LocalModelStore
from labelserver.storage.checksums import sha256_of
from labelserver.tasks.train import Context

pytestmark = pytest.mark.slow

QUICK = {"model": "tiny", "max_epochs": 2, "seed": 3}


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(task: TinyTrain, store: Any, watcher: Watcher, folder: Path | None = None, **request: Any) -> dict[str, Any]:
    with watched_by(watcher):
        if folder is None:
            return task({**QUICK, **request}, store)
        with writing_to(LocalModelStore(folder / "app")):
            return task({**QUICK, **request}, store)


def weights_of(folder: Path, name: str = "model.pt") -> dict[str, torch.Tensor]:
    return dict(torch.load(folder / "app" / "model" / "tiny" / "train_01" / name, weights_only=True))


def test_a_training_ends_with_a_version_that_says_what_it_knows(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path)
    result = train(tiny(tmp_path), make_store(tmp_path, 4), watcher, tmp_path)
    store = LocalModelStore(tmp_path / "app")
    version = store.version("tiny", 1)
    assert watcher.versions == [("tiny", 1)]
    assert result["model_version"] == 1
    assert version.key_metric == "val_mean_dice"
    assert version.metrics["val_mean_dice"] == pytest.approx(result["best_metric"])
    assert version.job_id == "job-1"
    assert version.publish_path == "model/tiny.pt"
    assert version.held_out
    trained = set(version.labels)
    assert trained
    assert trained.isdisjoint(version.held_out)
    assert trained | set(version.held_out) == {"case_0", "case_1", "case_2", "case_3"}
    some = next(iter(trained))
    assert version.labels[some] == sha256_of(tmp_path / "labels" / "final" / f"{some}.nii.gz")
    assert version.sha256 == sha256_of(store.weights_file("tiny", 1))
    assert version.extra["seed"] == 3
    curves = version.extra["curves"]
    assert isinstance(curves, list)
    assert [point["epoch"] for point in curves] == [1, 2]
    best = weights_of(tmp_path)
    assert {k: v.tolist() for k, v in load_file(store.weights_file("tiny", 1)).items()} == {
        k: v.tolist() for k, v in best.items()
    }
    assert not (tmp_path / "app" / "model" / "tiny.pt").exists(), "the job never publishes; the server does"


def test_the_statistics_have_the_shape_that_clients_poll(tmp_path: Path) -> None:
    task = tiny(tmp_path)
    while_running = []

    class Spy(TinyTrain):
        def finalize(self, context: Context) -> None:
            super().finalize(context)
            context.trainer.add_event_handler(Events.EPOCH_STARTED, lambda: while_running.append(self.stats()))

    spy = Spy(task.model_dir, publish_path=task._publish_path)
    assert spy.stats() == {}
    result = train(spy, make_store(tmp_path, 3), Watcher())
    last = spy.stats()
    assert json.loads(Path(spy._stats_path).read_text()) == last
    assert last == {key: result[key] for key in last}
    assert set(last) == {
        *("rank", "epoch", "current_epoch", "current_iteration", "total_epochs", "total_iterations", "start_ts"),
        *("total_time", "best_metric", "train", "eval"),
    }
    assert (last["epoch"], last["total_epochs"]) == (2, 2)
    for side, name in (("train", "train_mean_dice"), ("eval", "val_mean_dice")):
        assert set(last[side]) == {"metrics", "key_metric_name", "best_metric", "best_metric_epoch"}
        assert last[side]["key_metric_name"] == name
        assert isinstance(last[side]["metrics"][name], float)
    second_epoch = while_running[1]
    assert "total_time" not in second_epoch
    assert "current_time" in second_epoch
    assert isinstance(second_epoch["best_metric"], float)


def test_without_a_model_store_the_best_weights_are_published_as_a_file(tmp_path: Path) -> None:
    train(tiny(tmp_path), make_store(tmp_path, 3), Watcher())
    published = torch.load(tmp_path / "app" / "model" / "tiny.pt", weights_only=True)
    assert {k: v.tolist() for k, v in published.items()} == {k: v.tolist() for k, v in weights_of(tmp_path).items()}
    run = tmp_path / "app" / "model" / "tiny" / "train_01"
    assert (run / "train_model.pt").exists()
    assert (run / "checkpoint_final.pt").exists()
    assert not list(run.glob("cache_*"))


def test_checkpoints_are_kept_at_the_asked_interval(tmp_path: Path) -> None:
    train(tiny(tmp_path, train_save_interval=1, n_saved=2), make_store(tmp_path, 1), Watcher(), max_epochs=4)
    found = sorted(p.name for p in (tmp_path / "app" / "model" / "tiny" / "train_01").glob("checkpoint_epoch=*"))
    assert found == ["checkpoint_epoch=3.pt", "checkpoint_epoch=4.pt"]


def test_progress_tells_epoch_step_loss_rate_metrics_and_time_left(tmp_path: Path) -> None:
    watcher = Watcher()
    train(tiny(tmp_path), make_store(tmp_path, 3), watcher)
    last = watcher.reports[-1]
    assert (last["epoch"], last["total_epochs"], last["step"], last["total_steps"]) == (2, 2, 4, 4)
    assert last["device"] == "cpu"
    assert last["learning_rate"] == pytest.approx(TinyTrain.rate)
    assert isinstance(last["loss"], float)
    assert last["time_left_s"] == 0.0
    metrics = last["metrics"]
    assert isinstance(metrics, dict)
    assert 0.0 <= metrics["val_mean_dice"] <= 1.0
    assert any(line.startswith("epoch 2/2, loss") for line in watcher.lines)


def test_one_label_is_enough_and_is_not_held_out(tmp_path: Path) -> None:
    result = train(tiny(tmp_path), make_store(tmp_path, 1), Watcher(tmp_path), tmp_path)
    assert result["eval"] == {}
    version = LocalModelStore(tmp_path / "app").version("tiny", 1)
    assert version.held_out == ()
    assert version.key_metric == "train_mean_dice"
    assert LocalModelStore(tmp_path / "app").decide("tiny", 1).verdict is Verdict.UNCHECKED


def test_a_bad_case_among_good_ones_is_named_and_left_out(tmp_path: Path) -> None:
    store = make_store(tmp_path, 3)
    write_case(tmp_path, "other_shape", seed=9, label_shape=(16, 16, 15))
    (tmp_path / "labels" / "final" / "no_image.nii.gz").write_bytes(b"")
    write_case(tmp_path, "cut_off", seed=9)
    image = tmp_path / "cut_off.nii.gz"
    image.write_bytes(image.read_bytes()[:-2000])
    store.names += ["other_shape", "no_image", "cut_off"]
    watcher = Watcher(tmp_path)
    result = train(tiny(tmp_path), store, watcher, tmp_path)
    named = {case["image"]: case["reason"] for case in result["left_out"]}
    assert set(named) == {"other_shape", "no_image", "cut_off"}
    assert "shape" in named["other_shape"]
    assert result["model_version"] == 1
    assert any("left out cut_off" in line for line in watcher.lines)


def test_without_a_usable_label_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LabelNotFound, match="submit at least one label"):
        train(tiny(tmp_path), CaseStore(tmp_path, []), Watcher())
    store = make_store(tmp_path, 1)
    write_case(tmp_path, "case_0", seed=1, label_shape=(4, 4, 4))
    with pytest.raises(LabelNotFound, match=r"None of the 1 labeled images.*case_0"):
        train(tiny(tmp_path), store, Watcher())


class Stopper(Watcher):
    """Asks for a stop once the trainer has done `steps` steps."""

    def __init__(self, folder: Path, task: TinyTrain, steps: int, **options: Any) -> None:
        super().__init__(folder, **options)
        self.seen = 0
        original = task.finalize

        def finalize(context: Context) -> None:
            original(context)
            context.trainer.add_event_handler(Events.ITERATION_COMPLETED, self._count)

        task.finalize = finalize  # type: ignore[method-assign]
        self.stop_when = lambda: self.seen >= steps

    def _count(self) -> None:
        self.seen += 1


@pytest.mark.parametrize("steps", [1, 3, 4, 5])
def test_a_run_stopped_at_a_step_and_resumed_ends_with_the_same_weights(tmp_path: Path, steps: int) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    request = {"max_epochs": 3, "seed": 5}
    train(tiny(straight), make_store(straight, 4), Watcher(straight), straight, **request)

    store = make_store(broken, 4)
    first = tiny(broken)
    result = train(first, store, Stopper(broken, first, steps), broken, **request)
    assert result["stopped"] is True
    assert "total_time" not in result
    assert (broken / "training-checkpoint.pt").exists()
    torch.load(broken / "training-checkpoint.pt", weights_only=True)

    write_case(broken, "added_meanwhile", seed=50)
    store.names.append("added_meanwhile")
    watcher = Watcher(broken, resume=True)
    result = train(tiny(broken), store, watcher, broken, **request)
    assert "stopped" not in result
    assert result["current_iteration"] == result["total_iterations"]
    assert not (broken / "training-checkpoint.pt").exists()
    for name in ("checkpoint_final.pt", "model.pt"):
        ours, theirs = weights_of(broken, name), weights_of(straight, name)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    versions = [LocalModelStore(folder / "app").version("tiny", 1) for folder in (straight, broken)]
    assert versions[0].metrics == versions[1].metrics
    assert versions[0].labels.keys() == versions[1].labels.keys()


def test_a_peer_style_app_may_hook_events_and_leave_arguments_out(tmp_path: Path) -> None:
    events: list[str] = []

    class Author(TinyTrain):
        def val_inferer(self) -> Any:  # type: ignore[override]
            return SlidingWindowInferer(roi_size=(12, 12, 12))

        def finalize(self, context: Context) -> None:
            super().finalize(context)
            assert context.evaluator is not None
            context.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=1), lambda: events.append("step"))
            context.evaluator.add_event_handler(Events.EPOCH_COMPLETED, lambda: events.append("validated"))
            context.trainer.add_event_handler(Events.COMPLETED, lambda: events.append("done"))

        def train_handlers(self, context: Context) -> list[Any]:
            assert context.evaluator is not None
            return super().train_handlers(context)

    task = Author(str(tmp_path / "model"), publish_path=str(tmp_path / "model" / "x.pt"))
    train(task, make_store(tmp_path, 3), Watcher(), multi_gpu=True, gpus="all", device=["cpu"])
    assert events == ["step", "validated", "validated", "done"]
    assert (tmp_path / "model" / "x.pt").exists()


def test_the_example_app_without_network_and_optimizer_methods_trains(tmp_path: Path) -> None:
    class Example(TinyTrain):
        network = TinyTrain.__mro__[1].network
        optimizer = TinyTrain.__mro__[1].optimizer

    net = TinyTrain(str(tmp_path / "x")).network(Context())
    task = Example(str(tmp_path / "model"), net, publish_path=str(tmp_path / "model" / "x.pt"))  # type: ignore[arg-type]
    before = {k: v.clone() for k, v in net.state_dict().items()}
    train(task, make_store(tmp_path, 1), Watcher(), dataset="PersistentDataset", dataloader="ThreadDataLoader")
    assert task.description == "Example"
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items()), "the template stays as it was"
    assert (tmp_path / "model" / "x.pt").exists()


def test_a_worse_model_is_refused_by_the_gate(tmp_path: Path) -> None:
    store = make_store(tmp_path, 4)
    versions = LocalModelStore(tmp_path / "app")
    train(tiny(tmp_path), store, Watcher(), tmp_path, max_epochs=10)
    assert versions.decide("tiny", 1).verdict is Verdict.PUBLISHED
    good = (tmp_path / "app" / "model" / "tiny.pt").read_bytes()
    held_out = set(versions.version("tiny", 1).held_out)
    for name in set(store.names) - held_out:
        path = tmp_path / "labels" / "final" / f"{name}.nii.gz"
        label = np.asarray(nib.load(path).dataobj)
        nib.save(nib.Nifti1Image((1 - label).astype(np.uint8), np.eye(4)), path)

    class Careless(TinyTrain):
        rate = 5e-2

    worse = Careless(str(tmp_path / "app" / "model" / "tiny"), publish_path=str(tmp_path / "app" / "model" / "tiny.pt"))
    train(worse, store, Watcher(), tmp_path, max_epochs=6, pretrained=False)
    version = versions.version("tiny", 2)
    assert version.baseline_version == 1
    assert version.baseline["val_mean_dice"] == pytest.approx(
        versions.version("tiny", 1).metrics["val_mean_dice"], abs=1e-4
    )
    decision = versions.decide("tiny", 2)
    assert decision.verdict is Verdict.REJECTED, decision.reason
    assert (tmp_path / "app" / "model" / "tiny.pt").read_bytes() == good
    current = versions.current("tiny")
    assert current is not None
    assert current.number == 1


def test_the_next_training_goes_on_from_what_is_published(tmp_path: Path) -> None:
    task = tiny(tmp_path)
    store = make_store(tmp_path, 3)
    train(task, store, Watcher())
    watcher = Watcher()
    train(task, store, watcher, name="train_02")
    assert "starting from tiny.pt" in watcher.lines
    assert task.load_path(str(tmp_path), pretrained=False) is None


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    class Broken(TinyTrain):
        def loss_function(self, context: Context) -> Any:
            return lambda pred, label: pred.sum() * float("nan")

    with pytest.raises(TaskFailed, match="learning rate") as caught:
        train(Broken(str(tmp_path / "model")), make_store(tmp_path, 1), Watcher())
    assert caught.value.fields["reason"] == "nan_loss"


@pytest.mark.parametrize(
    ("request_part", "word"),
    [
        ({"max_epochs": "many"}, "max_epochs"),
        ({"max_epochs": 0}, "max_epochs"),
        ({"val_split": 1.5}, "val_split"),
        ({"name": "../out"}, "run name"),
        ({"val_ds": "/etc/passwd"}, "val_ds"),
        ({"train_ds": [{"image": "/etc/passwd", "label": "/etc/passwd"}]}, "train_ds"),
        ({"train_ds": "nothing.json"}, "train_ds"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(tmp_path: Path, request_part: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidParams, match=word):
        train(tiny(tmp_path), make_store(tmp_path, 2), Watcher(), **request_part)


def test_cases_named_by_the_request_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABELSERVER_STUDIES", str(tmp_path))
    store = make_store(tmp_path, 4)
    (tmp_path / "held.json").write_text(json.dumps([store.datalist()[3]]))
    train_ds = [{"image": "case_0.nii.gz", "label": "labels/final/case_0.nii.gz"}]
    train(tiny(tmp_path), store, Watcher(), tmp_path, train_ds=train_ds, val_ds="held.json")
    version = LocalModelStore(tmp_path / "app").version("tiny", 1)
    assert set(version.labels) == {"case_0"}
    assert version.held_out == ("case_3",)


def test_early_stopping_ends_a_run_that_does_not_improve(tmp_path: Path) -> None:
    class Still(TinyTrain):
        rate = 0.0

    result = train(Still(str(tmp_path / "m")), make_store(tmp_path, 3), Watcher(), max_epochs=20, early_stop_patience=2)
    assert result["epoch"] < 20
    assert "total_time" in result


def test_a_step_of_the_apps_own_may_call_the_engines(tmp_path: Path) -> None:
    fired: list[str] = []

    class Inner(EventEnum):
        INNER = "inner_iteration"

    class Interactive(TinyTrain):
        def train_iteration_update(self, context: Context) -> Any:
            def step(engine: Any, batch: Any) -> Any:
                engine.fire_event(Inner.INNER)
                return engine._iteration(engine, batch)

            return step

        def event_names(self, context: Context) -> Any:
            return [Inner]

        def finalize(self, context: Context) -> None:
            super().finalize(context)
            context.trainer.add_event_handler(Inner.INNER, lambda: fired.append("inner"))

    train(Interactive(str(tmp_path / "m")), make_store(tmp_path, 2), Watcher())
    assert fired == ["inner", "inner"]


def test_metadata_can_be_switched_off_while_the_network_runs(tmp_path: Path) -> None:
    result = train(tiny(tmp_path, disable_meta_tracking=True), make_store(tmp_path, 3), Watcher())
    assert result["epoch"] == 2
    assert get_track_meta() is True


def test_a_stop_while_cases_are_loading_leaves_nothing_to_resume(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path)
    watcher.stop_when = lambda: True
    result = train(tiny(tmp_path), make_store(tmp_path, 3), watcher)
    assert result["stopped"] is True
    assert not (tmp_path / "training-checkpoint.pt").exists()
    watcher = Watcher(tmp_path, resume=True)
    assert "total_time" in train(tiny(tmp_path), make_store(tmp_path / "again", 3), watcher)


def test_a_full_device_is_told_with_advice(tmp_path: Path) -> None:
    class Greedy(TinyTrain):
        def loss_function(self, context: Context) -> Any:
            def full(pred: Any, label: Any) -> Any:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")

            return full

    with pytest.raises(DeviceMemoryFull, match="train_batch_size") as caught:
        train(Greedy(str(tmp_path / "m")), make_store(tmp_path, 1), Watcher())
    assert caught.value.fields["reason"] == "out_of_memory"


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "training-checkpoint.pt").write_bytes(b"torn")
    with pytest.raises(StoredDataInvalid, match=r"training-checkpoint\.pt"):
        train(tiny(tmp_path), make_store(tmp_path, 1), Watcher(tmp_path, resume=True))
