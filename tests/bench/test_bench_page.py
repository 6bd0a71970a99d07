"""How fast the labeling page is in a browser without a GPU, on a CT of 512 x 512 x 200 voxels.

Everything is measured from outside: when the browser got bytes, when the page put pixels on a canvas, how many frames
it drew while a wheel turned or a brush moved. One event comes with each frame, as from a hand; they are made inside the
browser, because an input that is sent to it from another process comes when that process has its turn.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import sync_playwright
from scipy import ndimage

from labelserver.imaging.volumes import write_volume
from labelserver.phantoms import make_phantom
from tests.bench.report import Section
from tests.browser.conftest import built_page  # noqa: F401 - a fixture
from tests.browser.visits import Visit, chromium
from tests.support.live_server import LiveServer

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

APP = Path(__file__).parents[1] / "apps" / "page_app"
SHAPE = (512, 512, 200)
#: notches of the wheel, and moves of the brush
MOVES = 120

#: Voxels of the page's grid; the file counts x and y the other way round, so a cube ends there.
PLACES = ((140, 140, 20), (300, 140, 20), (140, 300, 20), (300, 300, 20), (220, 220, 60))

#: Notes when pixels reach a canvas and when answers have come; `frame` counts the browser's frames.
WATCH = """
window.watched = {puts: [], firstPicture: 0, answers: [], frame: 0};
(function count() { watched.frame++; requestAnimationFrame(count); })();
const put = CanvasRenderingContext2D.prototype.putImageData;
CanvasRenderingContext2D.prototype.putImageData = function (image, ...rest) {
    put.call(this, image, ...rest);
    const now = performance.now();
    if (!watched.firstPicture) {
        const middle = image.data.subarray(image.data.length >> 1, (image.data.length >> 1) + 4 * image.width);
        if (middle.some((value, i) => i % 4 < 3 && value > 0)) watched.firstPicture = now;
    }
    watched.puts.push([watched.frame, now]);
};
const bytes = Response.prototype.arrayBuffer;
Response.prototype.arrayBuffer = async function () {
    const got = await bytes.call(this);
    if (this.url.includes("/grid/")) watched.answers.push([performance.now(), got.byteLength]);
    return got;
};
"""

READY = """() => new Promise((resolve) => {
    const look = () => document.querySelector(".panes[data-state=ready]")
        ? resolve(performance.now()) : requestAnimationFrame(look);
    look();
})"""

#: ms from the choice of a window until the last of the three planes shows it.
CHANGE_WINDOW = """(index) => new Promise((resolve) => {
    const box = document.querySelector("select[aria-label='Window']") ??
        [...document.querySelectorAll("select")].find((one) => [...one.options].some((o) => o.text.includes("lung")));
    watched.puts.length = 0;
    const began = performance.now();
    box.selectedIndex = index;
    box.dispatchEvent(new Event("change", {bubbles: true}));
    const look = () => watched.puts.length >= 3
        ? resolve(watched.puts[2][1] - began) : requestAnimationFrame(look);
    look();
})"""

#: Dispatches `event(step)` with each frame to the axial pane; gives what was drawn meanwhile.
_DRIVE = """
const pane = document.querySelector("section[data-plane=axial] .pane-view");
const box = pane.getBoundingClientRect();
const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
const drive = (count, event) => new Promise((resolve) => {
    let step = 0;
    watched.puts.length = 0;
    const next = () => {
        if (step === count) return requestAnimationFrame(() => resolve([...watched.puts]));
        pane.dispatchEvent(event(step++));
        requestAnimationFrame(next);
    };
    requestAnimationFrame(next);
});
"""
SCROLL = f"""(count) => {{ {_DRIVE}
    return drive(count, (step) => new WheelEvent("wheel", {{
        deltaY: step < count / 2 ? 100 : -100, clientX: x, clientY: y, bubbles: true, cancelable: true}}));
}}"""
PAINT = f"""async (count) => {{ {_DRIVE}
    pane.setPointerCapture = () => undefined;  // there is no such pointer that could be captured
    const at = (type, step) => new PointerEvent(type, {{
        pointerId: 7, button: type === "pointermove" ? -1 : 0, buttons: 1, bubbles: true, cancelable: true,
        clientX: x + 60 * Math.cos(step / 10), clientY: y + 60 * Math.sin(step / 10)}});
    pane.dispatchEvent(at("pointerdown", 0));
    const drawn = await drive(count, (step) => at("pointermove", step));
    pane.dispatchEvent(at("pointerup", count));
    return drawn;
}}"""

#: What came and what was drawn, once three planes were drawn after the answer.
DRAWN = """() => new Promise((resolve) => {
    const look = () => watched.puts.filter(([_, now]) => now >= watched.answers[0][0]).length >= 3
        ? resolve([watched.answers, watched.puts]) : requestAnimationFrame(look);
    look();
})"""

HEAP = "() => performance.memory.usedJSHeapSize"


@pytest.fixture(scope="module")
def server(built_page: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:  # noqa: F811
    if chromium() is None:
        pytest.skip("chromium is missing: install Debian's package chromium")
    folder = tmp_path_factory.mktemp("page")
    app, studies = folder / "app", folder / "studies"
    shutil.copytree(APP, app)
    studies.mkdir()
    phantom = make_phantom(1, seed=3, spacing_mm=6.0).voxels
    factors = [wanted / have for wanted, have in zip(SHAPE, phantom.shape, strict=True)]
    body = ndimage.zoom(phantom.astype(np.float32), factors, order=1)[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    body += np.random.default_rng(1).normal(0, 15, body.shape).astype(np.float32)
    affine = np.diag([-0.8, -0.8, 1.5, 1.0])
    write_volume(studies / "ct.nii.gz", np.rint(body).astype(np.int16), affine, compress=True)
    with LiveServer(app, studies, LABELSERVER_AUTO_UPDATE_SCORING="false") as running:
        yield running


def frames_per_second(puts: list[list[float]]) -> float:
    """Frames in which something was drawn, a second."""
    frames = sorted({int(frame) for frame, _ in puts})
    seconds = (puts[-1][1] - puts[0][1]) / 1000
    return (len(frames) - 1) / seconds


def test_the_page_is_quick_without_a_gpu(server: LiveServer) -> None:
    title = "The labeling page, 512 x 512 x 200"
    about = (
        "Headless Chromium with `--disable-gpu`, a CT-like volume over loopback, an in-process clock of the browser. "
        "Times count from the arrival of the header; frames are those in which the page drew."
    )
    began = server.http.get("/api/v1/images/ct/volume")
    cold_s = began.elapsed.total_seconds()
    warm_s = server.http.get("/api/v1/images/ct/volume").elapsed.total_seconds()
    with sync_playwright() as playwright, Visit(playwright, server.url, "Ada") as visit:
        visit.page.add_init_script(WATCH)
        visit.goto(model="cube", brushMm=12)
        visit.page.locator(".image-row[data-image='ct']").click()
        ready_ms = visit.page.evaluate(READY)
        loaded = visit.page.evaluate(
            "() => [performance.getEntriesByType('resource').find((e) => e.name.endsWith('/ct/volume')).responseEnd, "
            "watched.firstPicture]"
        )
        windows = [visit.page.evaluate(CHANGE_WINDOW, index) for index in (1, 2, 3, 4, 5, 0) * 2]
        scroll = _scrolled(visit)
        paint = _painted(visit)
        merges = _merged(visit)
        heap = _heap_bytes(visit)
    with Section(title, about) as section:
        section.at_most("first slice after the header", (loaded[1] - loaded[0]) / 1000, 0.5, "s")
        detail = f"header {warm_s * 1000:.0f} ms; {cold_s:.2f} s for the first caller ever, who has it decoded"
        section.at_most("whole volume after the header", (ready_ms - loaded[0]) / 1000, 3.0, "s", detail)
        section.at_least("scrolling", scroll, 30, "frames/s", f"{MOVES} notches of the wheel")
        section.at_least("painting", paint, 30, "frames/s", f"{MOVES} moves of a brush of 12 mm")
        detail = f"slowest of {len(windows)}: {max(windows):.0f} ms; until all three planes show it"
        section.at_most("window change, median", statistics.median(windows), 30, "ms", detail)
        detail = f"slowest of {len(merges)}: {max(merges):.0f} ms; from the last byte until all three planes show it"
        section.at_most("merge of a returned 128^3 box, median", statistics.median(merges), 80, "ms", detail)
        section.at_most("heap", heap / 1e6, 400, "MB", "image and labels included")


def _scrolled(visit: Visit) -> float:
    """A notch of the wheel with each frame, forth and back."""
    return frames_per_second(visit.page.evaluate(SCROLL, MOVES))


def _painted(visit: Visit) -> float:
    """A stroke in circles, a move with each frame."""
    visit.page.locator("tr[data-label='liver'] .label-choose").click()
    visit.tool("b")
    rate = frames_per_second(visit.page.evaluate(PAINT, MOVES))
    assert visit.voxels("liver") > 1000
    visit.wait_draft()
    return rate


def _merged(visit: Visit) -> list[float]:
    """ms from the last byte of each answer until all planes were drawn anew."""
    found = []
    visit.tool("p")
    for number, (x, y, z) in enumerate(PLACES):
        before = visit.voxels("liver")
        if number:
            visit.wait_draft()  # a draft that is being packed takes the processor from what is measured
        visit.page.evaluate("watched.answers.length = 0; watched.puts.length = 0")
        # A key puts the prompt at the crosshair, so that no pointer needs to find a voxel.
        _crosshair(visit, x, y, z)
        visit.press("Enter")
        visit.until("the answer", lambda b=before: visit.page.wait_for_timeout(20) or visit.voxels("liver") != b)
        told: list[Any] = visit.page.evaluate(DRAWN)
        (arrived, size), puts = told[0][0], told[1]
        assert size == 128**3, (number, size)
        after = [now for _, now in puts if now >= arrived]
        found.append(after[2] - arrived)
    return found


def _crosshair(visit: Visit, *voxel: int) -> None:
    for plane, position in zip(("sagittal", "coronal", "axial"), voxel, strict=True):
        visit.page.locator(f"section[data-plane='{plane}'] input.slice").fill(str(position + 1))
    visit.page.locator("section[data-plane='axial'] .pane-view").focus()


def _heap_bytes(visit: Visit) -> float:
    visit.context.new_cdp_session(visit.page).send("HeapProfiler.collectGarbage")
    return float(visit.page.evaluate(HEAP))
