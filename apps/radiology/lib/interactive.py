"""The models that take prompts: ``seeds`` needs nothing, ``click3d`` and ``deepedit`` learn from the accepted labels.

Models of others (nnInteractive, SAM 2.1, VISTA-3D) appear when ``--conf`` names their weights and accepts the licence.
"""

from __future__ import annotations

from pathlib import Path

from labelserver import InferTask, TrainTask
from labelserver.tasks.click3d import Click3d, click_network
from labelserver.tasks.click_train import Click3dTrain
from labelserver.tasks.deepedit import DeepEdit, DeepEditTrain, deepedit_network
from labelserver.tasks.nninteractive import NnInteractive
from labelserver.tasks.sam2 import Sam2
from labelserver.tasks.seeds import Seeds
from labelserver.tasks.vista3d import Vista3d
from lib.configuration import Configuration


def infer_tasks(model_dir: Path, options: Configuration) -> dict[str, InferTask]:
    """Those of the chosen models that are interactive."""
    window = (options.intensity_window[0], options.intensity_window[1])
    found: dict[str, InferTask] = {}
    if "seeds" in options.models:
        found["seeds"] = Seeds(options.labels)
    if "click3d" in options.models:
        found["click3d"] = Click3d(
            paths(model_dir, "click3d"),
            click_network(),
            options.labels,
            roi=options.click_roi,
            intensity_window=window,
            spacing_mm=options.click_spacing or None,
        )
    if "deepedit" in options.models:
        found["deepedit"] = DeepEdit(
            paths(model_dir, "deepedit"),
            deepedit_network(options.labels),
            options.labels,
            spatial_size=options.deepedit_size,
            intensity_window=window,
        )
    return {**found, **_of_others(options, window)}


def trainers(model_dir: Path, options: Configuration) -> dict[str, TrainTask]:
    """Their trainers; `seeds` has nothing to learn."""
    window = (options.intensity_window[0], options.intensity_window[1])
    found: dict[str, TrainTask] = {}
    if "click3d" in options.models:
        found["click3d"] = Click3dTrain(
            model_dir / "click3d",
            click_network(),
            options.labels,
            roi=options.click_roi,
            intensity_window=window,
            spacing_mm=options.click_spacing or None,
            load_path=paths(model_dir, "click3d")[:-1],
            publish_path=paths(model_dir, "click3d")[-1],
        )
    if "deepedit" in options.models:
        found["deepedit"] = DeepEditTrain(
            model_dir / "deepedit",
            deepedit_network(options.labels),
            options.labels,
            spatial_size=options.deepedit_size,
            intensity_window=window,
            load_path=paths(model_dir, "deepedit")[:-1],
            publish_path=paths(model_dir, "deepedit")[-1],
        )
    return found


def paths(model_dir: Path, name: str) -> list[str]:
    """The last existing one is in use."""
    return [str(model_dir / f"pretrained_{name}.pt"), str(model_dir / f"{name}.pt")]


def _of_others(options: Configuration, window: tuple[float, float]) -> dict[str, InferTask]:
    accepted = options.accept_licences
    found: dict[str, InferTask] = {}
    if options.nninteractive_weights:
        found["nninteractive"] = NnInteractive(
            options.nninteractive_weights, options.labels, licence_accepted="nninteractive" in accepted
        )
    if options.sam2_weights:
        found["sam2"] = Sam2(
            options.sam2_weights,
            options.labels,
            licence_accepted="sam2" in accepted,
            model_config=options.sam2_config,
            intensity_window=window,
        )
    if options.vista3d_weights:
        found["vista3d"] = Vista3d(options.vista3d_weights, options.labels, licence_accepted="vista3d" in accepted)
    return found
