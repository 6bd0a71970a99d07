"""The page in a real browser against a real server. Skipped visibly where there is no chromium; CI fails instead."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Playwright, sync_playwright

from tests.browser.study import CASES, Body, make_study
from tests.browser.visits import Visit, chromium
from tests.support.live_server import LiveServer

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "tests" / "apps" / "page_app"

Meet = Callable[..., Visit]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.timeout(480))


def missing(why: str) -> None:
    """Skip, and say so; fail where everything must be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


# Once a file, not once a session: while it is open, no test after it can run an event loop of its own.
@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    if chromium() is None:
        missing("chromium is missing: install Debian's package chromium")
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="session")
def built_page() -> None:
    """The page as its sources are now."""
    sys.path.insert(0, str(ROOT))
    try:
        import hatch_build
    finally:
        sys.path.remove(str(ROOT))
    try:
        hatch_build.ensure_page(ROOT)
    except hatch_build.PageMissing as error:
        missing(f"the labeling page was not made: {error}")


@dataclass
class Place:
    """A running server with the study that the page is tested on."""

    server: LiveServer
    bodies: dict[str, Body]
    labels: Path  #: of the cases

    @property
    def app(self) -> Path:
        return self.server.app

    @property
    def studies(self) -> Path:
        return self.server.studies

    def label(self, image: str, tag: str = "final", ext: str = ".nii.gz") -> Path:
        """The file that other programs read."""
        return self.studies / "labels" / tag / f"{image}{ext}"

    def prompts(self) -> list[dict[str, Any]]:
        """What the model `paint` was told, in voxels of the image's file, oldest first."""
        notes = self.app / "prompts.jsonl"
        return [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []

    def save_cases(self) -> None:
        """Give the cases their labels, as an annotator would."""
        info = {"label_info": [{"name": "liver", "idx": 1}, {"name": "spleen", "idx": 2}]}
        for number in range(CASES):
            self.server.save_label(f"case_{number}", self.labels / f"case_{number}.nii.gz", info)


@pytest.fixture(scope="module")
def place(built_page: None, playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One server for the tests of a file."""
    with start_place(tmp_path_factory.mktemp("place")) as found:
        yield found


class start_place:  # noqa: N801 - used as a function
    """A server of its own, for tests that kill it or count on an empty study."""

    def __init__(self, folder: Path, **env: str) -> None:
        app, studies, labels = folder / "app", folder / "studies", folder / "labels"
        shutil.copytree(APP, app)
        bodies = make_study(studies, labels)
        settings = {"LABELSERVER_AUTO_UPDATE_SCORING": "false", "LABELSERVER_HELD_OUT_SHARE": "0.4", **env}
        self.place = Place(LiveServer(app, studies, **settings), bodies, labels)

    def __enter__(self) -> Place:
        self.place.server.start()
        return self.place

    def __exit__(self, *error: object) -> None:
        self.place.server.stop()


@pytest.fixture
def meet(playwright: Playwright, request: pytest.FixtureRequest) -> Iterator[Meet]:
    """``meet(place)``: somebody opens a browser; what it noticed is checked when the test ends.

    Without a name it is the same person throughout a test and another one in the next, who has no drafts yet.
    """
    with ExitStack() as open_visits:
        count = 0

        def come(where: Place, person: str | None = None, path: str | None = "/") -> Visit:
            nonlocal count
            count += 1
            person = f"Ada of {request.node.name}"[:100] if person is None else person
            name = f"{request.node.name}{'' if count == 1 else f'-{count}'}"
            visit = open_visits.enter_context(Visit(playwright, where.server.url, person, name))
            if path is not None:
                visit.goto(path)
            return visit

        yield come
