"""Every import path of the peer that apps use, by both names; and what is missing says what to use instead."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator

import pytest

from labelserver import BasicInferTask, LabelApp
from labelserver.app.peer_imports import REPLACED, answer_peer_imports
from labelserver.domain.errors import NotThereYet
from labelserver.tasks import infer

#: tables 9.1 and 9.2 of the app contract: module below ``monailabel`` -> names
ROWS = {
    "": ["__version__"],
    "interfaces.app": ["MONAILabelApp"],
    "interfaces.config": ["TaskConfig"],
    "interfaces.datastore": ["Datastore", "DefaultLabelTag"],
    "interfaces.tasks.infer_v2": ["InferTask", "InferType"],
    "interfaces.tasks.train": ["TrainTask"],
    "interfaces.tasks.strategy": ["Strategy"],
    "interfaces.tasks.scoring": ["ScoringMethod"],
    "interfaces.utils.transform": ["run_transforms"],
    "tasks.infer.basic_infer": ["BasicInferTask", "CallBackTypes"],
    "tasks.infer.bundle": ["BundleInferTask", "BundleConstants"],
    "tasks.train.basic_train": ["BasicTrainTask", "Context"],
    "tasks.train.bundle": ["BundleTrainTask", "BundleConstants"],
    "tasks.train.utils": ["region_wise_metrics", "region_wise_rmse", "from_engine_idx"],
    "tasks.activelearning.random": ["Random"],
    "tasks.activelearning.first": ["First"],
    "tasks.activelearning.epistemic": ["Epistemic"],
    "tasks.scoring.dice": ["Dice"],
    "tasks.scoring.sum": ["Sum"],
    "tasks.scoring.epistemic": ["EpistemicScoring"],
    "tasks.scoring.epistemic_v2": ["EpistemicScoring"],
    "transform.pre": ["LoadImageExd", "LoadImageTensord", "NormalizeLabeld"],
    "transform.post": [
        "BoundingBoxd",
        "DumpImagePrediction2Dd",
        "ExtremePointsd",
        "FindContoursd",
        "LargestCCd",
        "MergeAllPreds",
        "RenameKeyd",
        "Restored",
    ],
    "transform.writer": ["Writer", "PolygonWriter", "ClassificationWriter", "DetectionWriter"],
    "transform.cache": ["CacheTransformDatad"],
    "deepedit.transforms": [
        "AddClickGuidanced",
        "AddGuidanceSignald",
        "AddInitialSeedPointd",
        "ResizeGuidanced",
        "RestoreLabeld",
        "SpatialCropForegroundd",
        "SpatialCropGuidanced",
    ],
    "deepedit.interaction": ["Interaction"],
    "deepedit.handlers": ["TensorBoardImageHandler", "TensorBoard2DImageHandler"],
    "scribbles.infer": ["HistogramBasedGraphCut", "GMMBasedGraphCut", "ScribblesLikelihoodInferTask"],
    "scribbles.transforms": ["AddBackgroundScribblesFromROId", "MakeISegUnaryd", "ApplyGraphCutOptimisationd"],
    "sam2.utils": ["is_sam2_module_available"],
    "sam2.infer": ["Sam2InferTask"],
    "datastore.local": ["LocalDatastore"],
    "datastore.dsa": ["DSADatastore"],
    "datastore.cvat": ["CVATDatastore"],
    "datastore.dicom": ["DICOMWebDatastore", "DICOMwebClientX"],
    "datastore.xnat": ["XNATDatastore"],
    "datastore.utils.colors": ["GENERIC_ANATOMY_COLORS"],
    "config": ["settings"],
    "utils.others.generic": [
        "strtobool",
        "download_file",
        "remove_file",
        "file_ext",
        "device_list",
        "device_map",
        "name_to_device",
        "get_bundle_models",
        "get_basename",
        "get_basename_no_ext",
        "is_openslide_supported",
        "create_dataset_from_path",
        "file_checksum",
        "get_mime_type",
        "run_command",
        "gpu_memory_map",
        "gpu_count",
        "path_to_uri",
        "handle_torch_linalg_multithread",
        "md5_digest",
    ],
    "utils.others.class_utils": ["get_class_names", "init_class", "module_from_file", "unload_module"],
    "utils.others.planner": ["HeuristicPlanner"],
    "utils.others.label_colors": ["get_color", "to_hex", "to_rgb"],
    "utils.others.modelzoo_list": ["MAINTAINED_BUNDLES"],
    "utils.sessions": ["Sessions", "SessionInfo"],
    "utils.async_tasks.task": ["AsyncTask"],
    "interfaces.exception": [
        "MONAILabelError",
        "MONAILabelException",
        "ImageNotFoundException",
        "LabelNotFoundException",
    ],
    "interfaces.tasks.batch_infer": ["BatchInferTask", "BatchInferImageType"],
    "interfaces.utils.app": ["app_instance", "clear_cache"],
    "interfaces": ["MONAILabelApp", "Datastore", "DefaultLabelTag", "MONAILabelError", "MONAILabelException"],
    "interfaces.tasks": [
        "InferTask",
        "InferType",
        "TrainTask",
        "Strategy",
        "ScoringMethod",
        "BatchInferTask",
        "BatchInferImageType",
    ],
    "interfaces.tasks.infer": ["InferTask", "InferType"],
    "utils.train.basic_train": ["BasicTrainTask", "Context"],
    "utils.activelearning.random": ["Random"],
    "utils.activelearning.first": ["First"],
    "utils.activelearning.epistemic": ["Epistemic"],
    "utils.scoring.dice": ["Dice"],
    "utils.scoring.sum": ["Sum"],
    "utils.scoring.epistemic": ["EpistemicScoring"],
    "utils.infer.basic_infer": ["BasicInferTask"],
    "utils.infer.bundle": ["BundleInferTask"],
}


@pytest.fixture
def peer_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    answer_peer_imports()
    yield
    for name in [n for n in sys.modules if n == "monailabel" or n.startswith("monailabel.")]:
        del sys.modules[name]


@pytest.mark.parametrize("row", ROWS)
def test_a_row_of_the_import_tables_resolves_by_both_names_to_the_same_module(peer_names: None, row: str) -> None:
    ours = importlib.import_module(f"labelserver.compat.{row}".rstrip("."))
    theirs = importlib.import_module(f"monailabel.{row}".rstrip("."))
    assert theirs is ours
    for name in ROWS[row]:
        assert getattr(ours, name) is not None


def test_names_lead_to_the_one_class_there_is(peer_names: None) -> None:
    assert importlib.import_module("monailabel.interfaces").MONAILabelApp is LabelApp
    assert importlib.import_module("monailabel.tasks.infer.basic_infer").BasicInferTask is BasicInferTask
    assert importlib.import_module("monailabel.interfaces.tasks").InferTask is BasicInferTask
    assert importlib.import_module("monailabel.interfaces.tasks.infer_v2").InferTask is not BasicInferTask
    assert infer.__name__ == "labelserver.tasks.infer"


@pytest.mark.parametrize("module", [*REPLACED, "something.unknown"])
def test_a_module_without_counterpart_names_the_replacement(peer_names: None, module: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="no counterpart to monailabel") as caught:
        importlib.import_module(f"monailabel.{module}")
    root = module.split(".")[0]
    expected = "docs/compatibility.md" if root == "something" else REPLACED[module][:10]
    assert expected in str(caught.value)


def test_a_real_package_of_that_name_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pytest.TempPathFactory, peer_names: None
) -> None:
    folder = tmp_path / "monailabel"  # type: ignore[operator]
    folder.mkdir()
    (folder / "__init__.py").write_text("__version__ = 'real'\n")
    (folder / "config.py").write_text("settings = 'theirs'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert importlib.import_module("monailabel").__version__ == "real"
    assert importlib.import_module("monailabel.config").settings == "theirs"


def test_parts_that_come_later_can_be_imported_and_checked_but_not_built() -> None:
    for row, name in (
        ("datastore.dsa", "DSADatastore"),
        ("datastore.cvat", "CVATDatastore"),
        ("datastore.dicom", "DICOMWebDatastore"),
        ("datastore.xnat", "XNATDatastore"),
        ("sam2.infer", "Sam2InferTask"),
        ("scribbles.infer", "HistogramBasedGraphCut"),
    ):
        cls = getattr(importlib.import_module(f"labelserver.compat.{row}"), name)
        assert not isinstance(object(), cls)
        with pytest.raises(NotThereYet, match=f"{name} is not there yet"):
            cls("anything", key=1)
    assert importlib.import_module("labelserver.compat.sam2.utils").is_sam2_module_available() is False
