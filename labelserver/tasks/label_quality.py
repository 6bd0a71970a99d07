"""Finds labels that deserve a second look and keeps them, each with a picture, where ``/api/v1/quality`` shows them.

The model that is asked about a label is the newest version that did not learn from it, so that it cannot repeat what it
was told. Labels that were looked at by the same means are not looked at again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelserver.contracts.datastore import Datastore, DefaultLabelTag, RevisionStore
from labelserver.contracts.labels import SchemaStore
from labelserver.contracts.model_store import WeightsInUse, answering_with, current_version_writer
from labelserver.contracts.progress import current_progress
from labelserver.contracts.quality import FoundOddity, QualityStore
from labelserver.domain.errors import LabelServerError, TaskFailed
from labelserver.domain.ids import parse_image_id, parse_tag
from labelserver.domain.oddities import Finding, Oddity
from labelserver.domain.schema import channels_of_values
from labelserver.imaging.thumbnails import overlay_png
from labelserver.imaging.volumes import read_volume
from labelserver.learning import label_quality as rules
from labelserver.tasks.base import ScoringMethod, numbered_labels
from labelserver.tasks.budgets import Budget
from labelserver.tasks.devices import name_to_device
from labelserver.tasks.image_places import cache_home_of, kept_as
from labelserver.tasks.infer import BasicInferTask
from labelserver.tasks.pool_looks import class_probabilities

#: of the rules; grows when they change
VERSION = "1"


class LabelQuality(ScoringMethod):
    """Labels that deserve a second look: shape, size, what a model thinks, what a second reader drew"""

    def __init__(self, infer_task: BasicInferTask | None = None, name: str = "", description: str = "") -> None:
        """Args:
        infer_task: answers with scores of classes (``skip_writer=True`` is asked for); None: no confidence.
        name: the model whose versions it reads.
        description: for people.
        """
        super().__init__(description)
        self.infer_task, self.name = infer_task, name

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Look at the accepted labels that were not looked at yet, or with another model; compare all volumes.

        Returns:
            ``total``, ``executed``, ``fresh``, ``left``, ``failed``: image id -> reason.
        """
        nothing = {"total": 0, "executed": 0, "fresh": 0, "left": 0, "failed": {}}
        if not isinstance(datastore, QualityStore) or not isinstance(datastore, RevisionStore):
            return nothing
        budget = Budget.of(request)
        images = sorted(datastore.get_labeled_images())
        failed: dict[str, str] = {}
        executed = fresh = 0
        for image_id in images:
            if current_progress().should_stop() or budget.is_spent():
                break
            try:
                key = self._key(image_id, datastore)
                if datastore.quality_key(image_id) == key:
                    fresh += 1
                    continue
                current_progress().yield_device(name_to_device(request.get("device")))
                found, volumes = self.look(image_id, request, datastore)
                datastore.put_quality(image_id, key, found, volumes)
                executed += 1
            except LabelServerError as error:
                failed[image_id] = error.message
            current_progress().report({"step": executed + fresh + len(failed), "total_steps": len(images)})
        self._compare_volumes(datastore)
        left = len(images) - executed - fresh - len(failed)
        return {"total": len(images), "executed": executed, "fresh": fresh, "left": left, "failed": failed}

    def look(
        self, image_id: str, request: dict[str, Any], datastore: Datastore
    ) -> tuple[list[FoundOddity], dict[str, float]]:
        """What is odd about one image's label, and the volume of each label in mm3."""
        label = read_volume(Path(datastore.get_label_uri(image_id, DefaultLabelTag.FINAL)))
        image = read_volume(Path(datastore.get_image_uri(image_id)))
        values = datastore.schema().values() if isinstance(datastore, SchemaStore) else {}
        names = {value: name for name, value in values.items()}
        label_map = np.atleast_3d(np.asarray(label.voxels))
        findings = rules.shape_findings(label_map, names)
        findings += self._by_model(image_id, label_map, values, request, datastore)
        for tag, second in self._readings(image_id, datastore):
            more = rules.disagreement_findings(label_map, second, names)
            findings += [_said_of(one, tag) for one in more]
        voxel_mm3 = float(np.prod(label.grid.spacing_mm))
        counts = zip(*np.unique(label_map, return_counts=True), strict=True)
        volumes = {names.get(int(v), str(int(v))): float(n) * voxel_mm3 for v, n in counts if v not in (0, 255)}
        shown = np.atleast_3d(np.asarray(image.voxels, dtype=np.float32))
        shown = shown if shown.ndim == 3 else shown.reshape(*shown.shape[:3], -1).mean(axis=3)
        return [FoundOddity(image_id, one, _drawn(shown, label_map, one, values)) for one in findings], volumes

    def _by_model(
        self,
        image_id: str,
        label_map: NDArray[Any],
        values: dict[str, int],
        request: dict[str, Any],
        datastore: Datastore,
    ) -> list[Finding]:
        task = self.infer_task
        version = self._version_without(image_id)
        if task is None or version is None:
            return []
        order = sorted((value, name) for name, value in numbered_labels(task.labels).items() if value > 0)
        channels = {number: name for number, (_, name) in enumerate(order, start=1)}
        stored = channels_of_values([name for _, name in order], values)
        asked = {key: value for key, value in request.items() if key not in ("method", "budget_s")}
        try:
            with self._answering(version), kept_as(image_id, cache_home_of(datastore), in_a_hurry=False):
                asked |= {"image": datastore.get_image_uri(image_id), "skip_writer": True}
                _, data = task(asked)
                data = task.run_invert_transforms(data, task.pre_transforms(data), ())
                probabilities = class_probabilities(data["pred"])
        except LabelServerError:
            raise
        except Exception as error:
            raise TaskFailed(f"The model failed on {image_id}: {error}") from error
        if probabilities.shape[1:] != label_map.shape:
            return []
        own = np.zeros(label_map.shape, dtype=np.int64)
        for value, channel in stored.items():
            own[label_map == value] = channel
        own[label_map == 255] = 255
        return rules.confidence_findings(own, probabilities, channels)

    def _key(self, image_id: str, datastore: RevisionStore) -> str:
        """What the findings of an image depend on: rules, labels of all readers, model version."""
        final = datastore.current_revision(parse_image_id(image_id), parse_tag(DefaultLabelTag.FINAL)).sha256
        tags = datastore.get_labels_by_image_id(image_id) if isinstance(datastore, Datastore) else {}
        others = [
            datastore.current_revision(parse_image_id(image_id), parse_tag(tag)).sha256[:12]
            for tag in sorted(tags)
            if tag.startswith("reader_")
        ]
        version = self._version_without(image_id)
        return "/".join((VERSION, final[:16], *others, f"{self.name}@{version}"))

    def _readings(self, image_id: str, datastore: Datastore) -> Iterator[tuple[str, NDArray[Any]]]:
        for tag, label_id in sorted(datastore.get_labels_by_image_id(image_id).items()):
            if tag.startswith("reader_"):
                uri = datastore.get_label_uri(label_id, tag)
                if uri:
                    yield tag, np.atleast_3d(np.asarray(read_volume(Path(uri)).voxels))

    def _version_without(self, image_id: str) -> int | None:
        """The newest version that did not learn from the image; -1: weights of unknown origin; None: none at all."""
        if self.infer_task is None:
            return None
        store = current_version_writer()
        versions = store.versions(self.name) if store is not None else []
        if not versions:
            return -1 if self.infer_task.get_path() else None
        return next((one.number for one in reversed(versions) if image_id not in one.labels), None)

    @contextmanager
    def _answering(self, version: int) -> Iterator[None]:
        store = current_version_writer()
        if version < 0 or store is None or self.infer_task is None:
            yield
            return
        published = Path(str(self.infer_task.get_path(validate=False))).absolute()
        file = store.published_file(self.name, version)
        with answering_with(WeightsInUse(str(version), published, file)):
            yield

    def _compare_volumes(self, datastore: QualityStore) -> None:
        volumes = datastore.volumes()
        found: dict[str, list[Finding]] = {}
        for label in sorted({name for one in volumes.values() for name in one}):
            own = {image: one[label] for image, one in volumes.items() if label in one}
            for image, finding in rules.volume_findings(own, label).items():
                found.setdefault(image, []).append(finding)
        pictures = {}
        if isinstance(datastore, Datastore):
            pictures = {image: _picture_of(image, findings, datastore) for image, findings in found.items()}
        datastore.put_outliers(
            [FoundOddity(image, one, pictures.get(image, b"")) for image, several in found.items() for one in several]
        )


