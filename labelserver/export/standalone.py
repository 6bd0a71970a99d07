"""Answer for one image with nothing but ``model.ts`` and MONAI: what a receiver of an export would write.

Run as a program in a process of its own, it imports nothing of this package::

    python standalone.py MODEL_FOLDER IMAGE ANSWER.npz [--without-scripts]

ANSWER.npz gets ``labels`` (I, J[, K]) on the image's grid with its ``affine``, ``scores`` (C, i, j[, k]) with their
``grid`` and, where the folder keeps a window to compare on, ``logits:<file>``: the scores of each program for it.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch


def configuration(model: Path) -> dict[str, Any]:
    """``extra/inference.json`` of the archive."""
    with zipfile.ZipFile(model) as archive:
        return dict(json.loads(archive.read(f"{model.stem}/extra/inference.json")))


def answer(folder: Path, image: Path, *, scripts: bool) -> dict[str, Any]:
    """Load, prepare, infer, and bring the answer back. `scripts`: use the code that came along."""
    from monai.bundle import ConfigParser

    if scripts:
        sys.path.insert(0, str(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = torch.jit.load(str(folder / "model.ts"), map_location="cpu").eval()
    parser = ConfigParser(configuration(folder / "model.ts"))
    parser["device"] = "$torch.device('cpu')"
    parser.parse()
    before, after = (parser.get_parsed_content(name) for name in ("preprocessing", "postprocessing"))
    inferer = parser.get_parsed_content("inferer")
    with torch.no_grad():
        data = before({"image": str(image)})
        data["pred"] = inferer(data["image"][None], network)[0]
        scores = torch.as_tensor(np.asarray(data["pred"]))
        prepared = data["image"]
        data = after(data)
    labels = data["pred"]
    array = np.asarray(labels)[0] if np.asarray(labels).ndim > prepared.ndim - 1 else np.asarray(labels)
    found: dict[str, Any] = {"labels": array, "scores": scores.numpy(), "grid": np.asarray(prepared.affine)}
    found["affine"] = np.asarray(getattr(labels, "affine", np.eye(4)))
    return {**found, **logits(folder, network)}


def logits(folder: Path, network: Any) -> dict[str, Any]:
    """Scores of each program of the folder for the window that the export keeps."""
    kept = folder / "selftest" / "logits.npz"
    if not kept.is_file():
        return {}
    with np.load(kept) as arrays:
        window = torch.from_numpy(arrays["window"])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {"logits:model.ts": network(window).numpy()}
        if (folder / "model.pt2").is_file():
            found["logits:model.pt2"] = torch.export.load(folder / "model.pt2").module()(window).numpy()
    if (folder / "model.onnx").is_file():
        import onnxruntime

        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        (found["logits:model.onnx"],) = session.run(None, {"image": window.numpy()})
    return found


def main(words: list[str]) -> int:
    """Returns the exit status."""
    folder, image, target, *options = words
    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    found = answer(Path(folder), Path(image), scripts="--without-scripts" not in options)
    np.savez(target, **found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
