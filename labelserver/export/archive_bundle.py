"""A TorchScript archive that carries its configuration, as a bundle: what `labelserver import` takes into an app."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from labelserver.domain.errors import UnreadableFile
from labelserver.export import torchscript
from labelserver.export.contents import ABOUT, MODEL, SCRIPTS


def bundle_of(archive: Path, target: Path) -> Path:
    """Write a bundle into `target`, which does not exist. Nothing of the archive is run.

    The package ``scripts`` that an export of ours has beside its archive comes along.

    Raises:
        UnreadableFile: no TorchScript archive, or one without an inference configuration inside.
    """
    documents = torchscript.documents(archive)
    if "inference.json" not in documents or "metadata.json" not in documents:
        raise UnreadableFile(
            f"{archive.name} holds a network and no configuration, so nobody knows how images are prepared for it. "
            "Copy it into the app's model folder, and write a task with network=None and this path that says so."
        )
    for part in ("configs", "models"):
        (target / part).mkdir(parents=True)
    for name, document in documents.items():
        (target / "configs" / name).write_text(json.dumps(document, indent=4) + "\n", encoding="utf-8")
    shutil.copyfile(archive, target / "models" / MODEL)
    beside = archive.absolute().parent
    if (beside / ABOUT).is_file() and (beside / SCRIPTS).is_dir():
        shutil.copytree(beside / SCRIPTS, target / SCRIPTS)
    return target
