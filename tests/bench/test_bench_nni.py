"""What a click of nnInteractive's own client costs beside the network: the whole way through a real server and worker.

The task paints a ball, so that what is measured is the client, the wire, the session and its log. A bare request
through the same client's connection is timed in turn.
"""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path

import numpy as np
import pytest
from nnInteractive.inference.remote.remote_session import nnInteractiveRemoteInferenceSession

from tests.bench.report import Section, quantile
from tests.support.live_server import LiveServer

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

APP = Path(__file__).parents[1] / "apps" / "drawing_app"
SHAPE = (64, 80, 96)
CLICKS = 100
BUDGET_MS = 5.0


def test_a_click_of_the_official_client(tmp_path: Path) -> None:
    shutil.copytree(APP, tmp_path / "app")
    (tmp_path / "studies").mkdir()
    rng = np.random.default_rng(5)
    with (
        LiveServer(tmp_path / "app", tmp_path / "studies") as server,
        nnInteractiveRemoteInferenceSession(f"{server.url}/nni/ball") as client,
    ):
        client.set_image(np.zeros((1, *SHAPE), np.int16), {})
        client.set_target_buffer(np.zeros(SHAPE, np.uint8))
        bare, clicks = [], []
        for number in range(CLICKS + 10):
            place = tuple(int(n) for n in rng.integers(0, SHAPE))
            began = time.perf_counter()
            assert client.ping()
            asked = time.perf_counter()
            client.add_point_interaction(place, True)
            done = time.perf_counter()
            assert client.target_buffer[place] == 1
            if number >= 10:
                bare.append(1000 * (asked - began))
                clicks.append(1000 * (done - asked))
    click_ms, bare_ms = statistics.median(clicks), statistics.median(bare)
    detail = f"median of {CLICKS} points on {'x'.join(map(str, SHAPE))}, client included"
    with Section(
        "nnInteractive's client", "A click through the official remote protocol; the task paints a ball."
    ) as page:
        page.at_most("click", click_ms, BUDGET_MS, "ms", detail)
        page.note("click / bare request", f"{click_ms / bare_ms:.2f} x", f"{click_ms:.2f} ms : {bare_ms:.2f} ms")
        page.note("click, 95 of 100", f"{quantile(clicks, 0.95):.2f} ms")
