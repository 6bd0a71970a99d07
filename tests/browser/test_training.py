"""A training that somebody starts in the page: its curve grows while it runs, and its version answers afterwards."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Playwright

from tests.browser.conftest import Meet, Place, start_place
from tests.browser.visits import Visit
from tests.support.live_server import wait_until


@pytest.fixture
def labelled(built_page: None, playwright: Playwright, tmp_path: Path) -> Iterator[Place]:
    """A place of its own whose cases have labels."""
    with start_place(tmp_path) as place:
        place.save_cases()
        yield place


#: seconds and ms that a training may take: it loads torch in a process of its own, beside whatever else runs.
PATIENCE_S = 200.0
PATIENCE_MS = 1000 * PATIENCE_S


def _epochs(visit: Visit) -> int:
    told = visit.page.locator(".card[aria-label='Training'] [data-epochs]").get_attribute("data-epochs")
    return int(told or "0")


def _start(visit: Visit, epochs: int) -> None:
    visit.page.get_by_role("link", name="Models").click()
    card = visit.page.locator(".card[aria-label='Training']")
    card.get_by_label("epochs").fill(str(epochs))
    card.get_by_role("button", name="Train with this").click()
    card.get_by_role("button", name="Stop").wait_for()


@pytest.mark.timeout(600)
def test_the_curve_grows_and_the_new_version_answers(labelled: Place, meet: Meet) -> None:
    visit = meet(labelled)
    visit.page.locator(".image-row").first.wait_for()
    _start(visit, 6)
    seen: list[int] = []

    def ended() -> bool:
        epochs = _epochs(visit)
        if not seen or epochs != seen[-1]:
            seen.append(epochs)
        return epochs == 6 and visit.page.locator("[data-job-state='done']").count() > 0

    wait_until("the end of the training", ended, PATIENCE_S)
    assert len(seen) > 2, f"points came one by one, not at once: {seen}"
    assert seen == sorted(seen)
    card = visit.page.locator(".card[aria-label='Training']")
    card.get_by_role("button", name="table").first.click()
    assert card.locator("table tbody tr").count() == 6, "the table twin holds each epoch"
    for name in ("loss", "liver", "spleen"):
        assert card.get_by_text(name).count() > 0

    row = visit.page.locator("tr[data-version='1']")
    row.wait_for(timeout=PATIENCE_MS)
    visit.until("a version in use", lambda: row.get_attribute("data-current") == "true")
    assert visit.page.locator(".card[aria-label='Learning curve'] .chart").get_attribute("data-points") != "0"

    visit.page.get_by_role("link", name="Work").click()
    visit.open("straight")
    visit.page.locator(".panel.model select").select_option("organs")
    visit.tool("r")
    answered = visit.page.locator("[data-last-run='organs']")
    answered.wait_for()
    assert "1" in (answered.get_attribute("data-version") or ""), "the version that was trained just now"


@pytest.mark.timeout(600)
def test_a_reload_in_the_middle_takes_up_the_curve_and_stop_stops(labelled: Place, meet: Meet) -> None:
    visit = meet(labelled)
    visit.page.locator(".image-row").first.wait_for()
    _start(visit, 400)
    wait_until("some epochs", lambda: _epochs(visit) >= 2, PATIENCE_S)
    before = _epochs(visit)
    visit.page.reload()
    visit.page.locator(".card[aria-label='Training']").wait_for()
    wait_until("the curve from its beginning", lambda: _epochs(visit) > before, PATIENCE_S)
    assert visit.page.locator("[data-series='loss']").get_attribute("data-count") == str(_epochs(visit))
    visit.page.get_by_role("link", name="Work").click()
    visit.open("flipped")  # the page stays usable meanwhile
    visit.page.get_by_role("link", name="Models").click()
    visit.page.locator(".card[aria-label='Training']").get_by_role("button", name="Stop").click()
    visit.page.locator("[data-job-state='stopped']").wait_for(timeout=PATIENCE_MS)


@pytest.mark.timeout(600)
def test_versions_are_compared_published_and_rolled_back(labelled: Place, meet: Meet) -> None:
    visit = meet(labelled)
    page = visit.page
    page.locator(".image-row").first.wait_for()
    for number in (1, 2):
        _start(visit, 1)
        page.locator(f"tr[data-version='{number}']").wait_for(timeout=PATIENCE_MS)
        page.locator(".card[aria-label='Training']").get_by_role("button", name="Train", exact=True).wait_for(
            timeout=PATIENCE_MS
        )
    second = page.locator("tr[data-version='2']")
    if second.get_attribute("data-current") != "true":  # the gate kept the first; a person decides otherwise
        second.get_by_role("button", name="Use this").click()
    visit.until("version 2 in use", lambda: second.get_attribute("data-current") == "true")
    second.get_by_role("button", name="Compare").click()
    compared = page.locator("section[aria-label='Comparison of two versions']")
    compared.wait_for()
    assert compared.locator("tbody tr").count() > 2, "metrics, and each held-out image"
    page.get_by_role("button", name="Roll back").click()
    first = page.locator("tr[data-version='1']")
    visit.until("version 1 in use again", lambda: first.get_attribute("data-current") == "true")


@pytest.mark.timeout(600)
def test_a_version_is_packed_and_downloaded(labelled: Place, meet: Meet, tmp_path: Path) -> None:
    visit = meet(labelled)
    page = visit.page
    page.locator(".image-row").first.wait_for()
    _start(visit, 1)
    row = page.locator("tr[data-version='1']")
    row.wait_for(timeout=PATIENCE_MS)
    bundle = _downloaded(visit, "MONAI bundle", tmp_path / "bundle.zip")
    with zipfile.ZipFile(bundle) as archive:
        assert archive.testzip() is None
        assert any(name.endswith("configs/metadata.json") for name in archive.namelist()), archive.namelist()
    script = _downloaded(visit, "TorchScript", tmp_path / "script.zip")
    with zipfile.ZipFile(script) as archive:
        assert archive.testzip() is None
        [program] = [name for name in archive.namelist() if name.endswith(".ts")]
        archive.extract(program, tmp_path)
    with zipfile.ZipFile(tmp_path / program) as inner:  # torch.jit.save makes zip files
        assert any(name.endswith("/constants.pkl") for name in inner.namelist())


def _downloaded(visit: Visit, kind: str, file: Path) -> Path:
    """Have version 1 packed as `kind` and fetch what the page offers."""
    row = visit.page.locator("tr[data-version='1']")
    visit.page.get_by_label("export as").select_option(label=kind)
    row.get_by_role("button", name="Export").click()
    link = row.locator(f"a[download][title='{kind}']")
    link.wait_for(timeout=PATIENCE_MS)
    with visit.page.expect_download() as told:
        link.click()
    assert told.value.suggested_filename.endswith(".zip")
    told.value.save_as(file)
    return file
