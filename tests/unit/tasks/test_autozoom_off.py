"""Who says `autozoom: false` gets the closest window and no other."""

from __future__ import annotations

import numpy as np
import pytest

from labelserver.domain.geometry import Grid
from labelserver.domain.prompts import Prompt, PromptKind
from labelserver.tasks.prompting import ClickState, PromptedImage
from labelserver.tasks.seeds import Seeds

SHAPE = (40, 40, 40)


@pytest.mark.parametrize(("params", "zoomed"), [({}, True), ({"autozoom": True}, True), ({"autozoom": False}, False)])
def test_a_large_object_is_zoomed_out_to_unless_the_client_says_no(params: dict[str, bool], zoomed: bool) -> None:
    voxels = np.zeros(SHAPE, np.int16)
    voxels[4:36, 4:36, 4:36] = 100
    voxels += np.random.default_rng(0).integers(-5, 6, SHAPE).astype(np.int16)
    task = Seeds(["object"], roi=16)
    prepared = task.prepare(PromptedImage(voxels, Grid(SHAPE, np.eye(4))))
    point = Prompt(PromptKind.POINT, "object", points=np.array([[20.0, 20.0, 20.0]]))
    state = ClickState((point,), 1, np.zeros(SHAPE, np.uint8), {"object": 1}, dict(params))
    *_, last = task.predict(prepared, state)
    zoom = last.notes["zoom"]
    assert isinstance(zoom, float)
    assert (zoom > 1) == zoomed
    if not zoomed:
        assert max(last.values.shape) <= 17
