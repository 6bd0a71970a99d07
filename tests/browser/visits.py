"""A person in front of the page: a real browser with its own profile, and what it noticed meanwhile."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from urllib.parse import quote, urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Playwright, Request
from playwright.sync_api import TimeoutError as WaitedTooLong

from tests.support.live_server import wait_until

ARTIFACTS = Path(__file__).resolve().parents[2] / "test-artifacts"

#: The page must work without a GPU and without 3-D interfaces; nothing may ask the network by itself.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-gpu",
    "--disable-3d-apis",
    "--enable-precise-memory-info",
)
#: pixels
VIEWPORT = (1280, 860)
#: ms that a state of the page may take to come; what is measured is measured elsewhere.
PATIENCE_MS = 60_000


def chromium() -> str | None:
    """The distribution's browser."""
    return next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)


@dataclass
class Noticed:
    """What a browser reports: all of it is a fault, unless the test expects it."""

    errors: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    #: Console messages that match are no fault, e.g. of a server that is down on purpose.
    expected: list[re.Pattern[str]] = field(default_factory=list)

    def console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._note(f"console {message.type}: {message.text} ({message.location.get('url', '')})")

    def failure(self, error: object) -> None:
        self._note(f"uncaught: {error}")

    def request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob"):
            self.hosts.add(parts.netloc)

    def _note(self, text: str) -> None:
        if not any(pattern.search(text) for pattern in self.expected):
            self.errors.append(text)


