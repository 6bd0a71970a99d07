"""nnInteractive's clients against a real server, a real worker and real engines, over real ports."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from nnInteractive.inference.remote.remote_session import nnInteractiveRemoteInferenceSession

from labelserver.domain.geometry import Grid
from labelserver.domain.prompts import MaskBox, Prompt, PromptKind
from labelserver.tasks.nninteractive import NnInteractive, _Theirs
from labelserver.tasks.prompting import ClickState, PromptedImage
from tests.support.live_server import LiveServer, free_port
from tests.support.slicer_client import Slicer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

APP = Path(__file__).parents[1] / "apps" / "drawing_app"
SHAPE = (30, 44, 36)
CENTER = (18, 20, 13)
SLICE = [[18, 19], [0, 44], [0, 36]]


def image() -> np.ndarray:
    """A bright ellipsoid, and a second one that is somewhere else, in an array whose axes all differ."""
    grid = np.indices(SHAPE)
    near = sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, CENTER, (5, 7, 6), strict=True)) <= 1
    far = sum(((axis - c) / 4) ** 2 for axis, c in zip(grid, (8, 37, 29), strict=True)) <= 1
    noise = np.random.default_rng(1).normal(0, 8, SHAPE)
    return (100 * near + 100 * far + noise).astype(np.int16)


def ellipsoid() -> np.ndarray:
    grid = np.indices(SHAPE)
    return sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, CENTER, (5, 7, 6), strict=True)) <= 1


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * float((one.astype(bool) & other.astype(bool)).sum()) / float(one.astype(bool).sum() + other.sum())


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("nni")
    shutil.copytree(APP, folder / "app")
    (folder / "studies").mkdir()
    env = {"LABELSERVER_NNI_MODEL": "seeds", "LABELSERVER_NNI_PORT": str(port), "OMP_NUM_THREADS": "1"}
    with LiveServer(folder / "app", folder / "studies", **env) as live:
        yield live


def test_the_unmodified_client_draws_with_seeds(server: LiveServer) -> None:
    with nnInteractiveRemoteInferenceSession(f"{server.url}/nni/seeds") as client:
        assert client.supported_interactions["points"]
        client.set_do_autozoom(True)
        client.set_image(image()[None], {"spacing": [1.0, 0.8, 1.2]})
        client.set_target_buffer(np.zeros(SHAPE, np.uint8))
        client.add_point_interaction(CENTER, True)
        first = client.target_buffer.copy()
        assert first[CENTER] == 1
        assert first[8, 37, 29] == 0
        assert dice(first, ellipsoid()) > 0.5
        client.add_point_interaction((2, 3, 33), False)
        client.add_bbox_interaction([[18, 19], [13, 28], [7, 20]], True)
        drawn = np.zeros(SHAPE, np.uint8)
        drawn[18, 16:25, 13] = 1
        client.add_scribble_interaction(drawn, True)
        client.add_lasso_interaction(ellipsoid()[18:19].astype(np.uint8), True, interaction_bbox=SLICE)
        for _ in range(4):
            assert client.undo()
        np.testing.assert_array_equal(client.target_buffer, first)
        client.reset_interactions()
        client.add_initial_seg_interaction(ellipsoid().astype(np.uint8))
        client.add_point_interaction((CENTER[0] + 1, *CENTER[1:]), True)
        assert dice(client.target_buffer, ellipsoid()) > 0.8
    assert not list((server.studies / ".labelserver" / "sessions").iterdir())


def test_the_unmodified_client_draws_with_click3d(server: LiveServer) -> None:
    """The network has random weights, so that its masks say nothing; they must be undone to the voxel all the same."""
    with nnInteractiveRemoteInferenceSession(f"{server.url}/nni/click3d/other") as client:
        client.set_image(image()[None], {"spacing": [1.0, 0.8, 1.2]})
        client.set_target_buffer(np.zeros(SHAPE, np.uint8))
        seen = [client.target_buffer.copy()]
        for place in (CENTER, (8, 37, 29), (2, 3, 33)):
            client.add_point_interaction(place, place is CENTER)
            assert client.target_buffer.max() <= 1
            seen.append(client.target_buffer.copy())
        client.add_bbox_interaction([[10, 20], [13, 28], [7, 20]], True)
        for before in reversed(seen):
            assert client.undo()
            np.testing.assert_array_equal(client.target_buffer, before)
        assert not client.undo()


def test_a_client_goes_on_after_the_server_was_killed(server: LiveServer) -> None:
    with nnInteractiveRemoteInferenceSession(f"{server.url}/nni/seeds") as client:
        client.set_image(image()[None], {})
        client.set_target_buffer(np.zeros(SHAPE, np.uint8))
        client.add_point_interaction(CENTER, True)
        before = client.target_buffer.copy()
        server.kill()
        server.start()
        client.add_point_interaction((8, 37, 29), True)
        assert client.target_buffer[CENTER] == client.target_buffer[8, 37, 29] == 1
        assert client.undo()
        np.testing.assert_array_equal(client.target_buffer, before)


def test_the_older_client_draws_at_the_second_port(server: LiveServer, port: int) -> None:
    slicer = Slicer(f"http://127.0.0.1:{port}", SHAPE)
    with slicer.http:
        assert slicer.upload_image(image()).json() == {"status": "ok"}
        mask = slicer.mask(slicer.point(CENTER))
        assert mask[CENTER] == 1
        assert mask[8, 37, 29] == 0
        assert dice(mask, ellipsoid()) > 0.4
        assert slicer.mask(slicer.box((18, 13, 7), (18, 27, 19))).shape == SHAPE
        assert "outside" in slicer.point((99, 1, 1)).json()["message"]
    assert requests.get(f"http://127.0.0.1:{port}/healthz", timeout=10).json() == {"ok": True}


def test_our_adapter_speaks_the_interface_of_the_published_package(server: LiveServer, tmp_path: Path) -> None:
    """The remote session of the client package has the methods of the local one, so it stands in for the weights."""
    task = NnInteractive(tmp_path, ["organ", "other"], licence_accepted=True)
    labels = {"organ": 1, "other": 2}
    mask = np.zeros(SHAPE, np.uint8)
    prompts: list[Prompt] = []
    prepared = task.prepare(PromptedImage(image(), Grid(SHAPE, np.diag([1.0, 0.8, 1.2, 1.0]))))

    def ask(*new: Prompt) -> np.ndarray:
        prompts.extend(new)
        state = ClickState(tuple(prompts), len(new), mask.copy(), labels, {"device": "cpu"})
        last = list(task.predict(prepared, state))[-1]
        mask[tuple(slice(a, a + n) for a, n in zip(last.lo, last.values.shape, strict=True))] = last.values
        return mask

    with nnInteractiveRemoteInferenceSession(f"{server.url}/nni/seeds") as client:
        task._sessions["cpu"] = _Theirs(client)
        ask(Prompt(PromptKind.POINT, "organ", True, np.array([CENTER], dtype=float)))
        assert mask[CENTER] == 1
        assert dice(mask == 1, ellipsoid()) > 0.5
        ask(Prompt(PromptKind.POINT, "other", True, np.array([[8.0, 37, 29]])))
        assert (mask[8, 37, 29], mask[CENTER]) == (2, 1)
        before = mask.copy()
        flat = MaskBox((18, 0, 0), ellipsoid()[18:19])
        ask(
            Prompt(PromptKind.SCRIBBLE, "organ", True, np.array([[18.0, 17, 13], [18, 24, 13]])),
            Prompt(PromptKind.SCRIBBLE, "organ", False, np.array([[2.0, 3, 30], [2, 9, 30]])),
            Prompt(PromptKind.BOX, "organ", True, np.array([[18.0, 13, 7], [18, 27, 19]])),
            Prompt(PromptKind.LASSO, "organ", True, mask=flat),
        )
        assert mask[18, 17:25, 13].all()
        assert not mask[2, 3:10, 30].any()
        assert np.array_equal(mask == 2, before == 2)
        ask(Prompt(PromptKind.MASK, "other", True, mask=MaskBox((0, 0, 0), before == 2)))
        assert mask[8, 37, 29] == 2
