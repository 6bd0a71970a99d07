"""What a warm request costs beyond the network's forward pass: segmentation, clicks, memory, the first request.

The set-up is a small residual U-Net (8-16-32-64): in a 96^3 sliding window with load, orientation, spacing, intensity
before and inverse, softmax, argmax after (once as an app written for MONAI Label, once as our ready-made task); and
with two guidance channels at 128x128x64 for clicks. The forward pass is timed in this process, in turn with requests:
the same network object as a worker makes it, the same prepared image, inferer, window batch and number of threads.
"""

from __future__ import annotations

import http.client
import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from labelserver.app.loading import load_app
from labelserver.imaging.volumes import write_volume
from labelserver.tasks.hooks import call_hook
from labelserver.tasks.prepared_images import shared
from labelserver.wire.mask_box import MEDIA_TYPE_ZSTD, decode_box
from tests.bench.report import Section, quantile
from tests.support.live_server import LiveServer

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

APP = Path(__file__).parents[1] / "apps" / "click_app"
THREADS = 1
#: requests and forward passes of one measurement, taken in turn; the median counts
ROUNDS = {"96x96x64": 15, "256x256x128": 9, "512x512x200": 5}
#: voxels and mm, so that 1.5 mm give 96x96x64, 205x205x128 and 267x267x150
SIZES = {
    "96x96x64": ((96, 96, 64), (1.5, 1.5, 1.5)),
    "256x256x128": ((256, 256, 128), (1.2, 1.2, 1.5)),
    "512x512x200": ((512, 512, 200), (0.782, 0.782, 1.125)),
}
SLICER = {"result_extension": ".nrrd", "result_dtype": "uint8"}
SEGMENTATION = {"96x96x64": 1.1, "256x256x128": 1.2, "512x512x200": 1.6}
CLICK_FULL = {"96x96x64": 1.3, "256x256x128": 1.8, "512x512x200": 4.0}
CLICK_BOX = {"96x96x64": 1.2, "256x256x128": 1.3, "512x512x200": 1.3}
MEMORY_GIB = {"96x96x64": 1.2, "256x256x128": 1.5, "512x512x200": 2.0}
FIRST_S = {"96x96x64": 1.0, "256x256x128": 4.0, "512x512x200": 8.0}


@dataclass
class Measured:
    """One server with one model and one image, and the same model in this process."""

    server: LiveServer
    model: str
    size: str
    image: Path
    first_s: float = 0.0
    forward: list[float] = field(default_factory=list)
    request: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        return statistics.median(self.request) / statistics.median(self.forward)

    @property
    def detail(self) -> str:
        return (
            f"{statistics.median(self.request) * 1000:.0f} ms over {statistics.median(self.forward) * 1000:.0f} ms, "
            f"median of {len(self.request)}"
        )

    def peak_gib(self) -> float:
        """Sum of what the server and its workers had in memory at most (VmHWM)."""
        pids = [self.server.pid, *self.server.processes("labelserver.worker")]
        return sum(_status_kib(pid, "VmHWM") for pid in pids) / 2**20


def _status_kib(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smooth body with noise, as LPS CT of whole numbers, in each size."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name, (shape, spacing) in SIZES.items():
        axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in shape]
        radius = axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2
        voxels = (np.where(radius < 0.8, 60 - 100 * radius, -1000) + rng.normal(0, 12, shape)).astype(np.int16)
        affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
        write_volume(folder / f"ct_{name}.nii.gz", voxels, affine, compress=True)
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)
    shared().clear()


