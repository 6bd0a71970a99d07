"""Proof that labeling pays: what proposals were worth, and the learning curve, from the time log and the versions.

What is computed stands in `learning/progress.py`; here it gets its numbers from the stores.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labelserver.contracts.model_store import ModelStore
from labelserver.datastore.label_diff import Masks, masks_of
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.effort import Piece, Proposal, Sign
from labelserver.domain.errors import LabelServerError, ModelNotFound
from labelserver.domain.ids import ImageId, Tag, folder_key
from labelserver.domain.models import ADOPTED, ModelVersion
from labelserver.imaging.formats import has_voxels
from labelserver.imaging.volumes import read_volume
from labelserver.learning.progress import (
    Benefit,
    Forecast,
    Point,
    StopAdvice,
    Timed,
    benefits,
    forecast,
    stop_advice,
)
from labelserver.wire import mask_box

logger = logging.getLogger(__name__)

#: Below ``cache/``; each image has a folder in it, which erasing finds.
PROPOSALS = "proposals"

#: The next labels whose gain is told.
NEXT_LABELS = 10


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A version that was trained here."""

    version: int
    labels: int  #: that it learned from
    hours: float  #: of work that were logged until it was made
    metric: float
    error: float | None  #: standard error over the held-out cases
    created_ts: float


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """The versions of one model, and what comes next."""

    model: str
    metric: str
    points: tuple[CurvePoint, ...]
    by_labels: Forecast | None
    by_hours: Forecast | None
    advice: StopAdvice


def learning_curve(models: ModelStore, store: LocalDatastore, model: str, same: float | None = None) -> LearningCurve:
    """Of one model.

    Args:
        models: where its versions are.
        store: whose time log tells the hours.
        model: its name.
        same: mean Dice between the last two versions on unlabeled images; None: not known.

    Raises:
        ModelNotFound: no version of this model.
    """
    versions = models.versions(model)
    if not versions:
        known = ", ".join(models.models()) or "none"
        raise ModelNotFound(f"There is no version of a model {model[:100]!r} yet. Known: {known}. Train one first.")
    pieces = store.work.times.pieces(submitted=True, limit=10**9)
    metric = next((v.key_metric for v in reversed(versions) if v.key_metric), "")
    points = tuple(
        _point(version, metric, pieces)
        for version in versions
        if version.number != ADOPTED and metric in version.metrics
    )
    by_labels = forecast([Point(p.labels, p.metric, p.error) for p in points], NEXT_LABELS)
    hours = [Point(p.hours, p.metric, p.error) for p in points]
    step = _hours_of_next(pieces)
    by_hours = forecast(hours, step) if step > 0 else None
    gain = by_labels.gain if by_labels is not None else None
    compared = sorted((p for p in pieces if p.accepted is not None), key=lambda p: p.submitted_ts or 0.0)
    advice = stop_advice(gain, same, [bool(p.accepted) for p in compared])
    return LearningCurve(model, metric, points, by_labels, by_hours, advice)


def _point(version: ModelVersion, metric: str, pieces: Sequence[Piece]) -> CurvePoint:
    worked_s = sum(p.active_s for p in pieces if (p.submitted_ts or 0.0) <= version.created_ts)
    values = [case[metric] for case in version.cases.values() if metric in case]
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return CurvePoint(
        version.number, len(version.labels), worked_s / 3600.0, version.metrics[metric], error, version.created_ts
    )


def _hours_of_next(pieces: Sequence[Piece]) -> float:
    """Hours that the next labels will take, as the last ones took."""
    last = [p.active_s for p in pieces if p.active_s > 0][-NEXT_LABELS:]
    return float(np.mean(last)) * NEXT_LABELS / 3600.0 if last else 0.0


def benefit(store: LocalDatastore, model: str = "") -> list[Benefit]:
    """What proposals save, version by version; of one model, or of all (then "model version")."""
    pieces = [p for p in store.work.times.pieces(submitted=True, limit=10**9) if p.active_s > 0]
    return benefits([_timed(p, model) for p in pieces if not model or p.proposal is None or p.proposal.model == model])


def _timed(piece: Piece, model: str) -> Timed:
    proposal = piece.proposal
    name = "" if proposal is None else proposal.version if model else f"{proposal.model} {proposal.version}".strip()
    return Timed(piece.person, name or ("unknown" if proposal is not None else ""), piece.active_s / 60.0)


