"""The last two versions of a model are compared on unlabeled images, behind everything else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from labelserver.api.stability import agreement_of_last_two, compare_versions
from labelserver.contracts.model_store import Candidate
from labelserver.domain.infer import InferAnswer, InferRequest, Priority
from labelserver.domain.paths import Root
from tests.api.conftest import SHAPE, World, nifti
from tests.api.test_queue_routes import submit


def publish(world: World, tmp_path: Path) -> int:
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"weights")
    number = world.server.model_store.add(Candidate("segmentation", (weights,), metrics={"d": 0.5}, key_metric="d"))
    world.server.model_store.publish("segmentation", number, "test")
    return number


@pytest.fixture
def asked(world: World) -> list[InferRequest]:
    """What was inferred: version n marks 10 voxels, of which n are others than those of version 0."""
    seen: list[InferRequest] = []

    async def infer(request: InferRequest) -> InferAnswer:
        seen.append(request)
        current = world.server.model_store.current("segmentation")
        assert current is not None
        voxels = np.zeros(SHAPE, np.uint8)
        voxels.flat[current.number : current.number + 10] = 1
        file = nifti(world.server.spool / f"{len(seen)}.nii.gz", voxels)
        return InferAnswer({}, world.roots.relative(file, Root.STATE), ".nii.gz", model_version=str(current.number))

    world.engine.infer = infer  # type: ignore[method-assign, assignment]
    return seen


def look(world: World) -> float | None:
    world.http.portal.call(compare_versions, world.server)
    return agreement_of_last_two(world.roots.state, "segmentation")


def test_each_version_is_compared_with_the_one_before(world: World, tmp_path: Path, asked: list[InferRequest]) -> None:
    assert look(world) is None
    assert asked == []
    publish(world, tmp_path)
    assert look(world) is None
    assert sorted(str(a.image_id) for a in asked) == ["ct_1", "ct_2"]
    assert {a.priority for a in asked} == {Priority.SCORING}
    publish(world, tmp_path)
    assert look(world) == pytest.approx(0.9)
    assert len(asked) == 4
    look(world)
    assert len(asked) == 4, "nothing is inferred twice"
    assert world.spool_is_empty()


def test_labeled_images_leave_the_set(world: World, tmp_path: Path, asked: list[InferRequest]) -> None:
    publish(world, tmp_path)
    look(world)
    submit(world, "anna", "ct_1", tmp_path)
    publish(world, tmp_path)
    assert look(world) == pytest.approx(0.9)
    assert [str(a.image_id) for a in asked[2:]] == ["ct_2"]
    kept = json.loads((world.roots.state / "stability" / "segmentation.json").read_text())
    assert (kept["images"], kept["compared_with"]) == (["ct_2"], 1)


def test_a_model_that_fails_is_not_asked_again_and_again(
    world: World, tmp_path: Path, asked: list[InferRequest]
) -> None:
    publish(world, tmp_path)

    async def fails(request: InferRequest) -> InferAnswer:
        asked.append(request)
        raise ValueError("no")

    world.engine.infer = fails  # type: ignore[method-assign, assignment]
    assert look(world) is None
    assert look(world) is None
    assert len(asked) == 1