def _picture_of(image_id: str, findings: list[Finding], datastore: Datastore) -> bytes:
    """The largest slice of the first label told of."""
    try:
        label = np.atleast_3d(np.asarray(read_volume(Path(datastore.get_label_uri(image_id, "final"))).voxels))
        image = np.atleast_3d(np.asarray(read_volume(Path(datastore.get_image_uri(image_id))).voxels))
    except LabelServerError:
        return b""
    values = datastore.schema().values() if isinstance(datastore, SchemaStore) else {}
    mask = label == values.get(findings[0].label, -1)
    number = int(np.argmax(mask.sum(axis=(0, 1))))
    return overlay_png(image[:, :, number], mask[:, :, number]) if image.ndim == 3 else b""


def _drawn(image: NDArray[Any], label_map: NDArray[Any], one: Finding, values: dict[str, int]) -> bytes:
    """The slice of the finding with its label in colour."""
    if image.shape != label_map.shape:
        return b""
    value = values.get(one.label, int(one.label) if one.label.isdecimal() else -1)
    heat = (label_map[:, :, one.slice_k] == value).astype(np.float32) * 0.6
    i, j, _ = one.center_ijk
    heat[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2] = 1.0
    return overlay_png(image[:, :, one.slice_k], heat)


def _said_of(one: Finding, tag: str) -> Finding:
    return Finding(Oddity.DISAGREEMENT, one.label, one.severity, one.slice_k, one.center_ijk, f"{one.detail} ({tag})")