def measured(
    tmp_path: Path, images: Path, model: str, size: str, options: dict[str, Any], accept: str = "*/*"
) -> Iterator[Measured]:
    """Start a server for one model, ask once, then take requests and forward passes in turn."""
    app, studies = tmp_path / "app", tmp_path / "studies"
    shutil.copytree(APP, app)
    studies.mkdir()
    image = studies / f"ct_{size}.nii.gz"
    shutil.copy(images / image.name, image)
    forward = forward_of(app, studies, image, model, options)
    quiet = {"OMP_NUM_THREADS": str(THREADS), "LABELSERVER_AUTO_UPDATE_SCORING": "false"}
    with LiveServer(app, studies, conf={"models": model}, **quiet) as server:
        result = Measured(server, model, size, image)

        def ask(number: int) -> None:
            point = [SIZES[size][0][0] // 2 + number % 5, SIZES[size][0][1] // 2, SIZES[size][0][2] // 2]
            params = {**options, "organ": [point], "background": [[5, 5, 5 + number % 3]]}
            post(server, f"/infer/{model}?image=ct_{size}", params, accept)

        result.first_s = seconds(lambda: ask(0))
        ask(1)
        forward()
        for number in range(ROUNDS[size]):
            result.forward.append(seconds(forward))
            result.request.append(seconds(lambda: ask(number)))  # noqa: B023  # called at once
        yield result


def post(server: LiveServer, path: str, params: dict[str, Any], accept: str) -> bytes:
    """The body of a 200; by http.client, which takes the bytes from the socket as they come."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    headers = {"Accept": accept, "Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", path, urlencode({"params": json.dumps(params)}), headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert answer.status == 200, body[:1000]
    return body


def forward_of(app: Path, studies: Path, image: Path, model: str, options: dict[str, Any]) -> Callable[[], object]:
    """The bare forward pass of `model` on the prepared `image`, as a worker runs it."""
    task: Any = load_app(app, str(studies), {"models": model})._infers[model]
    point = [n // 2 for n in (8, 8, 8)]
    data = task._request_data({**options, "image": str(image), "organ": [point], "background": [], "device": "cpu"})
    data = task.run_pre_transforms(data, call_hook(task.pre_transforms, data))
    image = data["image"]
    inputs = torch.as_tensor(image.as_tensor() if isinstance(image, MetaTensor) else image)[None].float()
    network, inferer = task._get_network("cpu", data), call_hook(task.inferer, data)

    def run() -> None:
        with torch.no_grad():
            inferer(inputs, network)

    return run


@pytest.mark.parametrize("model", ["seg", "own_seg"])
def test_segmentation_warm_and_whole(model: str, tmp_path: Path, images: Path, one_thread: None) -> None:
    who = {"seg": "an app written for MONAI Label", "own_seg": "our ready-made task"}[model]
    with Section(f"Segmentation, {who}", "Warm request with a whole .nrrd mask over the bare forward pass.") as section:
        for size in SIZES:
            for run in measured(tmp_path / size, images, model, size, SLICER):
                section.at_most(f"{size}: request / forward", run.ratio, SEGMENTATION[size], detail=run.detail)
                section.at_most(f"{size}: first request after /readyz", run.first_s, FIRST_S[size], "s")
                section.at_most(f"{size}: peak memory of server and workers", run.peak_gib(), MEMORY_GIB[size], "GiB")


def test_next_click_whole_mask(tmp_path: Path, images: Path, one_thread: None) -> None:
    about = "Next click on the same image with a whole .nrrd mask over the bare forward pass; transforms of DeepEdit."
    with Section("Next click, whole mask", about) as section:
        for size in SIZES:
            for run in measured(tmp_path / size, images, "click", size, SLICER):
                what = f"{size}: mask that fills the volume"
                section.at_most(what, run.ratio, CLICK_FULL[size], detail=run.detail)
                section.note(f"{size}: first request after /readyz", f"{run.first_s:.2f} s")
                section.at_most(f"{size}: peak memory of server and workers", run.peak_gib(), MEMORY_GIB[size], "GiB")
        for run in measured(tmp_path / "organ", images, "organ", "512x512x200", SLICER):
            section.at_most("512x512x200: mask of one organ", run.ratio, 2.0, detail=run.detail)


def test_next_click_box(tmp_path: Path, images: Path, one_thread: None) -> None:
    about = "Next click through /infer with the box of one organ's mask as the answer, over the bare forward pass."
    with Section("Next click, box of the mask", about) as section:
        for size in SIZES:
            for run in measured(tmp_path / size, images, "organ", size, {}, MEDIA_TYPE_ZSTD):
                section.at_most(f"{size}: mask of one organ", run.ratio, CLICK_BOX[size], detail=run.detail)


def test_what_is_around_a_task_that_does_nothing(tmp_path: Path, images: Path) -> None:
    app, studies = tmp_path / "app", tmp_path / "studies"
    shutil.copytree(APP, app)
    studies.mkdir()
    shutil.copy(images / "ct_512x512x200.nii.gz", studies)
    about = "A task of 512x512x200 that has its mask already: all that is left is the server."
    with LiveServer(app, studies, conf={"models": "noop"}) as server, Section("Around an inference", about) as section:

        def ask() -> bytes:
            return post(server, "/infer/noop?image=ct_512x512x200", {}, MEDIA_TYPE_ZSTD)

        box = decode_box(ask(), expected_shape=(512, 512, 200))
        assert box.voxels.all()
        times = [seconds(ask) for _ in range(60)]
        section.at_most("POST /infer with a box, p95", quantile(times, 0.95) * 1000, 30, "ms")
        section.note("the same, median", f"{statistics.median(times) * 1000:.1f} ms")
