"""The real worker and job processes around a real app folder that needs no torch."""

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from labelserver.app.loading import code_hash
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.errors import AppLoadFailed, ImageNotFound, TaskNotFound, WorkerDied
from labelserver.domain.infer import InferRequest
from labelserver.domain.jobs import JobKind, JobReason, JobState
from labelserver.domain.paths import Root
from labelserver.engine.local import LocalEngine
from labelserver.imaging.volumes import read_volume, write_volume
from labelserver.settings import Settings
from tests.support.local_engine import Place, until

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

AFFINE = np.diag([-1.5, 2.0, 3.0, 1.0])
SHAPE = (6, 5, 4)
CHILD = [sys.executable, "-m", "labelserver.worker"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class TinyPlace(Place):
    """Folders with the tiny app and two images."""

    def __init__(self, folder):
        super().__init__(folder)
        shutil.copytree(Path(__file__).parents[1] / "apps" / "tiny_app", self.roots.app, dirs_exist_ok=True)
        for name in ("one", "sub/two"):
            file = self.roots.studies / f"{name}.nii.gz"
            file.parent.mkdir(exist_ok=True)
            write_volume(file, np.zeros(SHAPE, np.int16), AFFINE, compress=True)
        self.barrier = folder / "barrier"

    def engine(self):
        settings = Settings(app_dir=self.roots.app, studies=str(self.roots.studies), conf={"key": "value"})
        return LocalEngine(
            settings,
            self.roots,
            [*CHILD, "serve"],
            [*CHILD, "run-job"],
            code_hash(self.roots.app, settings.conf),
            lambda model, version: self.versions.append((model, version)),
            job_grace_s=self.job_grace_s,
        )

    async def at_barrier(self):
        await until("the barrier", Path(f"{self.barrier}.at").exists)

    def let_pass_barrier(self):
        Path(f"{self.barrier}.pass").touch()


@pytest.fixture
def place(tmp_path):
    return TinyPlace(tmp_path)


async def test_a_mask_comes_back_on_the_images_grid(place):
    async with place.running() as engine:
        answer = await engine.infer(InferRequest("fill", image_id="sub/two", params={"value": 3}))
        volume = read_volume(place.roots.resolve(answer.file))
        assert volume.voxels.shape == SHAPE
        assert (volume.voxels == 3).all()
        assert np.allclose(volume.grid.affine, AFFINE)
        assert answer.ext == ".nii.gz"
        assert answer.params["label_names"] == {"organ": 1}
        assert answer.params["voxels"] == 120


async def test_an_upload_is_inferred_without_the_datastore(place):
    upload = place.roots.state / "uploads" / "scan.nii.gz"
    upload.parent.mkdir(parents=True)
    shutil.copyfile(place.roots.studies / "one.nii.gz", upload)
    async with place.running() as engine:
        rooted = place.roots.relative(upload, Root.STATE)
        answer = await engine.infer(InferRequest("fill", image_file=rooted, params={"save_label": True}))
        assert answer.file is not None
        assert answer.saved_label is None
        assert upload.exists(), "the upload belongs to somebody else"


async def test_the_app_is_described_with_its_code_hash_and_kept(place):
    async with place.running() as engine:
        description = engine.description()
        assert description.info["name"] == "Tiny"
        assert description.info["models"]["fill"]["description"] == "Fills the image"
        assert description.code_hash == code_hash(place.roots.app, {"key": "value"})
        await until("the kept file", (place.roots.app / "description.json").exists)
    assert place.engine().description() == description
    main = place.roots.app / "main.py"
    main.write_text(main.read_text() + "\n# changed\n")
    assert place.engine().description() is None


async def test_unknown_models_and_images_are_not_found(place):
    async with place.running() as engine:
        with pytest.raises(TaskNotFound):
            await engine.infer(InferRequest("nope", image_id="one"))
        with pytest.raises(ImageNotFound):
            await engine.infer(InferRequest("fill", image_id="nope"))


async def test_kill_9_of_the_worker_during_an_inference(place):
    async with place.running() as engine:
        held = asyncio.ensure_future(
            engine.infer(InferRequest("fill", image_id="one", params={"meet": str(place.barrier)}))
        )
        await place.at_barrier()
        os.kill(engine.worker_pids[0], signal.SIGKILL)
        with pytest.raises(WorkerDied):
            await held
        with pytest.raises(WorkerDied):
            await engine.infer(InferRequest("fill", image_id="one", params={"die": True}))
        assert (await engine.infer(InferRequest("fill", image_id="one"))).file is not None


async def test_the_lead_knows_samples_and_the_datastore(place):
    async with place.running() as engine:
        sample = await engine.call_lead("next_sample", {"request": {"strategy": "random"}})
        assert sample["id"] in ("one", "sub/two")
        assert await engine.call_lead("batch_images", {"params": {"images": "all"}}) == ["one", "sub/two"]
        status = await engine.call_lead("datastore.status", {"args": []})
        assert status["total"] == 2
        assert await engine.call_lead("model_file", {"model": "fill"}) is None


async def test_a_training_is_suspended_and_resumed(place):
    async with place.running(ready=False) as engine:
        record = await engine.jobs.submit(JobKind.TRAIN, "count", {"meet": str(place.barrier)}, "ann")
        await place.at_barrier()
    place.let_pass_barrier()
    async with place.running(ready=False) as engine:
        await until("adoption", engine.jobs.list)
        ended = await asyncio.wait_for(engine.jobs.wait(record.spec.job_id), 60)
        assert ended.state is JobState.DONE
        assert ended.result == {"first": 6, "labeled": 0}
        assert ended.progress["epoch"] == 10


async def test_a_scoring_writes_into_the_datastore(place):
    async with place.running(ready=False) as engine:
        record = await engine.jobs.submit(JobKind.SCORING, "size", {}, "ann")
        ended = await asyncio.wait_for(engine.jobs.wait(record.spec.job_id), 60)
        assert ended.result == {"scored": 2}
    store = LocalDatastore(place.roots.studies, state_dir=place.roots.state)
    assert store.get_image_info("sub/two")["size_score"] == 7


async def test_a_batch_saves_a_label_for_each_image(place):
    async with place.running() as engine:
        record = await engine.jobs.submit(JobKind.BATCH_INFER, "fill", {"images": "unlabeled"}, "ann")
        ended = await asyncio.wait_for(engine.jobs.wait(record.spec.job_id), 60)
        assert ended.state is JobState.DONE
        assert {image: result["tag"] for image, result in ended.result.items()} == {
            "one": "original",
            "sub/two": "original",
        }
    store = LocalDatastore(place.roots.studies, state_dir=place.roots.state)
    assert store.get_label_uri("one", "original")
    assert [path for path in (place.roots.state / "spool").rglob("*") if path.is_file()] == []


async def test_an_unknown_trainer_fails_its_job_with_a_sentence(place):
    async with place.running(ready=False) as engine:
        record = await engine.jobs.submit(JobKind.TRAIN, "nope", {}, "ann")
        ended = await asyncio.wait_for(engine.jobs.wait(record.spec.job_id), 60)
        assert (ended.state, ended.reason) == (JobState.FAILED, JobReason.APP_ERROR)
        assert "nope" in ended.message


async def test_a_broken_app_says_file_and_line_and_is_loaded_once_repaired(place):
    main = place.roots.app / "main.py"
    good = main.read_text()
    main.write_text("import nothing_of_that_name\n")
    async with place.running(ready=False) as engine:
        with pytest.raises(AppLoadFailed, match="nothing_of_that_name"):
            await engine.infer(InferRequest("fill", image_id="one"))
        main.write_text(good)
        await until("the app is loaded", lambda: engine.readiness().ready)
        assert (await engine.infer(InferRequest("fill", image_id="one"))).file is not None


async def test_a_worker_that_hosts_no_network_has_not_loaded_torch(place):
    async with place.running() as engine:
        maps = Path(f"/proc/{engine.worker_pids[0]}/maps").read_text()
        assert "libtorch" not in maps
