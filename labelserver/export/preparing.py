"""Make the folder ``model`` of an export (see `contents`): the one step that all formats share.

Order: check that the task can be exported, answer the self-test case as the server does, write the task's own way as
configuration, write the network, write what is known. Nothing is left behind when a step fails.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from labelserver.contracts.model_store import WeightsInUse, answering_with
from labelserver.domain.errors import InvalidParams
from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.domain.models import Decision, ModelVersion
from labelserver.domain.schema import LabelSchema, NamedSegment, color_of
from labelserver.export import selftest, torchscript
from labelserver.export.carrying import CarriedCode
from labelserver.export.configuring import CannotWrite, Configuration
from labelserver.export.contents import (
    MODEL,
    SCRIPTS,
    ExportContents,
    ExportedLabel,
    Provenance,
    write_about,
)
from labelserver.export.inference_config import TaskConfig, TaskWriter
from labelserver.export.metadata import metadata
from labelserver.export.recording import Recording
from labelserver.tasks.base import InferType, numbered_labels
from labelserver.tasks.fast_forward import tune_for_cpu
from labelserver.tasks.infer import BasicInferTask

#: distributions whose versions an export was made and tested with
_REQUIREMENTS = ("torch", "monai", "numpy", "nibabel", "scipy")
#: methods that make an answer something else than transforms, a network and transforms
_METHODS = (
    "__call__",
    "run_pre_transforms",
    "run_inferer",
    "run_invert_transforms",
    "run_post_transforms",
    "writer",
)
#: sizes that are tried as the smallest a network takes
_MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 96, 128)


@dataclass(frozen=True, slots=True)
class ExportSource:
    """What is exported.

    `recording`: of the app's loading, so that its networks are known. `weights`: the version's own file, None for
    weights that lie in the app without a version. `history`: all versions of the model, oldest first.
    """

    app_dir: Path
    app: str
    model: str
    task: Any  #: an InferTask of the app
    recording: Recording
    weights: WeightsInUse | None = None
    version: ModelVersion | None = None
    decision: Decision | None = None
    history: tuple[ModelVersion, ...] = ()
    schema: LabelSchema = field(default_factory=LabelSchema)
    case: Path | None = None  #: for the self-test; None: a made-up one
    modality: str = ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The folder, and what the formats need beside it."""

    contents: ExportContents
    task: BasicInferTask
    config: TaskConfig
    metadata: JsonObject
    network: nn.Module  #: on the CPU, without hooks
    network_def: JsonValue | None  #: None: how it was built is not known
    no_network_def: str  #: why
    imports: tuple[str, ...]  #: that `network_def` needs
    code: CarriedCode
    example: torch.Tensor  #: (1, C, ...)
    multiple: int
    method: str  #: how TorchScript was made


Tell = Callable[[str], None]


def prepare(source: ExportSource, folder: Path, tell: Tell = lambda line: None) -> Prepared:
    """Write `folder`, which does not exist yet.

    Args:
        source: what to export.
        folder: target; its parent exists.
        tell: hears a line at each step.

    Raises:
        InvalidParams: the task cannot be exported; says why and what to do.
        ModelNotFound: there are no weights.
    """
    folder = folder.absolute()
    folder.mkdir()
    try:
        with answering_with(source.weights):
            return _prepared(source, folder, tell)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _prepared(source: ExportSource, folder: Path, tell: Tell) -> Prepared:
    task = _exportable(source.model, source.task)
    tell("Answering the self-test case.")
    case = selftest.place_case(folder, task.dimension, source.case)
    selftest.answer_of(task, case)
    tell("Writing the transforms as configuration.")
    code = CarriedCode(source.app_dir)
    writer = TaskWriter(task, source.recording, code)
    config = writer.write({"image": str(case), "device": "cpu"})
    tell("Writing the network.")
    tuned = task._get_network("cpu", None)
    if tuned is None:
        raise InvalidParams(f"The model {source.model} has no network, so there is nothing to export.")
    network = _plain_network(tuned)
    multiple = _multiple(network, writer.in_channels, task.dimension)
    example = selftest.keep_logits(tuned, writer.in_channels, task.dimension, multiple, folder)
    program = torchscript.scripted(network, example)
    contents = _contents(source, task, folder, needs_scripts=config.needs_scripts)
    about = metadata(
        contents,
        in_channels=writer.in_channels,
        out_channels=writer.out_channels,
        multiple=multiple,
        changelog=_changelog(source),
        requirements=sorted(code.requirements),
    )
    definition, reason, imports = _definition(task, source, code)
    if code:
        code.name_of(tune_for_cpu)  # for who runs the network from its code (`bundle`)
        code.write(folder / SCRIPTS)
    torchscript.save(program.program, folder / MODEL, about, config.items(scripts=bool(code)))
    selftest.write_settings(folder, config, tuned)
    write_about(contents)
    return Prepared(
        contents, task, config, about, network, definition, reason, imports, code, example, multiple, program.method
    )


