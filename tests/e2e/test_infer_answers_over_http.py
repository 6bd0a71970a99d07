"""Over a real server: the image is read once, the box is the file's mask, and the header says where the time went."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from labelserver.wire.mask_box import MEDIA_TYPE_GZIP, MEDIA_TYPE_ZSTD, decode_box
from tests.support.live_server import LiveServer

pytestmark = pytest.mark.slow

APP = Path(__file__).parents[1] / "apps" / "peer_app"
SHAPE = (40, 36, 30)


def touched(spool: Path) -> dict[Path, int]:
    """When a file was last made or removed in each folder below `spool`."""
    return {path: path.stat().st_mtime_ns for path in (spool, *spool.rglob("*")) if path.is_dir()}


def test_the_image_is_read_once_and_the_box_is_the_mask_of_the_file(tmp_path: Path) -> None:
    shutil.copytree(APP, tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__"))
    studies = tmp_path / "studies"
    studies.mkdir()
    voxels = np.random.default_rng(0).normal(0, 100, SHAPE).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([-2.0, -2.0, 3.0, 1.0])), studies / "i1.nii.gz")
    with LiveServer(tmp_path / "app", studies, LABELSERVER_AUTO_UPDATE_SCORING="false") as server:
        whole = server.http.post("/infer/segmentation", params={"image": "i1", "output": "image"})
        assert whole.status_code == 200, whole.text
        (tmp_path / "whole.nii.gz").write_bytes(whole.content)
        mask = np.asarray(nib.load(tmp_path / "whole.nii.gz").dataobj)
        assert mask.dtype == np.uint8
        before = touched(studies / ".labelserver" / "spool")
        for media in (MEDIA_TYPE_ZSTD, MEDIA_TYPE_GZIP):
            answer = server.http.post("/infer/segmentation", params={"image": "i1"}, headers={"Accept": media})
            assert (answer.status_code, answer.headers["content-type"]) == (200, media)
            box = decode_box(answer.content, expected_shape=SHAPE)
            pasted = np.zeros(SHAPE, np.uint8)
            box.paste_into(pasted)
            assert np.array_equal(pasted, mask)
            assert box.params["memory_step"] == "full"
            timing = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
            assert float(timing["load"]) == 0.0
            assert float(timing["forward"]) > 0.0
        assert touched(studies / ".labelserver" / "spool") == before, "a box needs no file, not even for a moment"
        assert not [path for path in (studies / ".labelserver" / "spool").rglob("*") if path.is_file()]
