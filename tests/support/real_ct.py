"""The loop on a real CT: submit, train, publish, infer; then half of another patient's slices as a partial label.

Measured on the other half of that patient, before and after.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from tests.support.live_server import LiveServer

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


@dataclass
class Outcome:
    """Dice by organ. `unseen` is the half of the other patient that stays without label."""

    seconds: float = 0.0  #: of the first training, from the request to DONE
    trained_on: dict[str, float] = field(default_factory=dict)
    other_patient: dict[str, float] = field(default_factory=dict)
    unseen_before: dict[str, float] = field(default_factory=dict)
    unseen_after: dict[str, float] = field(default_factory=dict)
    seconds_again: float = 0.0  #: of the second training


CONF = {"models": "segmentation", "labels": ",".join(ORGANS), "spacing": "3,3,3"}
_LABEL_INFO = [{"name": name, "idx": number} for number, name in enumerate(ORGANS, 1)]


def learn_from_two_patients(folder: Path, real_data: Path) -> Outcome:
    """Train on one patient, then also on half of the slices of another. `folder` is empty."""
    studies = folder / "studies"
    studies.mkdir()
    shutil.copy(real_data / "ct-abdomen" / "image.nii.gz", studies / "abdomen.nii.gz")
    (studies / "other").symlink_to(real_data / "ct-dicom" / "series")
    shutil.copytree("apps/radiology", folder / "radiology")
    truth, affine = reference(real_data / "ct-abdomen")
    nib.save(nib.Nifti1Image(truth, affine), folder / "label.nii.gz")
    outcome = Outcome()
    with LiveServer(folder / "radiology", studies, conf=CONF) as server:
        info = server.http.get("/info/").json()
        assert info["models"]["segmentation"]["labels"] == {name: i for i, name in enumerate(ORGANS, start=1)}
        server.save_label("abdomen", folder / "label.nii.gz", {"label_info": _LABEL_INFO})
        outcome.seconds = train(server, {"seed": 1})
        assert server.http.get("/api/v1/models").json(), "no version was published"
        outcome.trained_on = on_what_it_learned(server, studies / "abdomen.nii.gz", truth)

        theirs, theirs_affine = reference(real_data / "ct-dicom")
        before = on_other_patient(server, theirs, theirs_affine)
        series = read_series(server)
        label = aligned_to(series, theirs, theirs_affine)
        accept_half(server, folder / "half.nii.gz", label, series.affine)
        # Both images teach; with a held-out share one of the two would not.
        outcome.seconds_again = train(server, {"seed": 1, "val_split": 0, "max_epochs": 10})
        newest = server.http.get("/api/v1/models/segmentation/versions").json()["versions"][-1]["number"]
        published = server.http.post(f"/api/v1/models/segmentation/versions/{newest}/publish", json={})
        assert published.status_code == 200, published.text
        after = on_other_patient(server, theirs, theirs_affine)
    unseen = (slice(None), slice(None), slice(label.shape[2] // 2, None))
    outcome.other_patient = scores(before, label)
    outcome.unseen_before = scores(before[unseen], label[unseen])
    outcome.unseen_after = scores(after[unseen], label[unseen])
    return outcome


def train(server: LiveServer, request: dict[str, Any]) -> float:
    """Seconds from the request to DONE."""
    begun = time.monotonic()
    status = server.train("segmentation", request, timeout_s=800)
    assert status["status"] == "DONE", status
    return time.monotonic() - begun


def on_what_it_learned(server: LiveServer, image: Path, truth: np.ndarray) -> dict[str, float]:
    mask = read(server.infer("segmentation", "abdomen", {"result_extension": ".nii.gz"}))
    original = nib.load(image)
    assert mask.shape == original.shape
    np.testing.assert_allclose(mask.affine, original.affine, atol=1e-4)
    return scores(np.asanyarray(mask.dataobj), truth)


def accept_half(server: LiveServer, file: Path, label: np.ndarray, affine: np.ndarray) -> None:
    """Save the first half of the slices, and say that nobody looked at the others."""
    middle = label.shape[2] // 2
    half = label.copy()
    half[:, :, middle:] = 0
    nib.save(nib.Nifti1Image(half, affine), file)
    region = {"kind": "slices", "axis": 2, "slices": list(range(middle))}
    with file.open("rb") as stream:
        answer = server.http.put(
            "/api/v1/images/other/labels/final",
            data={
                "params": json.dumps({"label_info": _LABEL_INFO}),
                "annotated": json.dumps({"region": region}),
            },
            files={"label": (file.name, stream)},
        )
    assert answer.status_code == 200, answer.text


def scores(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Of the organs that are there."""
    return {
        name: round(dice(prediction, truth, value), 3)
        for value, name in enumerate(ORGANS, start=1)
        if (truth == value).any()
    }


def read_series(server: LiveServer) -> nib.Nifti1Image:
    answer = server.http.get("/datastore/image", params={"image": "other"})
    assert answer.status_code == 200, answer.text
    return read(answer.content)


def on_other_patient(server: LiveServer, theirs: np.ndarray, theirs_affine: np.ndarray) -> np.ndarray:
    """The model's answer for the DICOM series, on the grid that the server gives it."""
    series = read_series(server)
    answer = read(server.infer("segmentation", "other", {"result_extension": ".nii.gz"}))
    assert answer.shape == series.shape
    np.testing.assert_allclose(answer.affine, series.affine, atol=1e-4)
    aligned = nib.as_closest_canonical(nib.Nifti1Image(theirs, theirs_affine))
    np.testing.assert_allclose(nib.as_closest_canonical(answer).affine, aligned.affine, atol=1e-2)
    return np.asanyarray(answer.dataobj)


def aligned_to(series: nib.Nifti1Image, voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """A reference mask in the axes of `series`; both are axis-aligned grids of the same places."""
    axes = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.io_orientation(series.affine))
    turned: np.ndarray = nib.orientations.apply_orientation(voxels, axes)
    assert turned.shape == series.shape
    return turned