def _exportable(model: str, task: Any) -> BasicInferTask:
    """Raises `InvalidParams` for a task that is more than transforms, a network and transforms."""
    if not isinstance(task, BasicInferTask):
        raise InvalidParams(
            f"The model {model} is a {type(task).__name__}, which computes in a way of its own. Models made of "
            "transforms and a network (subclasses of BasicInferTask) can be exported."
        )
    if task.type not in (InferType.SEGMENTATION, InferType.OTHERS):
        raise InvalidParams(
            f"The model {model} is of type {task.type}: it needs prompts or gives no label map, so it cannot run "
            "without this server. Models of type segmentation can be exported."
        )
    if (task.input_key, task.output_label_key) != ("image", "pred"):
        raise InvalidParams(
            f"The model {model} calls its image {task.input_key!r} and its answer {task.output_label_key!r}; whoever "
            "runs an export expects 'image' and 'pred'. Use these keys in its transforms."
        )
    for name in _METHODS:
        if getattr(type(task), name) is not getattr(BasicInferTask, name):
            raise InvalidParams(
                f"The model {model} overrides {name}(), and a method cannot be written as configuration. Move what it "
                "does into a transform of pre_transforms or post_transforms."
            )
    return task


def _plain_network(tuned: nn.Module) -> nn.Module:
    """A network without the server's hooks and fast paths; a TorchScript one as it is."""
    inner = getattr(tuned, "scripted", None)
    return torchscript.untuned(inner if inner is not None else tuned)


def _multiple(network: nn.Module, channels: int, dimension: int) -> int:
    """The smallest size of which the network takes one and two, giving scores of the same size."""
    for size in _MULTIPLES:
        if all(_takes(network, (1, channels, *[size * steps] * dimension)) for steps in (1, 2)):
            return size
    raise InvalidParams(
        f"{type(network).__name__} takes no cube of {_MULTIPLES[-1]} voxels or less and gives scores of the same size; "
        "such a network cannot be described to others."
    )


def _takes(network: nn.Module, shape: tuple[int, ...]) -> bool:
    try:
        with torch.no_grad():
            return tuple(network(torch.zeros(shape)).shape[2:]) == shape[2:]
    except Exception:  # noqa: BLE001 - what a network says to a shape that does not fit is its own affair
        return False


def _definition(
    task: BasicInferTask, source: ExportSource, code: CarriedCode
) -> tuple[JsonValue | None, str, tuple[str, ...]]:
    if task.network is None:
        return None, "its weights are a TorchScript program, without the code that it was made from", ()
    configuration = Configuration(source.recording, code)
    try:
        written = configuration.component(task.network, f"The network {type(task.network).__name__}")
    except CannotWrite as error:
        return None, error.message, ()
    return written, "", tuple(sorted(configuration.imports))


def _contents(source: ExportSource, task: BasicInferTask, folder: Path, *, needs_scripts: bool) -> ExportContents:
    version = source.version
    return ExportContents(
        folder=folder,
        app=source.app,
        model=source.model,
        version=version.number if version is not None else 0,
        description=task.description,
        dimension=task.dimension,
        modality=source.modality or _modality(task.description),
        labels=_labels(task, source.schema),
        created_ts=round(time.time(), 3),
        requirements=tuple(_pinned(name) for name in _REQUIREMENTS),
        metrics=dict(version.metrics) if version is not None else {},
        key_metric=version.key_metric if version is not None else "",
        provenance=_provenance(source),
        needs_scripts=needs_scripts,
    )


def _labels(task: BasicInferTask, schema: LabelSchema) -> tuple[ExportedLabel, ...]:
    found = []
    for name, value in sorted(numbered_labels(task.labels).items(), key=lambda item: item[1]):
        if value <= 0:
            continue
        entry = schema.find(NamedSegment(name))
        color, term = (entry.color, entry.term) if entry is not None else (color_of(value), None)
        found.append(ExportedLabel(value, name, color, term))
    if not found:
        raise InvalidParams("The model names no labels, so nobody could read its answers. Give the task its labels.")
    return tuple(found)


def _provenance(source: ExportSource) -> Provenance:
    version, decision = source.version, source.decision
    if version is None:
        return Provenance()
    pairs = "\n".join(f"{image}\t{digest}" for image, digest in sorted(version.labels.items()))
    return Provenance(
        trained_ts=version.created_ts,
        weights_sha256=version.sha256,
        dataset_sha256=hashlib.sha256(pairs.encode()).hexdigest() if pairs else "",
        labels=len(version.labels),
        held_out=len(version.held_out),
        verdict=decision.verdict.value if decision is not None else "",
        decided_by=(decision.person or "gate") if decision is not None else "",
        reason=decision.reason if decision is not None else "",
    )


def _changelog(source: ExportSource) -> dict[str, str]:
    lines = {f"{version.number}.0.0": _reached(version) for version in source.history}
    number = source.version.number if source.version is not None else 0
    lines.setdefault(f"{number}.0.0", "weights without a recorded training")
    return lines


def _reached(version: ModelVersion) -> str:
    told = ", ".join(f"{name} {value:.3f}" for name, value in sorted(version.metrics.items()))
    return f"trained on {len(version.labels)} labels" + (f"; {told} on held-out cases" if told else "")


def _modality(description: str) -> str:
    found = re.search(r"\b(CT|MR|MRI|PET|US)\b", description)
    names = {"MRI": "MR", "PET": "PT"}
    return names.get(found.group(1), found.group(1)) if found else ""


def _pinned(name: str) -> str:
    return f"{name}=={importlib.metadata.version(name).partition('+')[0]}"