def keep_proposal(
    store: LocalDatastore,
    image_id: ImageId,
    person: str,
    proposal: Proposal,
    mask: Path | bytes,
    values: dict[str, int],
) -> None:
    """Remember what a model proposed to somebody who works on the image, to compare it with his label later.

    Args:
        store: that has the image.
        image_id: which one.
        person: who was shown it.
        proposal: by which model and version.
        mask: a label map's file, which is copied, or an encoded box (`wire/mask_box.py`).
        values: name of a label -> its value in the mask.
    """
    store.work.times.note(person, Sign.PROPOSAL, image_id, proposal=proposal)
    number = store.work.times.open_piece(person, image_id)
    if number is None:
        return
    folder = _folder(store, image_id)
    folder.mkdir(parents=True, exist_ok=True)
    ext = mask_box.EXTENSION if isinstance(mask, bytes) else "".join(mask.suffixes[-2:])
    half = folder / f".tmp-{uuid.uuid4().hex}"
    if isinstance(mask, bytes):
        half.write_bytes(mask)
    else:
        shutil.copyfile(mask, half)
    for old in folder.glob(f"{number}.*"):
        old.unlink(missing_ok=True)
    half.replace(folder / f"{number}.mask{ext}")
    (folder / f"{number}.values").write_text(json.dumps(values))


def measure_some(store: LocalDatastore, limit: int = 5) -> int:
    """Compare proposals with the labels that were submitted. Returns how many pieces of work were looked at."""
    store.work.times.flush()
    pieces = store.work.times.to_measure(limit)
    for piece in pieces:
        try:
            found = _compared(store, piece)
        except (LabelServerError, OSError, ValueError) as error:
            logger.info("a proposal cannot be compared", extra={"image_id": piece.image_id, "reason": str(error)})
            found = None
        store.work.times.measured(piece.number, *(found or (None, None, None)))
        for used in _folder(store, piece.image_id).glob(f"{piece.number}.*"):
            used.unlink(missing_ok=True)
    return len(pieces)


def _compared(store: LocalDatastore, piece: Piece) -> tuple[int, int, float] | None:
    """Voxels that differ, voxels of either, mean Dice over the labels of either."""
    if piece.proposal is None or piece.revision is None:
        return None
    label = _stored(store, piece.image_id, Tag(piece.tag), piece.revision)
    proposed = _kept(store, piece)
    if proposed is None and piece.proposal.revision is not None:
        proposed = _stored(store, piece.image_id, Tag(piece.proposal.tag), piece.proposal.revision)
    if proposed is None or label is None:
        return None
    return compare_masks(proposed, label)


def compare_masks(proposed: Masks, label: Masks) -> tuple[int, int, float]:
    """Voxels that differ, voxels of either, mean Dice over the labels of either (1 if there is none)."""
    values = sorted({*proposed, *label})
    if not values:
        return 0, 0, 1.0
    shape = next(iter((proposed or label).values())).shape
    nothing = np.zeros(shape, bool)
    changed, drawn, dices = np.zeros(shape, bool), np.zeros(shape, bool), []
    for value in values:
        ours, theirs = proposed.get(value, nothing), label.get(value, nothing)
        changed |= ours ^ theirs
        drawn |= ours | theirs
        total = int(ours.sum()) + int(theirs.sum())
        if total:
            dices.append(2.0 * int((ours & theirs).sum()) / total)
    return int(changed.sum()), int(drawn.sum()), float(np.mean(dices)) if dices else 1.0


def _stored(store: LocalDatastore, image_id: ImageId, tag: Tag, number: int) -> Masks | None:
    revision = next((r for r in store.revisions(image_id, tag) if r.number == number), None)
    if revision is None or not has_voxels(revision.ext):
        return None
    return masks_of(revision, store.revision_file(image_id, tag, number))


def _kept(store: LocalDatastore, piece: Piece) -> Masks | None:
    """The proposal as it was shown, in the schema's values."""
    folder = _folder(store, piece.image_id)
    file = next(iter(folder.glob(f"{piece.number}.mask*")), None)
    if file is None:
        return None
    told = json.loads((folder / f"{piece.number}.values").read_text())
    voxels = _voxels(file)
    known = store.schema().values()
    return {known[name]: voxels == int(value) for name, value in told.items() if name in known and int(value)}


def _voxels(file: Path) -> NDArray[np.generic]:
    if file.suffix != mask_box.EXTENSION:
        return read_volume(file).voxels
    found = mask_box.decode_box(file.read_bytes())
    whole = np.zeros(found.shape, found.voxels.dtype)
    if found.voxels.size:
        low, high = found.box.lo, found.box.hi
        whole[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = found.voxels
    return whole


def _folder(store: LocalDatastore, image_id: ImageId) -> Path:
    return store.layout.state / "cache" / PROPOSALS / folder_key(image_id)
