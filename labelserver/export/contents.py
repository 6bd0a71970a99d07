"""What every export is made from: one folder ``model`` that answers as the server answered, and what is known about it.

The folder is written once for a version (`labelserver.export.preparing`) and copied into each format::

    model/
      model.ts              the network; beside its weights ``extra/metadata.json`` and ``extra/inference.json``
      labels.json           what the voxel values of an answer mean (`ExportedLabel`)
      about.json            this record, `ExportContents`, without paths
      scripts/              a Python package, only if some transform is code that MONAI does not have
      selftest/
        input.nii.gz        an image (``input.png`` for a model of pictures)
        expected.nii.gz     the server's own answer to it, on the grid of the image
        settings.json       under which settings it was made (`RunSettings`)

``extra/inference.json`` is a configuration for MONAI's `ConfigParser` with the items ``device``, ``inferer``,
``preprocessing`` and ``postprocessing`` (dictionary transforms; ``image`` comes in, ``pred`` goes out). What it
promises:

- The first transform of ``preprocessing`` loads a file (`LoadImaged`), the second puts its channel first
  (`EnsureChannelFirstd`). Both may be left out by who has an array: then ``image`` is a MetaTensor (C, I, J, K),
  float32, whose ``affine`` and ``meta["original_affine"]`` are the voxel-to-RAS+ map in mm and whose
  ``meta["spatial_shape"]`` is (I, J, K). No transform saves a file.
- ``inferer(image[None], network)[0]`` goes under ``pred``. ``postprocessing`` then gives ``pred`` on the grid of the
  image that came in: (1, I, J, K) or (I, J, K), whole numbers, 0 for background, values as in ``labels.json``.
- With the folder that holds ``scripts`` on ``sys.path`` (first), the arithmetic is the server's and labels are equal
  voxel for voxel. Without it, MONAI's own transforms stand in where they exist; labels may then differ where the two
  best scores are equal up to rounding. If ``needs_scripts`` is true, nothing stands in.
- `model.ts` was saved under that name (its archive is called ``model``); a renamed file loses its configuration.

On a CPU a runner should call ``torch.set_num_threads(settings.threads)`` before it compares; otherwise nothing has to
be set: the memory format of the weights is in the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from labelserver.domain.errors import StoredDataInvalid
from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.domain.schema import CodedTerm, Color

FORMAT = 1

MODEL = "model.ts"
LABELS = "labels.json"
ABOUT = "about.json"
SCRIPTS = "scripts"
SELFTEST = "selftest"


@dataclass(frozen=True, slots=True)
class ExportedLabel:
    """A voxel value of the answer. `term` is the label schema's coded term, None where the project has none."""

    value: int
    name: str
    color: Color
    term: CodedTerm | None = None

    def to_json(self) -> JsonObject:
        term: JsonValue = None
        if self.term is not None:
            term = {"scheme": self.term.scheme, "value": self.term.value, "meaning": self.term.meaning}
        return {"value": self.value, "name": self.name, "color": list(self.color), "term": term}

    @classmethod
    def from_json(cls, document: Mapping[str, JsonValue]) -> ExportedLabel:
        color, term = document["color"], document.get("term")
        if not isinstance(color, list) or len(color) != 3:
            raise ValueError("color is three whole numbers")
        red, green, blue = (int(str(part)) for part in color)
        coded = None
        if isinstance(term, dict):
            coded = CodedTerm(str(term["scheme"]), str(term["value"]), str(term["meaning"]))
        return cls(int(str(document["value"])), str(document["name"]), (red, green, blue), coded)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a version comes from: enough to find the labels again, nothing about a patient."""

    trained_ts: float = 0.0  #: Unix seconds
    weights_sha256: str = ""
    dataset_sha256: str = ""  #: over the sorted pairs of image id and SHA-256 of its label
    labels: int = 0  #: images whose labels it learned from
    held_out: int = 0  #: images it was measured on
    verdict: str = ""  #: see `domain.models.Verdict`
    decided_by: str = ""  #: a person, or "gate"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ExportContents:
    """A prepared folder and what is known about the version in it."""

    folder: Path  #: absolute
    app: str
    model: str
    version: int
    description: str
    dimension: int  #: 2 or 3
    modality: str  #: DICOM's Modality, for example ``CT``; "" if nobody said
    labels: tuple[ExportedLabel, ...]  #: by value
    created_ts: float  #: Unix seconds
    requirements: tuple[str, ...] = ()  #: ``torch==2.13.0``: versions of what it was made and tested with
    metrics: dict[str, float] = field(default_factory=dict)  #: means over the held-out cases
    key_metric: str = ""
    provenance: Provenance = Provenance()
    needs_scripts: bool = False

    @property
    def semantic_version(self) -> str:
        """For manifests that want three numbers."""
        return f"{self.version}.0.0"

    @property
    def torchscript(self) -> Path:
        return self.folder / MODEL

    @property
    def scripts(self) -> Path | None:
        """The package to ship; its parent belongs on ``sys.path``. None: there is none."""
        folder = self.folder / SCRIPTS
        return folder if folder.is_dir() else None

    @property
    def selftest(self) -> Path:
        return self.folder / SELFTEST

    @property
    def selftest_input(self) -> Path:
        return next(path for path in sorted(self.selftest.iterdir()) if path.name.startswith("input."))

    @property
    def selftest_expected(self) -> Path:
        return next(path for path in sorted(self.selftest.iterdir()) if path.name.startswith("expected."))

    @property
    def selftest_settings(self) -> Path:
        return self.selftest / "settings.json"

    def to_json(self) -> JsonObject:
        """All but the folder."""
        return {
            "format": FORMAT,
            "app": self.app,
            "model": self.model,
            "version": self.version,
            "description": self.description,
            "dimension": self.dimension,
            "modality": self.modality,
            "labels": [label.to_json() for label in self.labels],
            "created_ts": self.created_ts,
            "requirements": list(self.requirements),
            "metrics": dict(self.metrics),
            "key_metric": self.key_metric,
            "provenance": {name: getattr(self.provenance, name) for name in Provenance.__slots__},
            "needs_scripts": self.needs_scripts,
        }

    @classmethod
    def read(cls, folder: Path) -> ExportContents:
        """What `write_about` wrote. Raises `StoredDataInvalid`."""
        try:
            document = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            told = document["provenance"]
            return cls(
                folder=folder.absolute(),
                app=str(document["app"]),
                model=str(document["model"]),
                version=int(document["version"]),
                description=str(document["description"]),
                dimension=int(document["dimension"]),
                modality=str(document["modality"]),
                labels=tuple(ExportedLabel.from_json(label) for label in document["labels"]),
                created_ts=float(document["created_ts"]),
                requirements=tuple(str(text) for text in document["requirements"]),
                metrics={str(name): float(value) for name, value in document["metrics"].items()},
                key_metric=str(document["key_metric"]),
                provenance=Provenance(**{name: told[name] for name in Provenance.__slots__ if name in told}),
                needs_scripts=bool(document["needs_scripts"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoredDataInvalid(
                f"{folder.name}/{ABOUT} cannot be read ({error}). Export the version again."
            ) from error


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What the numbers of an answer depend on beside the weights (``selftest/settings.json``)."""

    device: str = "cpu"
    threads: int = 1
    memory_format: str = "contiguous_format"  #: of the weights, a name in torch
    window: tuple[int, ...] = ()  #: voxels; empty: the whole image in one pass
    window_batch: int = 1
    overlap: float = 0.0
    seed: int | None = None
    versions: dict[str, str] = field(default_factory=dict)  #: torch, monai, numpy, python
    processor: str = ""
    cpu_capability: str = ""  #: instruction set that torch uses

    def to_json(self) -> JsonObject:
        return {
            "format": FORMAT,
            "device": self.device,
            "threads": self.threads,
            "memory_format": self.memory_format,
            "window": list(self.window),
            "window_batch": self.window_batch,
            "overlap": self.overlap,
            "seed": self.seed,
            "versions": dict(self.versions),
            "processor": self.processor,
            "cpu_capability": self.cpu_capability,
        }

    @classmethod
    def read(cls, path: Path) -> RunSettings:
        """Raises `StoredDataInvalid`."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                device=str(document["device"]),
                threads=int(document["threads"]),
                memory_format=str(document["memory_format"]),
                window=tuple(int(size) for size in document["window"]),
                window_batch=int(document["window_batch"]),
                overlap=float(document["overlap"]),
                seed=None if document.get("seed") is None else int(document["seed"]),
                versions={str(name): str(text) for name, text in document["versions"].items()},
                processor=str(document.get("processor", "")),
                cpu_capability=str(document.get("cpu_capability", "")),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoredDataInvalid(f"{path.name} cannot be read ({error}). Export the version again.") from error


def write_about(contents: ExportContents) -> None:
    """Write ``about.json`` and ``labels.json`` into the folder."""
    labels: JsonObject = {"format": FORMAT, "labels": [label.to_json() for label in contents.labels]}
    for name, document in ((ABOUT, contents.to_json()), (LABELS, labels)):
        (contents.folder / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
