"""Write the build context of a package: everything that an image is made from, and the recipe.

<context>/
  Dockerfile  .dockerignore
  tools               entry point (`labelserver.export.map.tools`, as it is)
  app/                the deploy application, without its model
  models/<model>/model.ts      one file in each folder: so hosts find models
  map/app.json  map/pkg.json
  app.yaml            what whoever runs it may change
  docs/README.md
  wheels/             empty; `labelserver map wheels` fills it, and the build then needs no network
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from labelserver.domain.ids import model_folder
from labelserver.domain.json_types import JsonObject
from labelserver.export.application.writing import ApplicationOptions, write_code
from labelserver.export.contents import ExportContents
from labelserver.export.map import dockerfile, manifests, tools
from labelserver.export.map.manifests import Resources

MARKER = "labelserver-map.json"  #: tells our context, and holds the image's name


@dataclass(frozen=True, slots=True)
class MapOptions:
    """How a package is written."""

    application: ApplicationOptions = field(default_factory=ApplicationOptions)
    resources: Resources = field(default_factory=Resources)
    timeout_s: int = 600


def write_map(contents: ExportContents, target: Path, options: MapOptions | None = None) -> Path:
    """Write the build context.

    Args:
        contents: a prepared model version.
        target: the folder; must not exist, or be empty.
        options: default: a CPU and a GPU both do, ten minutes.

    Returns:
        `target`.

    Raises:
        InvalidParams: a model of pictures.
        Conflict: the folder holds something.
    """
    chosen = options or MapOptions()
    folder = model_folder(contents.model)
    write_code(contents, target / "app", chosen.application)
    model = target / "models" / folder
    model.mkdir(parents=True)
    shutil.copyfile(contents.torchscript, model / contents.torchscript.name)
    version = contents.semantic_version
    _write_json(target / "map" / "app.json", manifests.app_manifest(version, chosen.timeout_s))
    _write_json(target / "map" / "pkg.json", manifests.package_manifest(version, [folder], chosen.resources))
    _write_json(target / "app.yaml", _configuration(contents))
    (target / "docs").mkdir()
    shutil.copyfile(target / "app" / "README.md", target / "docs" / "README.md")
    (target / "wheels").mkdir()
    (target / "wheels" / "README").write_text("labelserver map wheels fills this folder for a build without network.\n")
    (target / "Dockerfile").write_text(dockerfile.text(contents), encoding="utf-8")
    (target / ".dockerignore").write_text("**/__pycache__\n")
    entry = target / "tools"
    shutil.copyfile(Path(tools.__file__), entry)
    entry.chmod(0o755)
    _write_json(target / MARKER, {"format": 1, "image": dockerfile.image_name(contents)})
    return target


def _configuration(contents: ExportContents) -> JsonObject:
    """``app.yaml``, in JSON's way of writing YAML."""
    title = f"{contents.app}/{contents.model}"
    return {"application": {"title": title, "version": contents.semantic_version}, "labelserver": {}}


def _write_json(path: Path, document: JsonObject) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
