"""The dataset's zip is made while it is read: its memory does not grow with it."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path

from labelserver.datastore.archive import stream_archive
from tests.support.study_folder import noise_bytes

MIB = 2**20


def test_the_zip_is_whole_and_its_memory_flat(tmp_path: Path) -> None:
    pairs = []
    for n in range(4):
        image, label = tmp_path / f"i{n}", tmp_path / f"l{n}"
        image.write_bytes(noise_bytes(8 * MIB))
        label.write_bytes(b"label")
        pairs.append((f"c/{n}.nii.gz", image, f"c/{n}.nii.gz", label))
    pairs.append(("gone.nii.gz", tmp_path / "gone", "gone.nii.gz", tmp_path / "gone"))
    target = tmp_path / "out.zip"
    tracemalloc.start()
    try:
        with target.open("wb") as stream:
            for piece in stream_archive(pairs, {"name": "x"}):
                assert len(piece) <= 2 * MIB
                stream.write(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * MIB < target.stat().st_size
    with zipfile.ZipFile(io.BytesIO(target.read_bytes())) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == sorted(
            [f"{kind}/c/{n}.nii.gz" for kind in ("image", "label") for n in range(4)] + ["metadata.json"]
        )
        assert archive.read("image/c/2.nii.gz") == (tmp_path / "i2").read_bytes()
