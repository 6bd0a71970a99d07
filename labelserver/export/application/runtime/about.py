"""What an application knows about itself (``application.json``), and what whoever runs it may choose (``app.yaml``).

``app.yaml`` is optional. It is read as JSON, which is YAML too, so that no YAML library is needed; one that is written
in YAML's own way needs PyYAML.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from labelserver.domain.errors import InvalidParams, StoredDataInvalid
from labelserver.export.application.runtime.selection import Rules

FILE = "application.json"
SEGMENTATIONS = ("binary", "labelmap", "none")


@dataclass(frozen=True, slots=True)
class Term:
    """A coded concept, for example ``SCT``, ``10200004``, ``Liver``."""

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Label:
    """A value of the answer. Its segment number is its place in the list, from 1."""

    value: int
    name: str
    color: tuple[int, int, int]
    term: Term | None = None


@dataclass(frozen=True, slots=True)
class Outputs:
    """What is written for each volume."""

    segmentation: str = "binary"  #: of `SEGMENTATIONS`; DICOM input only
    all_frames: bool = False  #: also frames without any voxel, for viewers that want one for each slice
    report: bool = False  #: DICOM structured report with volumes
    pdf: bool = False  #: DICOM encapsulated PDF with pictures
    mesh: bool = False  #: DICOM encapsulated STL, one for each label
    nifti: bool = False  #: ``labels.nii.gz``; always for NIfTI input


@dataclass(frozen=True, slots=True)
class About:
    """The application, frozen at export but for what ``app.yaml`` and the command line choose."""

    name: str
    app: str
    model: str
    model_folder: str  #: below the folder with the models
    version: str
    description: str
    dimension: int
    labels: tuple[Label, ...]
    weights_sha256: str
    rules: Rules
    outputs: Outputs = field(default_factory=Outputs)
    device: str = ""  #: "": cuda where there is one, else cpu
    threads: int = 0  #: 0: as torch chooses

    @classmethod
    def read(cls, path: Path) -> About:
        """Raises `StoredDataInvalid`."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                name=str(document["name"]),
                app=str(document["app"]),
                model=str(document["model"]),
                model_folder=str(document["model_folder"]),
                version=str(document["version"]),
                description=str(document["description"]),
                dimension=int(document["dimension"]),
                labels=tuple(_label(item) for item in document["labels"]),
                weights_sha256=str(document["weights_sha256"]),
                rules=Rules.from_json(document.get("selection")),
                outputs=_outputs(document.get("outputs") or {}, Outputs()),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoredDataInvalid(f"{path.name} of the application cannot be read: {error!r}.") from error

    def configured(self, path: Path) -> About:
        """With what ``app.yaml`` chooses under ``labelserver``; unchanged if there is none.

        Raises:
            InvalidParams: it cannot be read, or chooses what there is not.
        """
        if not path.is_file():
            return self
        chosen = _yaml(path).get("labelserver") or {}
        if not isinstance(chosen, Mapping) or not set(chosen) <= {"selection", "outputs", "device", "threads"}:
            raise InvalidParams(f'{path.name}: "labelserver" may hold selection, outputs, device and threads.')
        threads = chosen.get("threads", self.threads)
        if not isinstance(threads, int) or threads < 0:
            raise InvalidParams(f"{path.name}: threads must be a whole number; 0 lets torch choose.")
        return replace(
            self,
            rules=Rules.from_json(chosen["selection"]) if "selection" in chosen else self.rules,
            outputs=_outputs(chosen.get("outputs") or {}, self.outputs),
            device=str(chosen.get("device") or self.device),
            threads=threads,
        )


def _yaml(path: Path) -> Mapping[str, Any]:
    text = path.read_text(encoding="utf-8")
    try:
        document = json.loads(text)
    except ValueError:
        try:
            import yaml
        except ImportError as error:
            raise InvalidParams(f"{path.name} is not JSON, and PyYAML is not installed. Write it as JSON.") from error
        try:
            document = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InvalidParams(f"{path.name} is neither JSON nor YAML: {error}") from error
    if not isinstance(document, Mapping):
        raise InvalidParams(f"{path.name} must hold an object.")
    return document


def _outputs(chosen: Any, before: Outputs) -> Outputs:
    if not isinstance(chosen, Mapping) or not set(chosen) <= set(Outputs.__slots__):
        raise InvalidParams(f"Outputs are {', '.join(Outputs.__slots__)}.")
    after = replace(before, **chosen)
    if after.segmentation not in SEGMENTATIONS:
        raise InvalidParams(f"A segmentation is one of {', '.join(SEGMENTATIONS)}, not {after.segmentation!r}.")
    if not all(isinstance(getattr(after, name), bool) for name in Outputs.__slots__ if name != "segmentation"):
        raise InvalidParams(f"{', '.join(Outputs.__slots__[1:])} are true or false.")
    return after


def _label(item: Mapping[str, Any]) -> Label:
    term = item.get("term")
    red, green, blue = (int(part) for part in item["color"])
    coded = Term(str(term["scheme"]), str(term["value"]), str(term["meaning"])) if term else None
    return Label(int(item["value"]), str(item["name"]), (red, green, blue), coded)
