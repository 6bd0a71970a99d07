"""What a worker answers to a session's calls when something is odd about them: nothing drawn, an image replaced."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from labelserver.domain.errors import GridsDiffer, InvalidPrompt
from labelserver.domain.ids import ImageId
from labelserver.domain.interaction import MaskChange, SessionAnswer, SessionCall, SessionVerb, Step
from labelserver.domain.paths import Roots
from labelserver.domain.prompts import Prompt, PromptKind
from labelserver.imaging.volumes import write_volume
from labelserver.tasks.prepared_images import shared
from labelserver.tasks.seeds import Seeds
from labelserver.worker.sessions import AppTasks, Sessions

CLICK = Prompt(PromptKind.POINT, points=np.array([[6.0, 6, 6]]))


class Place:
    def __init__(self, folder: Path) -> None:
        self.image = folder / "ct.nii.gz"
        self.write((16, 15, 14))
        tasks = AppTasks(lambda name: Seeds(["organ"], roi=16), lambda image: str(self.image), lambda name: "")
        self.sessions = Sessions(tasks, Roots(folder / "app", folder, folder / "state"))
        self.at = 0

    def write(self, shape: tuple[int, int, int], shift: float = 0.0) -> None:
        grid = np.indices(shape)
        ball = sum((axis - 6) ** 2 for axis in grid) <= 12
        affine = np.eye(4)
        affine[0, 3] = shift
        write_volume(self.image, (ball * 100).astype(np.int16), affine, compress=True)

    def call(self, verb: SessionVerb, **more: object) -> SessionAnswer:
        call = SessionCall("s", verb, "seeds", "ann", ImageId("ct"), at=self.at, **more)  # type: ignore[arg-type]
        answer, _ = self.sessions.answer(call, lambda partial, shape: None)
        self.at += verb is SessionVerb.PROMPT
        return answer


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    shared().clear()
    yield Place(tmp_path)
    shared().clear()


def test_there_is_nothing_to_predict_from_before_something_is_drawn(place: Place) -> None:
    place.call(SessionVerb.OPEN)
    with pytest.raises(InvalidPrompt, match="draw something first"):
        place.call(SessionVerb.PROMPT)
    assert place.call(SessionVerb.PROMPT, prompts=(CLICK,)).ran


@pytest.mark.parametrize(("shape", "shift"), [((20, 20, 20), 0.0), ((5, 5, 5), 0.0), ((16, 15, 14), 3.0)])
def test_an_image_replaced_by_one_of_another_place_is_told_and_nothing_changes(
    place: Place, shape: tuple[int, int, int], shift: float
) -> None:
    place.call(SessionVerb.OPEN)
    place.call(SessionVerb.PROMPT, prompts=(CLICK,))
    place.write(shape, shift)
    with pytest.raises(GridsDiffer, match="replaced since this session was opened"):
        place.call(SessionVerb.PROMPT, prompts=(CLICK,))
    place.write((16, 15, 14))
    assert place.call(SessionVerb.PROMPT, prompts=(CLICK,)).ran


def test_a_session_is_not_rebuilt_on_an_image_that_is_too_small_for_it(place: Place) -> None:
    change = MaskChange((4, 4, 4), np.ones((5, 5, 5), np.uint8))
    place.write((8, 8, 8))
    with pytest.raises(GridsDiffer, match=r"\[8, 8, 8\] voxels now"):
        place.call(SessionVerb.OPEN, history=(Step((CLICK,), change),))
    place.write((16, 15, 14))
    place.call(SessionVerb.OPEN, history=(Step((CLICK,), change),))
