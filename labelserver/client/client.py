"""`LabelServerClient`: everything a program or a notebook asks of a label server, one method each.

Method names are those of MONAI Label's client where it has the call. One client may be used by several threads.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from labelserver.client.answers import InferResult, Sample, ServerInfo, Upload, as_object
from labelserver.client.errors import JobFailed, NothingThere
from labelserver.client.following import FollowingCalls
from labelserver.client.history import HistoryCalls, condition_of
from labelserver.client.multipart import parts_of
from labelserver.client.session_calls import SessionCalls
from labelserver.client.transfer import CountedFile, OnBytes
from labelserver.client.work import WorkCalls
from labelserver.domain.jobs import JobState
from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.wire.jobs import Job, JobList
from labelserver.wire.models import Model, ModelList, Version, VersionComparison, VersionList

#: called with every new state of a job that is waited for
OnJob = Callable[[Job], None]


class LabelServerClient(HistoryCalls, FollowingCalls, SessionCalls, WorkCalls):
    """A connection to one server.

    Every method raises `ServerUnreachable` if nobody answers and a `RequestFailed` with the server's own sentence if it
    says no.

        with LabelServerClient("http://127.0.0.1:8000", person="ada") as client:
            sample = client.next_sample("first")
            result = client.infer("segmentation", sample.id)
            client.save_label(sample.id, result.mask)

    Args:
        url: of the server; may end in a path prefix.
        person: who is calling, kept with every label (a claim, not a proof).
        timeout_s: for an answer to begin; an inference waits for its turn.
        transport: another way to the server; tests pass one that needs no socket.
    """

    def _repr_html_(self) -> str:
        return self.info()._repr_html_()

    # -- the server

    def info(self) -> ServerInfo:
        """What the server offers: models, trainers, strategies, and how far the labeling is."""
        return ServerInfo.from_json(as_object(self._json("GET", "/info/")))

    def is_ready(self) -> bool:
        """True once the app is loaded and requests are answered without waiting for it."""
        with self._reaching():
            return self._http.get("/readyz").status_code == 200

    def auth_enabled(self) -> bool:
        """True if this server asks for credentials."""
        with self._reaching():
            answer = self._http.get("/auth/")
        return answer.status_code == 200 and bool(as_object(answer.json()).get("enabled"))

    # -- images and labels

    def next_sample(self, strategy: str = "random", params: JsonObject | None = None) -> Sample | None:
        """The image that `strategy` wants labeled next; None if nothing is left."""
        document = as_object(self._json("POST", f"/activelearning/{strategy}", json=self._signed(params)))
        return Sample.from_json(document) if document.get("id") else None

    def datastore(self) -> JsonObject:
        """The whole index: ``{"objects": {image id: {"image": ..., "labels": {tag: ...}}}}``."""
        return as_object(self._json("GET", "/datastore/", params={"output": "all"}))

    def upload_image(
        self, file: Path, image_id: str = "", params: JsonObject | None = None, on_bytes: OnBytes | None = None
    ) -> str:
        """Add an image; returns its id (default: the file's name without extension)."""
        query = {"image": image_id} if image_id else {}
        with CountedFile(Path(file), on_bytes) as opened:
            answer = self._json(
                "PUT",
                "/datastore/image",
                params=query,
                data={"params": json.dumps(self._signed(params))},
                files={"file": (Path(file).name, opened)},
            )
        return str(as_object(answer).get("image", ""))

    def download_image(self, image_id: str, folder: Path | None = None, on_bytes: OnBytes | None = None) -> Path:
        """Fetch an image's file into `folder` (default: one that `close` deletes)."""
        return self._download("/datastore/image", {"image": image_id}, folder, f"{image_id}.nii.gz", on_bytes)

    def image_info(self, image_id: str) -> JsonObject:
        return as_object(self._json("GET", "/datastore/image/info", params={"image": image_id}))

    def remove_image(self, image_id: str) -> None:
        """Remove an image and its labels."""
        self._json("DELETE", "/datastore/image", params={"id": image_id})

    def save_label(
        self,
        image_id: str,
        file: Path,
        tag: str = "",
        params: JsonObject | None = None,
        on_bytes: OnBytes | None = None,
    ) -> JsonObject:
        """Submit a label on the image's grid. An empty `tag` means ``final``: accepted by a person."""
        query = {"image": image_id, **({"tag": tag} if tag else {})}
        with CountedFile(Path(file), on_bytes) as opened:
            answer = self._json(
                "PUT",
                "/datastore/label",
                params=query,
                data={"params": json.dumps(self._signed(params))},
                files={"label": (Path(file).name, opened)},
            )
        return as_object(answer)

    def download_label(
        self, image_id: str, tag: str = "final", folder: Path | None = None, on_bytes: OnBytes | None = None
    ) -> Path:
        """Fetch the current label of a tag."""
        query = {"label": image_id, "tag": tag}
        return self._download("/datastore/label", query, folder, f"{image_id}.nii.gz", on_bytes)

    def label_info(self, image_id: str, tag: str = "final") -> JsonObject:
        return as_object(self._json("GET", "/datastore/label/info", params={"label": image_id, "tag": tag}))

    def remove_label(self, image_id: str, tag: str = "final", *, if_match: str | None = None) -> None:
        """Remove a label; its revisions stay.

        Args:
            image_id: whose label it is.
            tag: of the label.
            if_match: the `etag` of the label that is meant; None: whichever is there.

        Raises:
            Conflict: the label is not the one that `if_match` names; nothing was removed.
        """
        query = {"id": image_id, "tag": tag}
        self._json("DELETE", "/datastore/label", params=query, headers=condition_of(if_match))

    # -- uploads for one-off inference

    def create_session(
        self, files: Path | Sequence[Path], *, expiry_s: int = 0, on_bytes: OnBytes | None = None
    ) -> Upload:
        """Give the server an image that is not part of the studies: one file, or all files of a DICOM series.

        `on_bytes` is called for each file from zero on.
        """
        paths = [Path(files)] if isinstance(files, str | Path) else [Path(file) for file in files]
        with ExitStack() as stack:
            parts = [("files", (path.name, stack.enter_context(CountedFile(path, on_bytes)))) for path in paths]
            answer = as_object(self._json("PUT", "/session/", params={"expiry": expiry_s}, files=parts))
        info = answer.get("session_info")
        return Upload.from_json(str(answer.get("session_id", "")), info if isinstance(info, dict) else {})

    def get_session(self, session_id: str) -> Upload:
        return Upload.from_json(session_id, as_object(self._json("GET", f"/session/{session_id}")))

    def remove_session(self, session_id: str) -> None:
        self._json("DELETE", f"/session/{session_id}")

    # -- inference

    def infer(
        self,
        model: str,
        image_id: str = "",
        params: JsonObject | None = None,
        *,
        label_in: Path | None = None,
        file: Path | None = None,
        session_id: str = "",
        folder: Path | None = None,
        on_bytes: OnBytes | None = None,
    ) -> InferResult:
        """Run a model on an image of the studies, on `file`, or on an upload.

        Args:
            params: options of the model, prompts (``foreground``, ...), ``result_extension``, ``result_dtype``.
            label_in: a mask to start from (scribbles).
            folder: where the mask is written (default: one that `close` deletes).
            on_bytes: progress of sending `file`.
        """
        query = {"image": image_id, **({"session_id": session_id} if session_id else {})}
        given = {"file": (file, on_bytes), "label": (label_in, None)}
        with ExitStack() as stack:
            files: dict[str, Any] = {
                name: (Path(path).name, stack.enter_context(CountedFile(Path(path), counter)))
                for name, (path, counter) in given.items()
                if path is not None
            }
            # A part without a file name keeps the request multipart, as the peer's clients send it.
            files["params"] = (None, json.dumps(self._signed(params)))
            answer = self._request("POST", f"/infer/{model}", params=query, files=files)
        return self._infer_result(answer, folder)

    def batch_infer(self, model: str, images: str = "unlabeled", params: JsonObject | None = None) -> Job:
        """Start inference over ``all``, ``labeled`` or ``unlabeled`` images; the masks become labels."""
        body = self._signed(params) if params else None
        return self._started(self._json("POST", f"/batch/infer/{model}", params={"images": images}, json=body))

    # -- training and scoring

    def train_start(self, trainer: str, params: JsonObject | None = None, *, enqueue: bool = False) -> Job:
        """Start a training. Raises `ServerBusy` if one runs, unless `enqueue`."""
        query = {"enqueue": json.dumps(enqueue)}
        return self._started(self._json("POST", f"/train/{trainer}", params=query, json=self._signed(params)))

    def train_stop(self) -> Job | None:
        """Stop the running training at its next step; None if none runs."""
        document = self._json("DELETE", "/train/")
        return self._started(document) if document else None

    def train_status(self) -> Job | None:
        """The running training, else the last one, else None."""
        try:
            return self._started(self._json("GET", "/train/"))
        except NothingThere:
            return None

    def train_running(self) -> bool:
        with self._reaching():
            return self._http.get("/train/", params={"check_if_running": "true"}).status_code == 200

    def wait_for_training(
        self,
        job: Job | None = None,
        on_progress: OnJob | None = None,
        *,
        poll_s: float = 0.5,
        timeout_s: float | None = None,
    ) -> Job:
        """`wait_for_job`, by default for the training that runs or ran last."""
        chosen = job or self.train_status()
        if chosen is None:
            raise JobFailed("No training was started on this server yet.")
        return self.wait_for_job(chosen, on_progress, poll_s=poll_s, timeout_s=timeout_s)

    def score_start(self, method: str, params: JsonObject | None = None) -> Job:
        """Run a scoring method over the images."""
        return self._started(self._json("POST", f"/scoring/{method}", json=self._signed(params)))

    # -- jobs

    def jobs(self) -> list[Job]:
        """Every training, scoring and batch inference that the server knows, oldest first."""
        return self._parsed(JobList, self._json("GET", "/api/v1/jobs")).jobs

    def job(self, job_id: str) -> Job:
        return self._parsed(Job, self._json("GET", f"/api/v1/jobs/{job_id}"))

    def stop_job(self, job_id: str) -> Job:
        """Ask a job to end at its next step. Raises `Refused` if it has ended."""
        return self._parsed(Job, self._json("POST", f"/api/v1/jobs/{job_id}/stop"))

    def wait_for_job(
        self, job: Job, on_progress: OnJob | None = None, *, poll_s: float = 0.5, timeout_s: float | None = None
    ) -> Job:
        """Wait until a job ends, calling `on_progress` with each new state.

        Raises:
            JobFailed: it failed, or was stopped.
            TimeoutError: it still runs after `timeout_s`.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        last = job
        while not last.state.is_final:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"Job {last.id} still runs after {timeout_s} s.")
            time.sleep(poll_s)
            state = self.job(last.id)
            if on_progress is not None and state != last:
                on_progress(state)
            last = state
        if last.state is not JobState.DONE:
            reason = last.message or (last.details[-1] if last.details else "its log says more")
            raise JobFailed(f"Job {last.id} ended as {last.state.value}: {reason}")
        return last

    # -- models

    def models(self) -> list[Model]:
        """Models with at least one version."""
        return self._parsed(ModelList, self._json("GET", "/api/v1/models")).models

    def versions(self, model: str) -> list[Version]:
        """Versions of a model, oldest first, with their metrics and what was decided about them."""
        return self._parsed(VersionList, self._json("GET", f"/api/v1/models/{model}/versions")).versions

    def publish(self, model: str, number: int, reason: str = "") -> Version:
        """Make a version current, whatever the gate said about it (also to go back)."""
        return self._parsed(Version, self._json("POST", f"{_version(model, number)}/publish", json={"reason": reason}))

    def version(self, model: str, number: int) -> Version:
        """One version, with the value of every held-out case."""
        return self._parsed(Version, self._json("GET", _version(model, number)))

    def compare(self, model: str, first: int, second: int) -> VersionComparison:
        """Two versions on the held-out cases that both were measured on."""
        asked = {"first": first, "second": second}
        return self._parsed(VersionComparison, self._json("GET", f"/api/v1/models/{model}/compare", params=asked))

    def roll_back(self, model: str, reason: str = "") -> Version:
        """Make current what was in use before the current version. Raises `Refused` if nothing was."""
        path = f"/api/v1/models/{model}/rollback"
        return self._parsed(Version, self._json("POST", path, json={"reason": reason}))

    def reject(self, model: str, number: int, reason: str = "") -> Version:
        """Say that a version shall not be used. Raises `Refused` for the current one."""
        return self._parsed(Version, self._json("POST", f"{_version(model, number)}/reject", json={"reason": reason}))

    def pin(self, model: str, number: int, *, pinned: bool = True) -> Version:
        """Keep a version, or no longer: it is neither pruned nor deleted, nor replaced by the gate."""
        method = "POST" if pinned else "DELETE"
        return self._parsed(Version, self._json(method, f"{_version(model, number)}/pin"))

    def delete_version(self, model: str, number: int) -> None:
        """Remove a version. Raises `Refused` if it is in use or pinned."""
        self._json("DELETE", _version(model, number))

    def export(self, model: str, number: int, format: str = "all", *, verify: bool = False, modality: str = "") -> Job:
        """Start to take a version out; wait with `wait_for_job`, then `save_export`."""
        asked = {"format": format, "verify": verify, "modality": modality}
        return self._parsed(Job, self._json("POST", f"{_version(model, number)}/export", json=asked))

    def save_export(self, job: Job | str, folder: Path | None = None, on_bytes: OnBytes | None = None) -> Path:
        """Fetch the archive of an export that is done. Raises `Refused` before that."""
        job_id = job if isinstance(job, str) else job.id
        return self._download(f"/api/v1/jobs/{job_id}/archive", {}, folder, f"{job_id}.zip", on_bytes)

    def model_info(self, model: str) -> JsonObject:
        """Checksum, time and statistics of the published weights."""
        return as_object(self._json("GET", f"/model/info/{model}"))

    def download_model(self, model: str, folder: Path | None = None, on_bytes: OnBytes | None = None) -> Path:
        """Fetch the published weights."""
        return self._download(f"/model/{model}", {}, folder, f"{model}.pt", on_bytes)

    # -- helpers

    def _started(self, document: JsonValue) -> Job:
        """The job behind the peer's task document."""
        return self.job(str(as_object(document).get("id", "")))

    def _infer_result(self, answer: httpx.Response, folder: Path | None) -> InferResult:
        content_type = answer.headers.get("content-type", "")
        if not content_type.startswith("multipart/"):
            return InferResult(as_object(answer.json()), None)
        params: JsonObject = {}
        mask: Path | None = None
        for part in parts_of(content_type, answer.content):
            if part.file_name:
                target = folder or self._download_folder()
                target.mkdir(parents=True, exist_ok=True)
                mask = target / Path(part.file_name.replace("\\", "/")).name
                mask.write_bytes(part.data)
            elif part.name == "params":
                params = as_object(json.loads(part.data))
        return InferResult(params, mask)


def _version(model: str, number: int) -> str:
    return f"/api/v1/models/{model}/versions/{number}"
