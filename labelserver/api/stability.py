"""Do new versions still differ? The last two versions of a model are compared on a fixed set of unlabeled images.

After each publication the new version infers the set, behind everything else that workers do. What is found is kept in
``stability/<model>.json`` beside the index; masks lie in the cache, so that the next version can be compared with them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import numpy as np
from anyio import to_thread

from labelserver.app.proof import compare_masks
from labelserver.bootstrap import Server
from labelserver.datastore.label_diff import Masks
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.errors import LabelServerError
from labelserver.domain.ids import ImageId, folder_key, model_folder
from labelserver.domain.infer import InferRequest, Priority
from labelserver.domain.json_types import JsonObject
from labelserver.domain.models import ADOPTED
from labelserver.imaging.volumes import read_volume
from labelserver.storage import atomic

logger = logging.getLogger(__name__)

#: Images of the set: few, because each version infers them all.
IMAGES = 6

#: Below ``cache/``; each image has a folder in it, which erasing finds.
CACHE = "stability"


def agreement_of_last_two(state: Path, model: str) -> float | None:
    """Mean Dice of the newest comparison; None if there was none."""
    same = _read(_file(state, model)).get("same")
    return float(same) if isinstance(same, int | float) and not isinstance(same, bool) else None


async def compare_versions(server: Server) -> None:
    """Bring the comparison of every model up to date; does nothing where nothing was published."""
    store = server.stores.local
    description = server.engine.description()
    if store is None or description is None or not server.engine.readiness().ready:
        return
    infers = description.info.get("models")
    for model in server.model_store.models():
        current = server.model_store.current(model)
        if current is None or current.number == ADOPTED or not isinstance(infers, dict) or model not in infers:
            continue
        known = _read(_file(server.roots.state, model))
        if known.get("version") == current.number:
            continue
        try:
            await _compare(server, store, model, current.number, known)
        except (LabelServerError, OSError, ValueError) as error:
            logger.info("versions could not be compared", extra={"model": model, "reason": str(error)})
            await to_thread.run_sync(_keep, server.roots.state, model, {**known, "version": current.number})


async def _compare(server: Server, store: LocalDatastore, model: str, number: int, known: JsonObject) -> None:
    images = await to_thread.run_sync(_fixed_set, store, known)
    for image in images:
        target = _mask(store, image, model, number)
        if target.is_file():
            continue
        ask = InferRequest(
            model=model,
            image_id=ImageId(image),
            params={"result_extension": ".nii.gz"},
            person="labelserver",
            priority=Priority.SCORING,
        )
        answer = await server.engine.infer(ask)
        if answer.file is None:
            return
        file = server.roots.resolve(answer.file)
        target.parent.mkdir(parents=True, exist_ok=True)
        await to_thread.run_sync(atomic.move_file, file, target)
    before = known.get("version")
    same = None
    if isinstance(before, int) and images:
        same = await to_thread.run_sync(_mean_dice, store, images, model, before, number)
    document: JsonObject = {"version": number, "images": [*images], "compared_with": before, "same": same}
    await to_thread.run_sync(_keep, server.roots.state, model, document)


def _fixed_set(store: LocalDatastore, known: JsonObject) -> list[str]:
    """The set so far, without images that were labeled or removed since; filled up by a hash of the id."""
    unlabeled = set(store.get_unlabeled_images())
    told = known.get("images")
    kept = [str(image) for image in told if image in unlabeled] if isinstance(told, list) else []
    others = sorted(unlabeled - set(kept), key=lambda i: hashlib.sha256(i.encode()).hexdigest())
    return [*kept, *others][:IMAGES]


def _mean_dice(store: LocalDatastore, images: list[str], model: str, before: int, after: int) -> float | None:
    """Over the images that both versions have inferred."""
    found = []
    for image in images:
        files = [_mask(store, image, model, number) for number in (before, after)]
        if all(file.is_file() for file in files):
            found.append(compare_masks(_masks(files[0]), _masks(files[1]))[2])
    return float(np.mean(found)) if found else None


def _masks(file: Path) -> Masks:
    voxels = read_volume(file).voxels
    return {int(value): voxels == value for value in np.unique(voxels) if value}


def _mask(store: LocalDatastore, image: str, model: str, number: int) -> Path:
    folder = store.layout.state / "cache" / CACHE / folder_key(image)
    return folder / f"{model_folder(model)}-{number}.nii.gz"


def _file(state: Path, model: str) -> Path:
    return state / "stability" / f"{model_folder(model)}.json"


def _keep(state: Path, model: str, document: JsonObject) -> None:
    atomic.write_json(_file(state, model), document)


def _read(file: Path) -> JsonObject:
    try:
        told = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return dict(told) if isinstance(told, dict) else {}
