"""The whole way on a real CT: open, click on the liver, correct by hand, submit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Playwright

from labelserver.imaging.reordering import ras_change
from labelserver.imaging.volumes import read_volume
from tests.browser.conftest import ROOT, Meet, Place
from tests.browser.visits import ARTIFACTS
from tests.support.live_server import LiveServer

#: ms that the first answer may take: the model reads and prepares the image for it.
PATIENCE_MS = 120_000.0
CLICKS = 5


@pytest.fixture
def ct_place(built_page: None, playwright: Playwright, real_data: Path, tmp_path: Path) -> Iterator[Place]:
    """The radiology app with one real CT."""
    shutil.copytree(ROOT / "apps" / "radiology", tmp_path / "app")
    (tmp_path / "studies").mkdir()
    shutil.copy(real_data / "ct-abdomen" / "image.nii.gz", tmp_path / "studies" / "ct.nii.gz")
    conf = {"models": "seeds", "labels": "liver,spleen"}
    with LiveServer(tmp_path / "app", tmp_path / "studies", conf=conf) as server:
        yield Place(server, {}, tmp_path)


@pytest.mark.timeout(600)
def test_the_liver_of_a_real_ct(ct_place: Place, real_data: Path, meet: Meet) -> None:
    folder = real_data / "ct-abdomen"
    reference = read_volume(folder / "labels.nii.gz")
    change = ras_change(reference.grid)
    liver: NDArray[np.bool_] = change.apply(reference.voxels) == _value_of("liver", folder)

    visit = meet(ct_place)
    visit.open("ct")
    visit.tool("p")
    marked = 0
    for z in np.linspace(*np.flatnonzero(liver.any(axis=(0, 1)))[[0, -1]], CLICKS + 2)[1:-1].astype(int):
        inside = np.argwhere(liver[:, :, z])
        x, y = inside[np.argmin(np.linalg.norm(inside - np.median(inside, axis=0), axis=1))]
        before = marked
        visit.click("axial", (int(x), int(y), int(z)))
        visit.page.locator("[data-last-run='seeds']").wait_for(timeout=PATIENCE_MS)
        visit.until("an answer", lambda before=before: visit.voxels("liver") != before)
        marked = visit.voxels("liver")
    visit.wait_draft()
    visit.page.screenshot(path=ARTIFACTS / "real-ct-clicks.png")

    voxel = (int(x), int(y), int(z))
    visit.tool("b")
    visit.page.keyboard.down("Control")  # erase
    visit.click("axial", voxel)
    visit.page.keyboard.up("Control")
    visit.until("a correction", lambda: visit.voxels("liver") < marked)
    corrected = visit.voxels("liver")
    visit.press("Control+Enter")
    visit.page.get_by_text("ct is submitted as revision 1").wait_for()

    saved = read_volume(ct_place.label("ct"))
    stored = change.apply(saved.voxels)
    assert int((stored == 1).sum()) == corrected
    assert stored[voxel] == 0, "what was erased is erased"
    np.testing.assert_allclose(saved.grid.affine, read_volume(folder / "image.nii.gz").grid.affine, atol=1e-4)
    overlap = 2 * (liver & (stored == 1)).sum() / (liver.sum() + corrected)
    print(f"Dice of {CLICKS} clicks and a correction: {overlap:.3f}")
    assert overlap > 0.5, f"Dice with the reference is {overlap:.2f}"


def _value_of(name: str, folder: Path) -> int:
    names = json.loads((folder / "labels.json").read_text())
    return next(int(value) for value, known in names.items() if known == name)
