"""The whole loop on a real CT: submit, train, publish, infer; then the same model on another patient's DICOM series."""

from __future__ import annotations

import gzip
import io
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.support.live_server import LiveServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

#: our order of the organs -> names in the reference masks
ORGANS = {"liver": ["liver"], "spleen": ["spleen"], "kidneys": ["kidney_right", "kidney_left"], "stomach": ["stomach"]}


def reference(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels 1..4 in the order of ORGANS, and the affine."""
    image = nib.load(folder / "labels.nii.gz")
    names = {name: int(value) for value, name in json.loads((folder / "labels.json").read_text()).items()}
    values = np.asanyarray(image.dataobj)
    result = np.zeros(values.shape, np.uint8)
    for number, parts in enumerate(ORGANS.values(), start=1):
        result[np.isin(values, [names[part] for part in parts if part in names])] = number
    return result, image.affine


def dice(prediction: np.ndarray, truth: np.ndarray, value: int) -> float:
    ours, theirs = prediction == value, truth == value
    return float(2 * (ours & theirs).sum() / max(1, ours.sum() + theirs.sum()))


def read(data: bytes) -> nib.Nifti1Image:
    raw = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    return nib.Nifti1Image.from_stream(io.BytesIO(raw))


def test_train_on_a_real_ct_publish_and_infer(tmp_path, real_data, capsys):
    studies = tmp_path / "studies"
    studies.mkdir()
    shutil.copy(real_data / "ct-abdomen" / "image.nii.gz", studies / "abdomen.nii.gz")
    (studies / "other").symlink_to(real_data / "ct-dicom" / "series")
    shutil.copytree("apps/radiology", tmp_path / "radiology")
    truth, affine = reference(real_data / "ct-abdomen")
    nib.save(nib.Nifti1Image(truth, affine), tmp_path / "label.nii.gz")

    conf = {"models": "segmentation", "labels": ",".join(ORGANS), "spacing": "3,3,3"}
    with LiveServer(tmp_path / "radiology", studies, conf=conf) as server:
        info = server.http.get("/info/").json()
        assert info["models"]["segmentation"]["labels"] == {name: i for i, name in enumerate(ORGANS, start=1)}
        server.save_label(
            "abdomen",
            tmp_path / "label.nii.gz",
            {"label_info": [{"name": n, "idx": i} for i, n in enumerate(ORGANS, 1)]},
        )
        status = server.train("segmentation", {"seed": 1}, timeout_s=800)
        assert status["status"] == "DONE", status
        assert server.http.get("/api/v1/models").json(), "no version was published"

        mask = read(server.infer("segmentation", "abdomen", {"result_extension": ".nii.gz"}))
        image = nib.load(studies / "abdomen.nii.gz")
        assert mask.shape == image.shape
        np.testing.assert_allclose(mask.affine, image.affine, atol=1e-4)
        prediction = np.asanyarray(mask.dataobj)
        scores = {name: dice(prediction, truth, value) for value, name in enumerate(ORGANS, start=1)}

        other = server.http.get("/datastore/image", params={"image": "other"})
        assert other.status_code == 200, other.text
        series = read(other.content)
        answer = read(server.infer("segmentation", "other", {"result_extension": ".nii.gz"}))
        assert answer.shape == series.shape
        np.testing.assert_allclose(answer.affine, series.affine, atol=1e-4)
        theirs, theirs_affine = reference(real_data / "ct-dicom")
        aligned = nib.as_closest_canonical(nib.Nifti1Image(theirs, theirs_affine))
        ours = nib.as_closest_canonical(answer)
        np.testing.assert_allclose(ours.affine, aligned.affine, atol=1e-2)
        elsewhere = dice(np.asanyarray(ours.dataobj), np.asanyarray(aligned.dataobj), 1)

    with capsys.disabled():
        print(f"\nDice on the CT that was trained on: { ({k: round(v, 3) for k, v in scores.items()}) }")
        print(f"liver Dice on another patient, never seen, in another contrast phase: {elsewhere:.3f}")
    assert min(scores["liver"], scores["spleen"], scores["kidneys"]) >= 0.85, scores
