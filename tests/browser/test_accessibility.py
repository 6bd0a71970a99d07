"""axe-core finds nothing serious in any view, in both themes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import Meet, Place, missing
from tests.browser.visits import Visit

AXE = Path(__file__).resolve().parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"

View = Callable[[Visit], None]


def work(visit: Visit) -> None:
    visit.open("straight")
    visit.tool("b")


def drawn(visit: Visit) -> None:
    visit.open("flipped")
    visit.tool("p")
    visit.click("axial", (20, 15, 12))
    visit.until("the answer", lambda: visit.page.wait_for_timeout(20) or visit.voxels("liver") > 0)


def picture(visit: Visit) -> None:
    visit.open("photo")


def models(visit: Visit) -> None:
    visit.page.get_by_role("link", name="Models").click()


def review(visit: Visit) -> None:
    visit.page.get_by_role("link", name="Review").click()


def keys(visit: Visit) -> None:
    visit.page.get_by_role("button", name="Keys and help").click()


def options(visit: Visit) -> None:
    visit.page.get_by_role("button", name="Settings").click()


def first_visit(visit: Visit) -> None:
    visit.page.evaluate("localStorage.clear()")
    visit.page.evaluate("localStorage['labelserver.settings'] = '{}'")
    visit.page.reload()
    visit.page.locator(".hints").wait_for()


VIEWS = (work, drawn, picture, models, review, keys, options, first_visit)


@pytest.fixture(scope="module")
def axe(built_page: None) -> str:
    if not AXE.is_file():
        missing("axe-core is missing: npm ci in web/")
    return AXE.read_text(encoding="utf-8")


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.__name__)
def test_nothing_serious_is_found(place: Place, meet: Meet, axe: str, view: View, theme: str) -> None:
    visit = meet(place, path=None)
    visit.page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
    visit.goto()
    view(visit)
    visit.page.evaluate(axe)
    found: dict[str, Any] = visit.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    serious = [
        f"{violation['id']} ({violation['impact']}): {node['html'][:200]} {node.get('failureSummary', '')[:200]}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]
    assert serious == []
    assert visit.page.evaluate("document.documentElement.dataset.theme") in (theme, None) or view is first_visit
