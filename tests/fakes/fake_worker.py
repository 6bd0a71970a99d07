"""A worker and a job process with a tiny app that needs no torch: everything but the app is the real thing.

Run as a program it takes the arguments of ``python -m labelserver.worker``. The app obeys the request's ``do``, and
meets the test at barriers: it writes ``STUDIES/at-<name>`` and waits until ``STUDIES/pass-<name>`` is there.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import tempfile
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from labelserver.contracts.progress import current_progress
from labelserver.domain.app_description import AppDescription
from labelserver.domain.errors import AppLoadFailed, GridsDiffer, ImageNotFound, TaskFailed, TaskNotFound
from labelserver.domain.paths import Roots
from labelserver.settings import Settings
from labelserver.worker import job, runner, serving
from labelserver.worker.sessions import AppTasks
from tests.fakes.ball_task import BallTask

MODELS = ("segmentation", "other")


class FakeStore:
    """As much of a datastore as the tests call."""

    def __init__(self, studies: Path) -> None:
        self._studies = studies

    def list_images(self) -> list[str]:
        return sorted(path.stem for path in self._studies.glob("*.img"))

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        return {"id": image_id, "score": np.float32(0.5)}

    def status(self) -> dict[str, Any]:
        return {"total": len(self.list_images()), "completed": 0}


class FakeBatch:
    def get_images(self, request: dict[str, Any], datastore: FakeStore) -> list[str]:
        return datastore.list_images()


class FakeApp:
    """Does what requests say."""

    def __init__(self, settings: Settings, roots: Roots) -> None:
        self._settings = settings
        self._roots = roots
        self._batch_infer = FakeBatch()

    def server_mode(self, mode: bool) -> None:
        self.mode = mode

    def datastore(self) -> FakeStore:
        return FakeStore(self._roots.studies)

    def on_init_complete(self) -> None:
        self._note("init-complete")

    def infer(self, request: dict[str, Any]) -> dict[str, Any] | None:
        if request["model"] not in MODELS:
            raise TaskNotFound(f"There is no model {request['model']}.")
        self._note(f"infer-{request.get('name', request['image'])}")
        self._obey(request)
        with tempfile.NamedTemporaryFile(suffix=".nii.gz", delete=False) as file:
            file.write(b"mask")
        saved = bool(request.get("save_label"))
        return {
            "label": request["image"] if saved else file.name,
            "tag": request.get("label_tag", "original"),
            "file": file.name,
            "params": {
                "label_names": {"liver": np.int64(1)},
                "nan": float("nan"),
                "array": np.arange(3),
                "request": {key: value for key, value in request.items() if key != "array_size"},
                "pid": os.getpid(),
                "thread": threading.current_thread() is threading.main_thread(),
            },
        }

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        self._obey(request)
        return {"id": "img", "thread": threading.current_thread().name}

    def on_save_label(self, image_id: str, label_id: str) -> dict[str, Any]:
        return {"saved": f"{image_id}/{label_id}"}

    def model_file(self, model: str) -> str | None:
        return str(self._roots.app / "model" / f"{model}.pt") if model in MODELS else None

    def model_info(self, model: str) -> dict[str, Any] | None:
        return {"checksum": "SHA256:0"}

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        progress = current_progress()
        assert progress.folder is not None
        checkpoint = progress.folder / "checkpoint"
        first = int(checkpoint.read_text()) if progress.resume and checkpoint.exists() else 0
        logging.getLogger("fake").info("training begins at step %d", first)
        self._obey(request)
        steps = int(request.get("steps", 3))
        for step in range(first, steps):
            progress.report({"epoch": step + 1, "total_epochs": steps, "loss": float("nan")})
            self._meet(request.get("meet", {}).get(str(step)), stubborn=bool(request.get("stubborn")))
            if request.get("version_at") == step:
                progress.version_ready("lineage", int(request.get("version", 1)))
            if not request.get("stubborn") and progress.should_stop():
                checkpoint.write_text(str(step + 1))
                break
        return {"steps": steps, "first": first, "model": request["model"]}

    def scoring(self, request: dict[str, Any]) -> list[str]:
        return [request["method"]]

    def _obey(self, request: dict[str, Any]) -> None:
        match request.get("do"):
            case "meet":
                self._meet(request["name"])
            case "stubborn":
                self._meet(request["name"], stubborn=True)
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "raise":
                raise RuntimeError("the network is upside down")
            case "memory":
                raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
            case "full":
                raise OSError(28, "No space left on device")
            case "no more events":  # not even into what was reserved
                resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))
                raise OSError(28, "No space left on device")
            case "refuse":
                raise ImageNotFound("There is no image x.", image_id="x")
            case "bad data":
                raise GridsDiffer("The label of x does not fit.")
            case "nan":
                raise TaskFailed("The loss is not a number.", reason="nan_loss")
            case "exit":
                sys.exit(3)
            case "big":
                request["pred"] = np.zeros(2_000_000)
            case _:
                pass

    def _note(self, name: str) -> None:
        with (self._roots.studies / "notes").open("a") as stream:
            stream.write(name + "\n")

    def _meet(self, name: str | None, *, stubborn: bool = False) -> None:
        if name is None:
            return
        (self._roots.studies / f"at-{name}").touch()
        passed = self._roots.studies / f"pass-{name}"
        pause = threading.Event()
        while not passed.exists():
            if not stubborn and current_progress().should_stop():
                (self._roots.studies / f"cancelled-{name}").touch()
                if current_progress().folder is None:
                    raise TaskFailed("The request was cancelled.")
                return
            pause.wait(0.005)


def ball_tasks(roots: Roots) -> AppTasks:
    """One task for sessions; an image id is a file of the studies."""
    task = BallTask(roots.studies)

    def named(name: str) -> BallTask:
        if name != "ball":
            raise TaskNotFound(f"There is no model {name}.")
        return task

    return AppTasks(named, lambda image_id: str(roots.studies / f"{image_id}.nii"), lambda model: "3")


class FakeLoader:
    """Loads the fake app; a file ``broken`` in the app's ``lib`` makes that fail."""

    def load(self, settings: Settings, roots: Roots) -> FakeApp:
        broken = roots.app / "lib" / "broken.py"
        if broken.exists():
            raise AppLoadFailed(broken.read_text())
        wait_for = roots.app / "load-barrier"
        pause = threading.Event()
        while wait_for.exists():
            pause.wait(0.005)
        return FakeApp(settings, roots)

    def describe(self, app: FakeApp, settings: Settings, roots: Roots) -> AppDescription:
        description = AppDescription(info={"name": "Fake app", "models": {key: {} for key in MODELS}}, code_hash="")
        return replace(description, overridden_hooks=frozenset({"infer"}))

    def prompted(self, app: FakeApp) -> AppTasks:
        return ball_tasks(app._roots)


def main() -> int:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    match sys.argv[1:]:
        case ["serve"]:
            return serving.serve(FakeLoader())
        case ["run-job", folder]:
            return runner.run(Path(folder), [sys.executable, __file__, "job"])
        case ["job", folder]:
            return job.run(Path(folder), FakeLoader(), lambda roots: nullcontext())
        case ["warm-job", app]:
            return runner.run_warm([sys.executable, __file__, "warm", app])
        case ["warm", _]:
            return job.run_warm(FakeLoader(), lambda roots: nullcontext(), lambda: None)
    return 2


if __name__ == "__main__":
    sys.exit(main())
