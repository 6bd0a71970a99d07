"""The page below a path prefix of a reverse proxy: it finds everything, and asks for nothing outside."""

from __future__ import annotations

from urllib.parse import urlsplit

from playwright.sync_api import Playwright

from tests.browser.conftest import Place
from tests.browser.visits import Visit
from tests.support.prefix_proxy import PrefixProxy


def test_the_page_works_below_a_prefix(place: Place, playwright: Playwright) -> None:
    asked: list[str] = []
    with PrefixProxy(place.server.url, "/label") as url, Visit(playwright, url, "Pat", "below_a_prefix") as visit:
        visit.context.on("request", lambda request: asked.append(urlsplit(request.url).path))
        visit.goto()
        visit.open("turned")
        visit.page.locator("tr[data-label='liver'] .label-choose").click()
        visit.tool("p")
        visit.click("axial", (20, 15, 12))
        visit.until("the answer", lambda: visit.page.wait_for_timeout(20) or visit.voxels("liver") > 0)
        visit.wait_draft()
        visit.press("Control+Enter")
        visit.hear("is submitted")
        visit.page.get_by_role("link", name="Models").click()
        visit.page.locator("[data-view='models']").first.wait_for()
    assert [path for path in asked if not path.startswith("/label/")] == []
    assert place.label("turned").is_file()
