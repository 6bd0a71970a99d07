"""Tasks of many kinds answer outside the server as inside; what cannot be taken out is refused with what to do."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import monai.transforms as mt
import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer

from labelserver.domain.errors import InvalidParams
from labelserver.domain.schema import CodedTerm, LabelSchema, SchemaEntry
from labelserver.export import torchscript
from labelserver.export.contents import ExportContents, RunSettings
from labelserver.tasks.bundle_infer import BundleInferTask
from labelserver.tasks.bundle_trust import trust
from labelserver.tasks.infer import BasicInferTask
from labelserver.tasks.pictures import PictureSegmentationInfer
from labelserver.tasks.seeds import Seeds
from labelserver.tasks.segmentation import SegmentationInfer
from labelserver.tasks.transforms import Restored
from tests.unit.export.export_helpers import answer, differing, network, prepared, several_labels, weights

LABELS = {"liver": 1, "spleen": 2}
AXES = (("L", "R"), ("P", "A"), ("I", "S"))


class PeerStyle(BasicInferTask):
    """As apps of MONAI Label are written: every step of MONAI, everything inverted, softmax and argmax."""

    def pre_transforms(self, data: Any = None) -> Any:
        return [
            mt.LoadImaged(keys="image"),
            mt.EnsureTyped(keys="image", device=data.get("device") if data else None),
            mt.EnsureChannelFirstd(keys="image"),
            mt.Orientationd(keys="image", axcodes="RAS", labels=AXES),
            mt.Spacingd(keys="image", pixdim=(8.0, 8.0, 8.0)),
            mt.NormalizeIntensityd(keys="image", nonzero=True),
        ]

    def inferer(self, data: Any = None) -> Any:
        return SlidingWindowInferer(roi_size=(32, 32, 32), sw_batch_size=2, overlap=0.4, mode="gaussian")

    def inverse_transforms(self, data: Any = None) -> Any:
        return []

    def post_transforms(self, data: Any = None) -> Any:
        return [
            mt.EnsureTyped(keys="pred", device=data.get("device") if data else None),
            mt.Activationsd(keys="pred", softmax=True),
            mt.AsDiscreted(keys="pred", argmax=True),
            mt.KeepLargestConnectedComponentd(keys="pred", applied_labels=[1]),
            Restored(keys="pred", ref_image="image"),
        ]


class Resizing(PeerStyle):
    """Resizes, inverts nothing, and is brought back by `Restored`, which numbers the labels anew."""

    def pre_transforms(self, data: Any = None) -> Any:
        loaded = super().pre_transforms(data)
        return [*loaded[:4], mt.Resized(keys="image", spatial_size=(32, 32, 32)), *loaded[5:]]

    def inverse_transforms(self, data: Any = None) -> Any:
        return None

    def post_transforms(self, data: Any = None) -> Any:
        return [
            mt.AsDiscreted(keys="pred", argmax=True),
            Restored(keys="pred", ref_image="image", invert_orient=True, config_labels={"liver": 1, "spleen": 6}),
        ]


class OnlySpacing(PeerStyle):
    """Inverts one of two steps, so the answer stays in the network's orientation; no step of MONAI's does that."""

    def inverse_transforms(self, data: Any = None) -> Any:
        return [mt.Spacingd]

    def post_transforms(self, data: Any = None) -> Any:
        return [mt.AsDiscreted(keys="pred", argmax=True), Restored(keys="pred", ref_image="image", invert_orient=True)]


class OneLogit(PeerStyle):
    """A single channel: a sigmoid and a threshold."""

    def post_transforms(self, data: Any = None) -> Any:
        return [
            mt.Activationsd(keys="pred", sigmoid=True),
            mt.AsDiscreted(keys="pred", threshold=0.5),
            Restored(keys="pred", ref_image="image"),
        ]


class Usual(PeerStyle):
    """No inferer of its own: windows if the image is larger than the region of interest."""

    inferer = BasicInferTask.inferer


def segmentation(folder: Path) -> SegmentationInfer:
    made = network()
    return SegmentationInfer(
        str(weights(made, folder)), made, LABELS, spacing_mm=(7.0, 7.0, 7.0), roi_size=(32, 32, 32), description="In CT"
    )


def one_logit(folder: Path) -> BasicInferTask:
    made = network(outputs=1)
    return OneLogit(str(weights(made, folder)), made, labels=["liver"])


def of_monai(cls: type[BasicInferTask], **options: Any) -> Callable[[Path], BasicInferTask]:
    def build(folder: Path) -> BasicInferTask:
        made = network()
        return cls(str(weights(made, folder)), made, labels=LABELS, **options)

    return build


def picture(folder: Path) -> PictureSegmentationInfer:
    made = network(channels=3, dims=2)
    return PictureSegmentationInfer(str(weights(made, folder)), made, LABELS, roi_size=(32, 32))


def scripted(folder: Path) -> BasicInferTask:
    """Weights that are a TorchScript program, without a network in the app."""
    path = folder / "weights.ts"
    program = torchscript.scripted(network().eval(), torch.rand(1, 1, 16, 16, 16))
    torchscript.save(program.program, path, {}, {})
    return PeerStyle(str(path), None, labels=LABELS)


KINDS: dict[str, Callable[[Path], BasicInferTask]] = {
    "ready-made": segmentation,
    "peer": of_monai(PeerStyle),
    "one logit": one_logit,
    "resizing": of_monai(Resizing),
    "one step inverted": of_monai(OnlySpacing),
    "larger than the window": of_monai(Usual, roi_size=(32, 32, 32)),
    "smaller than the window": of_monai(Usual, roi_size=(96, 96, 96)),
    "picture": picture,
    "torchscript weights": scripted,
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_answers_as_the_server_voxel_for_voxel(kind: str, tmp_path: Path) -> None:
    found, _ = prepared(KINDS[kind], tmp_path)
    assert several_labels(found.contents)
    assert differing(found.contents) == 0


@pytest.mark.parametrize("kind", ["ready-made", "peer", "one logit", "larger than the window"])
def test_without_its_code_monai_alone_gives_the_same_labels(kind: str, tmp_path: Path) -> None:
    found, _ = prepared(KINDS[kind], tmp_path)
    assert not found.contents.needs_scripts
    assert differing(found.contents, scripts=False) == 0


@pytest.mark.parametrize("kind", ["resizing", "one step inverted", "picture"])
def test_what_monai_has_no_equal_for_says_that_it_needs_its_code(kind: str, tmp_path: Path) -> None:
    found, _ = prepared(KINDS[kind], tmp_path)
    assert found.contents.needs_scripts


def test_the_answer_lies_where_the_image_lies(tmp_path: Path) -> None:
    import nibabel as nib

    found, _ = prepared(segmentation, tmp_path)
    image = nib.load(found.contents.selftest_input)
    for scripts in (True, False):
        assert np.allclose(answer(found.contents, scripts=scripts)["affine"], image.affine, atol=1e-4)


def test_the_archive_holds_no_path_of_this_machine(tmp_path: Path) -> None:
    found, _ = prepared(segmentation, tmp_path)
    told = json.dumps(torchscript.documents(found.contents.torchscript))
    assert str(tmp_path) not in told
    texts = [p.read_text() for p in found.contents.folder.rglob("*") if p.suffix in (".json", ".py")]
    assert not any(str(tmp_path) in text for text in texts)


def test_settings_of_the_run_are_kept(tmp_path: Path) -> None:
    found, _ = prepared(segmentation, tmp_path)
    settings = RunSettings.read(found.contents.selftest_settings)
    assert (settings.window, settings.window_batch, settings.overlap) == ((32, 32, 32), 2, 0.25)
    assert settings.threads == torch.get_num_threads()
    assert settings.memory_format == "channels_last_3d"
    assert settings.versions["torch"] == torch.__version__


def test_labels_bear_the_colours_and_terms_of_the_projects_schema(tmp_path: Path) -> None:
    term = CodedTerm("SCT", "10200004", "Liver")
    schema = LabelSchema(1, entries=(SchemaEntry("liver", 9, "Liver", (1, 2, 3), term),))
    found, _ = prepared(segmentation, tmp_path, schema=schema)
    liver, spleen = ExportContents.read(found.contents.folder).labels
    assert (liver.value, liver.color, liver.term) == (1, (1, 2, 3), term)
    assert spleen.term is None
    assert found.contents.modality == "CT"


def test_a_case_of_ones_own_is_answered_and_travels(tmp_path: Path) -> None:
    import nibabel as nib

    voxels = np.random.default_rng(0).normal(0, 90, (30, 28, 20)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.diag([-3.0, -3.0, 5.0, 1.0])), tmp_path / "mine.nii.gz")
    found, _ = prepared(segmentation, tmp_path, case=tmp_path / "mine.nii.gz")
    assert nib.load(found.contents.selftest_input).shape == (30, 28, 20)
    assert differing(found.contents) == 0


def test_a_case_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(InvalidParams, match="works on 3-D images"):
        prepared(segmentation, tmp_path, case=tmp_path / "photo.png")
    assert not (tmp_path / "model").exists()


# --- code of the app


@pytest.fixture
def app_module(tmp_path: Path) -> Iterator[Any]:
    """A module of an app with a transform of its own."""
    folder = tmp_path / "own_app"
    folder.mkdir()
    (folder / "own_steps.py").write_text(
        "import torch\nfrom monai.transforms import MapTransform\n\n"
        "class Halved(MapTransform):\n"
        "    def __call__(self, data):\n"
        "        found = dict(data)\n"
        "        for key in self.key_iterator(found):\n"
        "            found[key] = half(found[key])\n"
        "        return found\n\n"
        "def half(value):\n    return value / 2\n"
    )
    sys.path.insert(0, str(folder))
    import own_steps  # type: ignore[import-not-found]

    yield own_steps
    sys.path.remove(str(folder))
    del sys.modules["own_steps"]


def with_step(step: Any, before: bool = True) -> Callable[[Path], BasicInferTask]:
    class Own(PeerStyle):
        def pre_transforms(self, data: Any = None) -> Any:
            steps = super().pre_transforms(data)
            return [*steps, step()] if before else steps

        def post_transforms(self, data: Any = None) -> Any:
            steps = super().post_transforms(data)
            return steps if before else [*steps, step()]

    return of_monai(Own)


def test_a_transform_of_the_app_is_shipped_as_code(app_module: Any, tmp_path: Path) -> None:
    found, _ = prepared(with_step(lambda: app_module.Halved(keys="image")), tmp_path, tmp_path / "own_app")
    assert (found.contents.folder / "scripts" / "own_steps.py").is_file()
    assert differing(found.contents) == 0


def test_a_named_function_is_written_and_a_lambda_refused(app_module: Any, tmp_path: Path) -> None:
    named = with_step(lambda: mt.Lambdad(keys="image", func=app_module.half))
    found, _ = prepared(named, tmp_path, tmp_path / "own_app")
    assert differing(found.contents) == 0
    nameless = with_step(lambda: mt.Lambdad(keys="image", func=lambda value: value / 2))
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(InvalidParams, match=r"The transform Lambdad, argument func: a lambda.*function of a module"):
        prepared(nameless, other, tmp_path / "own_app")


def test_a_transform_that_was_built_unseen_is_refused_by_name(tmp_path: Path) -> None:
    early = mt.ShiftIntensityd(keys="image", offset=3.0)
    with pytest.raises(InvalidParams, match="The transform ShiftIntensityd was not built where the app says"):
        prepared(with_step(lambda: early), tmp_path)


# --- what is refused


class OwnForward(PeerStyle):
    def run_inferer(self, data: Any, convert_to_batch: bool = True, device: str = "cuda") -> Any:
        return super().run_inferer(data, convert_to_batch, device)


class Layers(PeerStyle):
    def post_transforms(self, data: Any = None) -> Any:
        return [mt.Activationsd(keys="pred", softmax=True), Restored(keys="pred", ref_image="image")]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (of_monai(OwnForward), r"overrides run_inferer\(\)"),
        (of_monai(PeerStyle, type="deepedit"), "needs prompts or gives no label map"),
        (of_monai(PeerStyle, input_key="img"), "expects 'image' and 'pred'"),
        (of_monai(Layers), "only label maps on the image's own grid"),
        (lambda folder: Seeds(["liver"]), "computes in a way of its own"),
    ],
    ids=["own method", "prompts", "other keys", "layers", "clicks"],
)
def test_what_is_no_model_of_transforms_is_refused(build: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidParams, match=words):
        prepared(build, tmp_path)
    assert not (tmp_path / "model").exists()


# --- bundles


def bundle(folder: Path) -> BundleInferTask:
    """An imported bundle with a step of its own in ``scripts``."""
    home = folder / "organ_bundle"
    for part in ("configs", "models", "scripts"):
        (home / part).mkdir(parents=True)
    definition = {"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3}
    inference = {
        "bundle_root": ".",
        "device": "$torch.device('cpu')",
        "network_def": {**definition, "channels": [4, 8], "strides": [2]},
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": AXES},
                {"_target_": "Spacingd", "keys": "image", "pixdim": [8.0, 8.0, 8.0], "mode": "bilinear"},
                {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -200, "a_max": 300}
                | {"b_min": 0.0, "b_max": 1.0, "clip": True},
            ],
        },
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [32, 32, 32], "sw_batch_size": 2},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"}
                | {"nearest_interp": False, "to_tensor": True},
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {"_target_": "SaveImaged", "keys": "pred", "output_dir": "/nowhere"},
            ],
        },
    }
    outputs = {"pred": {"channel_def": {"0": "background", "1": "liver", "2": "spleen"}}}
    layout = {"inputs": {"image": {"spatial_shape": [32, 32, 32]}}, "outputs": outputs}
    (home / "configs" / "inference.json").write_text(json.dumps(inference))
    (home / "configs" / "metadata.json").write_text(json.dumps({"network_data_format": layout}))
    torch.save(network().state_dict(), home / "models" / "model.pt")
    trust(home)
    return BundleInferTask(str(home), {}, type="segmentation")


@pytest.mark.parametrize("scripts", [True, False])
def test_an_imported_bundle_is_exported_again(tmp_path: Path, scripts: bool) -> None:
    found, _ = prepared(bundle, tmp_path)
    assert several_labels(found.contents)
    assert differing(found.contents, scripts=scripts) == 0
