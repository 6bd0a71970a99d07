"""What an author may leave out, override and branch on when subclassing the inference task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SimpleInferer, SlidingWindowInferer
from monai.transforms import Activationsd, AsDiscreted, Compose, Flipd, Lambdad, Orientationd, Resized, Spacingd

from labelserver.domain.errors import InvalidParams, ModelNotFound, TaskFailed
from labelserver.tasks.base import InferType
from labelserver.tasks.infer import BasicInferTask
from labelserver.tasks.stages import CallBackTypes
from labelserver.tasks.transforms import LoadVolumed, Restored

AXES = (("L", "R"), ("P", "A"), ("I", "S"))


class Brighter(torch.nn.Module):
    """Two classes: background, and where the input is above a threshold."""

    def __init__(self, threshold: float = 0.5) -> None:
        super().__init__()
        self.threshold = torch.nn.Parameter(torch.tensor(threshold))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(x) + self.threshold, x], dim=1)


class Plain(BasicInferTask):
    """Only what must be given"""

    def pre_transforms(self) -> Any:  # type: ignore[override]  # as older apps write it
        return [LoadVolumed(keys="image")]

    def post_transforms(self, data: Any) -> Any:  # type: ignore[override]
        return Compose([AsDiscreted(keys="pred", argmax=True)])


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """(10, 11, 12) LPS volume with a bright box at [2:5, 3:7, 4:9]."""
    voxels = np.zeros((10, 11, 12), np.int32)
    voxels[2:5, 3:7, 4:9] = 1
    affine = np.diag([-2.0, -2.0, 3.0, 1.0])
    affine[:3, 3] = (15, 25, -35)
    path = tmp_path / "case.nii.gz"
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def test_a_task_of_path_and_network_alone_has_sensible_defaults(tmp_path: Path) -> None:
    task = Plain(str(tmp_path / "m.pt"), Brighter())
    info = task.info()
    assert info["description"] == "Only what must be given"
    assert (info["type"], info["labels"], info["dimension"]) == ("segmentation", [], 3)
    assert info["config"] == {"device": task.config()["device"]}
    assert task.is_valid()
    assert not Plain(str(tmp_path / "m.pt")).is_valid()
    assert Plain(type=InferType.SCRIBBLES).is_valid()


def test_hooks_without_data_and_transforms_as_compose_run_and_the_file_has_the_images_grid(image: Path) -> None:
    file, answer = Plain(network=Brighter(), labels=["box"])({"image": str(image)})
    original, result = nib.load(image), nib.load(file)
    assert str(file).endswith(".nii.gz")
    assert result.shape == original.shape
    assert np.array_equal(result.affine, original.affine)
    assert np.array_equal(np.asarray(result.dataobj), np.asarray(original.dataobj))
    assert answer["label_names"] == {"box": 1}
    assert set(answer["latencies"]) == {"pre", "infer", "invert", "post", "write", "total", "transform"}
    assert set(answer["latencies"]["transform"]) == {"pre", "post"}
    assert answer["centroids"] == {}


def test_config_fills_in_and_the_request_wins(image: Path) -> None:
    seen: list[dict[str, Any]] = []

    class Looks(Plain):
        def pre_transforms(self, data: Any = None) -> Any:
            seen.append(dict(data))
            return super().pre_transforms()

    task = Looks(network=Brighter(), config={"choice": ["a", "b"], "flag": False, "device": ["cpu"]})
    task._config["later"] = 7
    task({"image": str(image), "flag": True, "skip_writer": True})
    assert (seen[0]["choice"], seen[0]["flag"], seen[0]["later"], seen[0]["device"]) == (["a", "b"], True, 7, "cpu")
    assert seen[0]["image_path"] == seen[0]["image"] == str(image)
    seen[0]["choice"].append("c")
    assert task.config()["choice"] == ["a", "b"]


def test_attributes_changed_after_construction_count(image: Path, tmp_path: Path) -> None:
    task = Plain(path=None, network=Brighter())
    torch.save({"net": Brighter(2.0).state_dict()}, tmp_path / "w.pt")
    task.labels, task.path = {"thing": 1}, [str(tmp_path / "missing.pt"), str(tmp_path / "w.pt")]
    task.model_state_dict, task.load_strict, task.skip_writer = "net", False, True
    _, data = task({"image": str(image)})
    assert float(data["pred"].max()) == 0.0


def test_the_last_existing_path_wins(tmp_path: Path) -> None:
    first, second = tmp_path / "a.pt", tmp_path / "b.pt"
    task = Plain([str(first), str(second)], Brighter())
    assert task.get_path() is None
    assert task.get_path(validate=False) == str(second)
    first.touch()
    assert task.get_path() == str(first)
    second.touch()
    assert task.get_path() == str(second)


@pytest.mark.parametrize(
    ("roi", "shape", "expected"),
    [
        ((4, 16, 16), (1, 8, 8, 8), SlidingWindowInferer),
        ((8, 8, 8), (1, 8, 8, 8), SimpleInferer),
        ((16, 16), (3, 8, 8), SimpleInferer),
        ((4, 16), (1, 8, 8), SlidingWindowInferer),
        (None, (1, 8, 8, 8), SimpleInferer),
    ],
)
def test_the_default_inferer_compares_the_spatial_axes_with_the_roi(roi: Any, shape: Any, expected: type) -> None:
    task = Plain(network=Brighter(), roi_size=roi)
    assert type(task.inferer({"image": torch.zeros(shape)})) is expected
    assert type(task.inferer()) is SimpleInferer
    chosen = task.inferer({"image": torch.zeros(1, 9, 9, 9), "roi_size": [4, 4, 4], "sw_overlap": 0.5})
    assert isinstance(chosen, SlidingWindowInferer)
    assert chosen.overlap == 0.5


def test_options_that_are_no_numbers_are_refused(image: Path) -> None:
    with pytest.raises(InvalidParams, match="roi_size must hold whole numbers"):
        Plain(network=Brighter())({"image": str(image), "roi_size": ["x"]})


class Inverting(Plain):
    """Reorients, resamples, resizes; inverts what it is told to."""

    names: Any = ()

    def pre_transforms(self, data: Any = None) -> Any:
        return [
            LoadVolumed(keys="image"),
            Orientationd(keys="image", axcodes="RAS", labels=AXES),
            Spacingd(keys="image", pixdim=(1.0, 1.0, 1.0), mode="nearest"),
            Resized(keys="image", spatial_size=(20, 22, 36), mode="nearest"),
        ]

    def inverse_transforms(self, data: Any = None) -> Any:
        return self.names

    def post_transforms(self, data: Any = None) -> Any:
        return [Activationsd(keys="pred", softmax=True), AsDiscreted(keys="pred", argmax=True)]


def test_an_empty_list_inverts_every_invertible_transform(image: Path) -> None:
    task = Inverting(network=Brighter())
    task.names = []
    file, _ = task({"image": str(image)})
    original, result = nib.load(image), nib.load(file)
    assert np.allclose(result.affine, original.affine)
    overlap = np.asarray(result.dataobj) == np.asarray(original.dataobj)
    assert overlap.mean() > 0.98  # a face of the box may round the other way


@pytest.mark.parametrize("names", [["Resized", "Orientationd"], [Resized, Orientationd]])
def test_a_list_of_names_or_classes_inverts_those_alone(image: Path, names: list[Any]) -> None:
    task = Inverting(network=Brighter(), skip_writer=True)
    task.names = names
    _, data = task({"image": str(image)})
    kept = nib.aff2axcodes(data["pred"].affine.numpy())
    assert kept == ("L", "P", "S")
    assert tuple(data["pred"].shape[1:]) == (19, 21, 34)


def test_no_inversion_without_names(image: Path) -> None:
    task = Inverting(network=Brighter(), skip_writer=True)
    task.names = None
    assert tuple(task({"image": str(image)})[1]["pred"].shape[1:]) == (20, 22, 36)


def test_inversion_without_a_trace_says_what_to_do(image: Path) -> None:
    class ToPlain(Inverting):
        def pre_transforms(self, data: Any = None) -> Any:
            return [*super().pre_transforms(), Lambdad(keys="image", func=lambda x: x.as_tensor(), track_meta=False)]

    task = ToPlain(network=Brighter())
    task.names = []
    with pytest.raises(TaskFailed, match="lost the trace"):
        task({"image": str(image)})


def test_callbacks_see_and_change_data_between_the_stages(image: Path) -> None:
    order: list[str] = []

    def note(stage: str) -> Any:
        def seen(data: Any) -> Any:
            order.append(stage)
            if stage == "INFERER":
                data["pred"] = data["pred"] * 0
            return data

        return seen

    file, _ = Plain(network=Brighter())({"image": str(image)}, {stage: note(stage.value) for stage in CallBackTypes})
    assert order == ["PRE_TRANSFORMS", "INFERER", "INVERT_TRANSFORMS", "POST_TRANSFORMS", "WRITER"]
    assert not np.asarray(nib.load(file).dataobj).any()


def test_an_overridden_writer_may_answer_with_anything_and_super_still_writes(image: Path) -> None:
    class Pipeline(Plain):
        def writer(self, data: Any, extension: str | None = None, dtype: Any = None) -> Any:
            if data.get("pipeline_mode"):
                return {"image": data["image"], "pred": data["pred"]}, {}
            return super().writer(data, extension=".nrrd", dtype="uint16")

    task = Pipeline(network=Brighter())
    parts, _ = task({"image": str(image), "pipeline_mode": True})
    assert set(parts) == {"image", "pred"}
    assert task({"image": str(image)})[0].endswith(".nrrd")


def test_a_network_sees_plain_numbers_and_its_answer_carries_the_metadata_of_the_image(image: Path) -> None:
    seen = []

    class Noting(Brighter):
        def forward(self, x: torch.Tensor) -> Any:
            seen.append(type(x))
            return super().forward(x)

    class Several(Noting):
        def forward(self, x: torch.Tensor) -> Any:
            return {"scores": super().forward(x)}

    class Asking(Plain):
        def post_transforms(self, data: Any) -> Any:
            found.append(data["pred"])
            return []

        def writer(self, data: Any, extension: Any = None, dtype: Any = None) -> Any:
            return None, {}

    found: list[Any] = []
    Asking(network=Noting(), labels=["box"])({"image": str(image)})
    Asking(network=Several(), labels=["box"])({"image": str(image)})
    assert seen == [torch.Tensor, torch.Tensor]
    affine = np.diag([-2.0, -2.0, 3.0, 1.0])
    affine[:3, 3] = (15, 25, -35)
    for answer in (found[0], found[-1]["scores"]):
        assert np.allclose(answer.affine, affine)
        assert answer.shape[1:] == (10, 11, 12)


def test_an_array_is_answered_with_an_array() -> None:
    class FromArray(Plain):
        def pre_transforms(self, data: Any = None) -> Any:
            return []

    image = np.zeros((1, 4, 4, 4), np.float32)
    image[0, 1] = 1
    result, answer = FromArray(network=Brighter(), labels={"box": 1})({"image": image})
    assert isinstance(result, np.ndarray)
    assert result.dtype == np.uint8
    assert np.array_equal(result, image[0])
    assert answer["label_names"] == {"box": 1}


def test_a_task_without_a_network_runs_its_inferer_as_a_transform(image: Path) -> None:
    class Scribbles(Plain):
        def inferer(self, data: Any = None) -> Any:
            return Compose([Lambdad(keys="image", func=lambda x: x, overwrite="pred"), Flipd("pred")])

        def post_transforms(self, data: Any = None) -> Any:
            return []

    file, _ = Scribbles(type=InferType.SCRIBBLES)({"image": str(image)})
    original = np.asarray(nib.load(image).dataobj)
    assert np.array_equal(np.asarray(nib.load(file).dataobj), original[::-1, ::-1, ::-1])


def test_no_network_and_no_weights_says_what_to_do(image: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"Train this model, or put a file at m\.pt"):
        Plain(str(tmp_path / "m.pt"))({"image": str(image)})


def test_model_filename_chooses_beside_the_weights_and_never_elsewhere(image: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    torch.save(Brighter().state_dict(), folder / "a.pt")
    torch.save(Brighter(2.0).state_dict(), folder / "b.pt")
    torch.save(Brighter(2.0).state_dict(), tmp_path / "secret.pt")
    task = Plain(str(folder / "a.pt"), Brighter(), config={"model_filename": ["a.pt", "b.pt"]}, skip_writer=True)
    assert float(task({"image": str(image)})[1]["pred"].max()) == 1.0
    assert float(task({"image": str(image), "model_filename": "b.pt"})[1]["pred"].max()) == 0.0
    with pytest.raises(InvalidParams, match="without folders"):
        task({"image": str(image), "model_filename": "../secret.pt"})


def test_centroids_and_points_reach_clients_as_text(image: Path) -> None:
    class Centred(Plain):
        def post_transforms(self, data: Any = None) -> Any:
            def add(d: Any) -> Any:
                d["centroids"] = [{"label_1": [1, 3, 4, 5]}]
                d["result"] = {"points": [[1, 2, 3]]}
                return d

            return [AsDiscreted(keys="pred", argmax=True), add]

    _, answer = Centred(network=Brighter())({"image": str(image)})
    assert answer["centroids"] == {"label_1": ["1", "3", "4", "5"]}
    assert answer["points"] == [[1, 2, 3]]


def test_classification_answers_scores_by_name() -> None:
    class Classifies(Plain):
        def pre_transforms(self, data: Any = None) -> Any:
            return []

        def post_transforms(self, data: Any = None) -> Any:
            return [Activationsd(keys="pred", softmax=True)]

    task = Classifies(network=torch.nn.Flatten(), type=InferType.CLASSIFICATION, labels={"InBody": 0, "OutBody": 1})
    file, answer = task({"image": MetaTensor(torch.tensor([[0.0, 0.0]]))})
    assert file is None
    assert answer["prediction"] == [
        {"idx": 0, "label": "InBody", "score": 0.5},
        {"idx": 1, "label": "OutBody", "score": 0.5},
    ]


def test_transforms_are_asked_for_anew_at_every_call(image: Path) -> None:
    class Branches(Plain):
        def post_transforms(self, data: Any = None) -> Any:
            return [*super().post_transforms(data).transforms, *([Flipd("pred")] if data.get("flip") else [])]

    task = Branches(network=Brighter(), skip_writer=True)
    plain = task({"image": str(image)})[1]["pred"]
    flipped = task({"image": str(image), "flip": True})[1]["pred"]
    assert torch.equal(flipped.as_tensor(), torch.flip(plain.as_tensor(), (1, 2, 3)))


def test_a_resized_answer_is_restored_with_the_images_affine(image: Path) -> None:
    class Resizes(Plain):
        def pre_transforms(self, data: Any = None) -> Any:
            return [LoadVolumed(keys="image"), Resized(keys="image", spatial_size=(20, 22, 24), mode="nearest")]

        def post_transforms(self, data: Any = None) -> Any:
            return [AsDiscreted(keys="pred", argmax=True), Restored(keys="pred", ref_image="image")]

    file, _ = Resizes(network=Brighter())({"image": str(image)})
    original, result = nib.load(image), nib.load(file)
    assert np.array_equal(result.affine, original.affine)
    assert np.array_equal(np.asarray(result.dataobj), np.asarray(original.dataobj))
