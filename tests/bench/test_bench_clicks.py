"""How good the click models are: the simulated user at the real CT and at held-out phantoms."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from labelserver.app.click_evaluation import InProcessClicker, Object, Plan, clicked, objects_of, summarised
from labelserver.domain.ids import ImageId
from labelserver.imaging.volumes import write_volume
from labelserver.phantoms import LABELS, make_phantom, make_study_set, with_shifted_appearance
from labelserver.storage.processes import calculating_environment
from labelserver.tasks.click3d import Click3d, click_network
from labelserver.tasks.click_train import Click3dTrain
from labelserver.tasks.seeds import Seeds
from tests.bench.report import Section

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

GEOMETRY: dict[str, Any] = {"roi": 40, "intensity_window": (-160.0, 240.0), "spacing_mm": 4.5}


class Cases:
    """As much of a datastore as a training asks for."""

    split_key = b"bench"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = [path.name[: -len(".nii.gz")] for path in sorted(folder.glob("*.nii.gz"))]

    def datalist(self) -> list[dict[str, Any]]:
        labels = self.folder.with_name(f"{self.folder.name}-reference")
        return [{"image": self.get_image_uri(n), "label": str(labels / f"{n}.nii.gz")} for n in self.names]

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        return list(self.names)

    def get_image_uri(self, image_id: str) -> str:
        return str(self.folder / f"{image_id}.nii.gz")


def test_seeds_on_a_real_ct(real_data: Path) -> None:
    folder = real_data / "ct-abdomen"
    values = {name: int(value) for value, name in json.loads((folder / "labels.json").read_text()).items()}
    organs = ("liver", "kidney_right", "kidney_left", "spleen")
    clicker = InProcessClicker(Seeds(organs))
    with Section("Seeds on a real CT", "Simulated user, 10 clicks an organ, unenhanced CT of 3 mm.") as section:
        for organ in organs:
            one = Object(folder / "image.nii.gz", folder / "labels.nii.gz", ImageId("ct"), organ, values[organ])
            found = summarised([clicked(clicker, one, Plan(10))], 10)
            if organ == "liver":
                section.at_most("1 - Dice@10, liver", 1 - float(str(found["dice@10"])), 0.20, "")
            section.note(organ, f"Dice@5 {found['dice@5']}, Dice@10 {found['dice@10']}", f"ms {found['engine_ms']}")


def test_click3d_after_four_minutes(tmp_path: Path) -> None:
    make_study_set(tmp_path / "train", 16, seed=100)
    make_study_set(tmp_path / "test", 6, seed=999)
    published = tmp_path / "click3d.pt"
    request = {"max_epochs": 14, "steps_per_epoch": 60, "seed": 1}
    wall, cpu = trained_as_a_job(tmp_path / "model", tmp_path / "train", published, request)
    found = judged(published, tmp_path / "test", 10)
    with Section("Click3d on held-out phantoms", "Trained on 16 phantoms, judged on 6, simulated user.") as section:
        section.at_most("training, wall", wall, 240, "s", f"CPU {cpu:.0f} s")
        section.at_most("1 - Dice@1", 1 - found["dice@1"], 0.30, "")
        section.at_most("1 - Dice@5", 1 - found["dice@5"], 0.15, "")
        section.at_most(
            "NoC@85", found["noc@85"], 5, "clicks", f"never: {found['never@85']:.0f} of {found['objects']:.0f}"
        )
    _fine_tuned(tmp_path, published)


def _fine_tuned(folder: Path, published: Path) -> None:
    """On 10 accepted labels of another appearance."""
    shifted_set(folder / "new", 10, seed=100)
    shifted_set(folder / "new-test", 6, seed=999)
    before = judged(published, folder / "new-test", 20)
    tuned = folder / "tuned.pt"
    request = {"max_epochs": 8, "steps_per_epoch": 60, "learning_rate": 6e-3, "seed": 1}
    wall, _ = trained_as_a_job(folder / "tuning", folder / "new", tuned, request, load_path=str(published))
    after = judged(tuned, folder / "new-test", 20)
    about = "10 accepted labels of phantoms with another appearance; judged on 6 others."
    with Section("Click3d fitted to a project", about) as section:
        section.at_most("8 / NoC@85 before", 8 / before["noc@85"], 1, "", f"NoC@85 {before['noc@85']:.2f}")
        section.at_most("NoC@85 after / before", after["noc@85"] / before["noc@85"], 0.7, "", f"in {wall:.0f} s")


def trained_as_a_job(
    model: Path, cases: Path, published: Path, request: dict[str, Any], load_path: str | None = None
) -> tuple[float, float]:
    """Wall and processor seconds of a training on all cores, in a process whose memory is managed as a job's is."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in calculating_environment().items():
            patch.setenv(name, value)
        patch.setenv("OMP_NUM_THREADS", str(os.cpu_count() or 1))
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_trained, model, cases, published, request, load_path).result()


def _trained(
    model: Path, cases: Path, published: Path, request: dict[str, Any], load_path: str | None
) -> tuple[float, float]:
    begun, cpu = time.perf_counter(), time.process_time()
    trainer = Click3dTrain(model, click_network(), LABELS, load_path=load_path, publish_path=str(published), **GEOMETRY)
    trainer(request, Cases(cases))  # type: ignore[arg-type]
    return time.perf_counter() - begun, time.process_time() - cpu


def judged(weights: Path, folder: Path, clicks: int) -> dict[str, float]:
    """The summary's numbers over all organs of all phantoms in `folder`."""
    clicker = InProcessClicker(Click3d(weights, click_network(), LABELS, **GEOMETRY))
    names = {value: name for name, value in LABELS.items()}
    objects = objects_of(folder, folder.with_name(f"{folder.name}-reference"), names)
    found = summarised([clicked(clicker, one, Plan(clicks)) for one in objects], clicks)
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}


def shifted_set(folder: Path, count: int, seed: int) -> None:
    labels = folder.with_name(f"{folder.name}-reference")
    folder.mkdir()
    labels.mkdir()
    for number in range(count):
        case = with_shifted_appearance(make_phantom(number, seed))
        write_volume(folder / f"{case.name}.nii.gz", case.voxels, case.affine, compress=True)
        write_volume(labels / f"{case.name}.nii.gz", case.labels, case.affine, compress=True)