class Visit:
    """``with Visit(playwright, server.url, "Ada") as visit: visit.open("ct_1")``. Ends with the checks of every visit.

    Args:
        url: of the server.
        person: who sits there; "": nobody said it yet.
        name: of the screenshot that is kept of the end.
    """

    def __init__(self, playwright: Playwright, url: str, person: str = "Ada", name: str = "") -> None:
        self._playwright = playwright
        self._profile = tempfile.mkdtemp(prefix="labelserver-browser-")
        self.url = url
        self.person = person
        self.name = name
        self.noticed = Noticed()
        self.context: BrowserContext
        self.page: Page

    def __enter__(self) -> Visit:
        self.context = self._playwright.chromium.launch_persistent_context(
            self._profile,
            executable_path=chromium(),
            headless=False,  # the flag below is the new one; Playwright's own is the old one
            args=list(FLAGS),
            viewport={"width": VIEWPORT[0], "height": VIEWPORT[1]},
            reduced_motion="reduce",
        )
        self.context.set_default_timeout(PATIENCE_MS)
        if self.person:
            cookie = {"name": "labelserver_person", "value": quote(self.person), "url": self.url}
            self.context.add_cookies([{**cookie, "expires": time.time() + 86400}])  # kept, as the page keeps it
        self.context.on("request", self.noticed.request)
        self.page = self.context.pages[0]
        self.page.on("console", self.noticed.console)
        self.page.on("pageerror", self.noticed.failure)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.name:
                ARTIFACTS.mkdir(exist_ok=True)
                with suppress(Exception):  # a screenshot of a page that is gone must not hide why
                    self.page.screenshot(path=ARTIFACTS / f"{self.name}.png")
            self.context.close()
        finally:
            shutil.rmtree(self._profile, ignore_errors=True)
        if kind is None:
            assert self.noticed.errors == []
            assert self.noticed.hosts <= {urlsplit(self.url).netloc}, "a request left the server"

    def hear(self, words: str) -> None:
        """Wait until the page says this."""
        self.page.locator(".toast", has_text=words).first.wait_for()

    def artifact(self, what: str) -> Path:
        """Where a picture of this visit is kept."""
        ARTIFACTS.mkdir(exist_ok=True)
        return ARTIFACTS / f"{self.name or 'visit'}-{what}.png"

    def goto(self, path: str = "/", **chosen: object) -> None:
        """Load the page. `chosen`: settings that this person made before; the hints of a first visit are put away."""
        settings = json.dumps({"welcomed": True, "nextAfterSubmit": False, **chosen})
        self.page.add_init_script(f"localStorage['labelserver.settings'] ??= {json.dumps(settings)}")
        self.page.goto(self.url + path)

    def open(self, image: str) -> None:
        """Open an image from the list and wait until all of it is there."""
        if self.page.url == "about:blank":
            self.goto()
        self.page.locator(f".image-row[data-image='{image}']").click()
        self.wait_ready(image)

    def wait_ready(self, image: str) -> None:
        self.page.locator(f".panes[data-image='{image}'][data-state='ready']").wait_for()

    def press(self, keys: str) -> None:
        self.page.keyboard.press(keys)

    def tool(self, key: str) -> None:
        """Arm a tool by its key, with a pane in focus."""
        self.page.locator(".pane-view").first.focus()
        self.press(key)

    def voxels(self, label: str) -> int:
        """How many voxels of a label the label table tells."""
        told = self.page.locator(f"tr[data-label='{label}']").get_attribute("data-voxels")
        return int(told or "0")

    def wait_voxels(self, label: str, wanted: int) -> None:
        self.page.locator(f"tr[data-label='{label}'][data-voxels='{wanted}']").wait_for()

    def wait_draft(self, state: str = "saved") -> None:
        now = self.page.locator("button[data-draft]")
        wanted = self.page.locator(f"button[data-draft='{state}']")
        try:
            wanted.wait_for()
        except WaitedTooLong:
            seen = now.get_attribute("data-draft") if now.count() else "nothing"
            raise AssertionError(f"the draft is {state!r} no sooner than never; now it is {seen!r}") from None

    def pixels(self, width: int, height: int) -> Callable[[int, int], tuple[float, float]]:
        """Where on the screen the pixel (column, row) of a picture lies that fills its pane."""
        box = self.page.locator(".pane-view").bounding_box()
        assert box is not None
        scale = min(box["width"] / width, box["height"] / height)
        left, top = box["x"] + (box["width"] - width * scale) / 2, box["y"] + (box["height"] - height * scale) / 2
        return lambda x, y: (left + (x + 0.5) * scale, top + (y + 0.5) * scale)

    def at(self, plane: str, voxel: tuple[int, int, int]) -> tuple[float, float]:
        """Where on the screen the page shows a voxel in a plane through it; found by asking the page's read-out.

        The crosshair is brought into the voxel's slice by the plane's own slider; then the place is looked for with
        the pointer until the read-out says the voxel.
        """
        axis = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
        pane = self.page.locator(f"section[data-plane='{plane}']")
        slider = pane.locator("input.slice")
        if slider.count():
            slider.fill(str(voxel[axis] + 1))
        box = pane.locator(".pane-view").bounding_box()
        assert box is not None
        centre = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        u, v = [a for a in range(3) if a != axis]
        here = self.read(*centre)
        beside, below = (
            self.read(centre[0] + _PROBE_PX, centre[1]),
            self.read(centre[0], centre[1] + _PROBE_PX),
        )
        per_px = ((beside[u] - here[u]) / _PROBE_PX, (below[v] - here[v]) / _PROBE_PX)
        assert all(per_px), f"the read-out does not follow the pointer: {here} {beside} {below}"
        x, y = centre
        for _ in range(24):
            now = self.read(x, y)
            if now == voxel:
                return self._centred(x, y, voxel, (abs(per_px[0]), abs(per_px[1])))
            x += _step(voxel[u] - now[u]) / per_px[0]
            y += _step(voxel[v] - now[v]) / per_px[1]
        raise AssertionError(f"the voxel {voxel} was not found in the {plane} plane; last read {now}")

    def _centred(
        self, x: float, y: float, voxel: tuple[int, int, int], per_px: tuple[float, float]
    ) -> tuple[float, float]:
        """About the middle of the voxel on the screen, so that a rounding of the pointer's place does not matter."""
        moved = []
        for dx, dy in ((0.25 / per_px[0], 0.0), (0.0, 0.25 / per_px[1])):
            back = next((n for n in range(4) if self.read(x - (n + 1) * dx, y - (n + 1) * dy) != voxel), 4)
            on = next((n for n in range(4) if self.read(x + (n + 1) * dx, y + (n + 1) * dy) != voxel), 4)
            moved.append((on - back) / 2 * (dx + dy))
        return x + moved[0], y + moved[1]

    def read(self, x: float, y: float) -> tuple[int, int, int]:
        """The voxel that the read-out tells with the pointer at a place of the screen."""
        self.page.mouse.move(x, y)
        told = self.page.evaluate(_READ)
        assert told, f"no voxel at {x:.0f}, {y:.0f}"
        i, j, k = (int(n) for n in told.split(","))
        return (i, j, k)

    def click(self, plane: str, voxel: tuple[int, int, int], **options: object) -> None:
        x, y = self.at(plane, voxel)
        self.page.mouse.click(x, y, **options)  # type: ignore[arg-type]

    def drag(self, places: list[tuple[float, float]]) -> None:
        """Press at the first place of the screen, move through all, let go."""
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=4)
        self.page.mouse.up()

    def until(self, what: str, condition: object) -> object:
        return wait_until(what, condition, PATIENCE_MS / 1000)


#: px between two looks at the read-out
_PROBE_PX = 60

#: The read-out once the page has drawn what the pointer's last move changed.
_READ = """() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() =>
    resolve(document.querySelector(".readout")?.dataset.voxel))))"""


def _step(voxels: int) -> float:
    """How far to go: less than a voxel when it is the next one, so that no step goes beyond it."""
    return 0.6 * voxels if abs(voxels) <= 1 else float(voxels)
