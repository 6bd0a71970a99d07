"""Write an application: the model, what it knows about itself, and a copy of the code that runs it.

The code is copied, not generated: `runtime` and the modules of `SHARED`, with their imports pointed at each other. So
the application places slices by the very code of the server, and everything in it is checked and tested here.

    <application>/
      __main__.py         python <application> IN OUT
      application.json    labels, version, selection rules, outputs
      runner/             the code
      scripts/            transforms of the app that MONAI does not have; only if there are any
      models/<model>/model.ts
      selftest/           a case and the server's answer: python <application> --self-test
      requirements.txt  README.md
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from labelserver.domain.errors import Conflict, InvalidParams
from labelserver.domain.ids import model_folder
from labelserver.domain.json_types import JsonObject
from labelserver.export.application import readme
from labelserver.export.application.runtime.about import FILE, Outputs
from labelserver.export.application.runtime.selection import Rules
from labelserver.export.contents import ExportContents

_RUNTIME = Path(__file__).parent / "runtime"
_START = Path(__file__).parent / "start.py"
_SDK = Path(__file__).parent / "sdk_app.py"
_ROOT = Path(__file__).parents[2]

PACKAGE = "runner"

#: Modules of the server that an application carries, each under its last name.
SHARED = (
    "labelserver.domain.errors",
    "labelserver.domain.geometry",
    "labelserver.domain.json_types",
    "labelserver.domain.late",
    "labelserver.imaging.dicom_series",
    "labelserver.imaging.dicom_slices",
    "labelserver.imaging.limits",
    "labelserver.imaging.nifti",
    "labelserver.imaging.volume",
)

#: What an application imports. The last three decode compressed pixels for pydicom.
REQUIRED = (
    "torch",
    "monai",
    "numpy",
    "pydicom",
    "highdicom",
    "nibabel",
    "pyjpegls",
    "pylibjpeg",
    "pylibjpeg-openjpeg",
    "python-gdcm",
)

_IMPORT = re.compile(r"\b(from|import) (labelserver\.[\w.]+)")


@dataclass(frozen=True, slots=True)
class ApplicationOptions:
    """How an application is written. `rules`: series selection as JSON; None: by the model's modality."""

    outputs: Outputs = field(default_factory=Outputs)
    rules: JsonObject | None = None
    sdk: bool = False  #: also ``app_sdk.py``: the same application as operators of MONAI Deploy's SDK


def write_application(contents: ExportContents, target: Path, options: ApplicationOptions | None = None) -> Path:
    """Write the application's folder.

    Args:
        contents: a prepared model version.
        target: the folder; must not exist, or be empty.
        options: default: a BINARY segmentation, selection by modality.

    Returns:
        `target`.

    Raises:
        InvalidParams: a model of pictures, or rules that make no sense.
        Conflict: the folder holds something.
    """
    write_code(contents, target, options or ApplicationOptions())
    model = target / "models" / model_folder(contents.model)
    model.mkdir(parents=True)
    shutil.copyfile(contents.torchscript, model / contents.torchscript.name)
    return target


def write_code(contents: ExportContents, target: Path, options: ApplicationOptions) -> None:
    """All but the model. Raises as `write_application`."""
    if contents.dimension != 3:
        raise InvalidParams(
            f"The model {contents.model!r} takes pictures. An application reads DICOM series and volumes; "
            "export it as torchscript or bundle."
        )
    document = application_json(contents, options)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Conflict(f"The folder {target.name!r} holds something already. Name a new one; nothing is overwritten.")
    target.mkdir(parents=True, exist_ok=True)
    (target / FILE).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    copy_runtime(target, sdk=options.sdk)
    if contents.scripts is not None:
        shutil.copytree(contents.scripts, target / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(contents.selftest, target / "selftest")
    (target / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements(contents)))
    (target / "README.md").write_text(readme.text(contents, options.outputs), encoding="utf-8")


def application_json(contents: ExportContents, options: ApplicationOptions) -> JsonObject:
    """What `runtime.about.About` reads."""
    rules = options.rules if options.rules is not None else default_rules(contents)
    Rules.from_json(rules)
    outputs = options.outputs
    return {
        "format": 1,
        "name": f"{contents.app}/{contents.model}",
        "app": contents.app,
        "model": contents.model,
        "model_folder": model_folder(contents.model),
        "version": contents.semantic_version,
        "description": contents.description,
        "dimension": contents.dimension,
        "weights_sha256": contents.provenance.weights_sha256,
        "labels": [label.to_json() for label in contents.labels],
        "selection": rules,
        "outputs": {name: getattr(outputs, name) for name in Outputs.__slots__},
    }


def default_rules(contents: ExportContents) -> JsonObject:
    """Every series of the model's modality; every image where nobody said one."""
    if not contents.modality:
        return {}
    pattern = f"^{re.escape(contents.modality)}$"
    return {"selections": [{"name": f"{contents.modality} images", "conditions": {"Modality": pattern}}]}


def requirements(contents: ExportContents) -> Iterator[str]:
    """Pins: what the version was tested with, and what the application needs beside, as installed here."""
    tested = {re.split(r"[=<>!~ ]", line)[0].lower().replace("_", "-"): line for line in contents.requirements}
    for name in (*REQUIRED, *sorted(set(tested) - set(REQUIRED))):
        yield tested.get(name) or f"{name}=={importlib.metadata.version(name).partition('+')[0]}"


def copy_runtime(target: Path, *, sdk: bool = False) -> None:
    """The code, with its imports pointed at each other: ``labelserver.imaging.volume`` becomes ``runner.volume``."""
    package = target / PACKAGE
    package.mkdir()
    sources = {f"{PACKAGE}/{path.name}": path for path in sorted(_RUNTIME.glob("*.py"))}
    for name in SHARED:
        path = _ROOT.joinpath(*name.split(".")[1:]).with_suffix(".py")
        sources[f"{PACKAGE}/{path.name}"] = path
    sources["__main__.py"] = _START
    if sdk:
        sources["app_sdk.py"] = _SDK
    for name, path in sources.items():
        (target / name).write_text(pointed(path.read_text(encoding="utf-8")), encoding="utf-8")


def pointed(code: str) -> str:
    """Source code with its imports of the server replaced. Raises `ValueError` for one that is not carried."""

    def replaced(found: re.Match[str]) -> str:
        word, module = found.groups()
        prefix, _, last = module.rpartition(".")
        if module in SHARED or prefix == "labelserver.export.application.runtime":
            return f"{word} {PACKAGE}.{last}"
        if module == "labelserver.export.application.runtime":
            return f"{word} {PACKAGE}"
        raise ValueError(f"the runtime imports {module}, which an application does not carry")

    return _IMPORT.sub(replaced, code)
