"""Old-style tasks in sessions, interactive tasks behind old keys."""

from pathlib import Path

import numpy as np
import pytest

from labelserver.contracts.progress import Silent, watched_by
from labelserver.domain.errors import GridsDiffer, InvalidPrompt, RequestCancelled, TaskFailed
from labelserver.domain.geometry import Grid
from labelserver.domain.prompts import MaskBox, Prompt, PromptKind
from labelserver.imaging.volumes import read_volume, write_volume
from labelserver.tasks.base import InferTask, InferType
from labelserver.tasks.interactive import InteractiveTask, Prediction
from labelserver.tasks.peer_prompts import prompts_of, request_of
from labelserver.tasks.prompted_images import image_of, prepared_of
from labelserver.tasks.prompted_infer import as_prompted, declared_kinds
from labelserver.tasks.prompting import ClickState

SHAPE = (12, 10, 8)
GRID = Grid(SHAPE, np.diag([1.0, 2, 3, 1]))
LABELS = {"background": 0, "liver": 1, "spleen": 2}


def point(i, j, k, label="", *, positive=True):
    return Prompt(PromptKind.POINT, label, positive, np.array([[i, j, k]], float))


class Old(InferTask):
    """Answers what a test says, and keeps what it was asked."""

    def __init__(self, answer, type=InferType.DEEPEDIT, labels=LABELS):
        super().__init__(type, labels, 3)
        self.answer = answer
        self.asked = []

    def is_valid(self):
        return True

    def __call__(self, request):
        drawn = request.get("label")
        if isinstance(drawn, str) and Path(drawn).is_absolute():
            request = {**request, "drawn": read_volume(Path(drawn)).voxels}
        self.asked.append(request)
        return self.answer, {"latencies": {"total": 1}}


@pytest.fixture
def image(tmp_path):
    file = tmp_path / "image.nii"
    write_volume(file, np.zeros(SHAPE, np.int16), GRID.affine, compress=False)
    return str(file)


def asked(task, image, *prompts, mask=None):
    prompted = as_prompted(task)
    prepared = prompted.prepare(image_of(image, voxels=False))
    mask = np.zeros(SHAPE, np.uint8) if mask is None else mask
    (prediction,) = prompted.predict(prepared, ClickState(prompts, len(prompts), mask, LABELS, {"option": 5}))
    return prediction


def test_clicks_become_the_keys_that_old_tasks_read(image):
    task = Old(np.ones(SHAPE, np.uint8))
    asked(task, image, point(1, 2, 3), point(4, 5, 6, "spleen"), point(7, 8, 7, positive=False))
    (request,) = task.asked
    assert request["foreground"] == [[1, 2, 3], [4, 5, 6]]
    assert request["background"] == [[7, 8, 7]]
    assert (request["liver"], request["spleen"]) == ([[1, 2, 3]], [[4, 5, 6]])
    assert (request["image"], request["option"]) == (image, 5)


def test_a_box_is_a_region_and_a_click_in_its_middle(image):
    task = Old(np.ones(SHAPE, np.uint8))
    asked(task, image, Prompt(PromptKind.BOX, points=np.array([[1.0, 2, 3], [5, 6, 5]])))
    assert task.asked[0]["roi"] == [1, 6, 2, 7, 3, 6]
    assert task.asked[0]["foreground"] == [[3, 4, 4]]


def test_scribbles_travel_as_a_label_map_and_leave_no_file(image, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "spool"))
    (tmp_path / "spool").mkdir()
    answer = np.zeros(SHAPE, np.uint8)
    answer[2:4] = 1
    task = Old(answer, InferType.SCRIBBLES)
    drawn = Prompt(PromptKind.SCRIBBLE, "spleen", True, mask=MaskBox((2, 2, 2), np.ones((2, 1, 1), bool)))
    mask = np.zeros(SHAPE, np.uint8)
    mask[6:8] = 1
    prediction = asked(task, image, point(9, 9, 7, "spleen", positive=False), drawn, mask=mask)
    request = task.asked[0]
    info = {entry["name"]: entry["id"] for entry in request["label_info"]}
    assert (request["drawn"] == info["foreground_scribbles"]).sum() == 2
    assert request["drawn"][9, 9, 7] == info["background_scribbles"]
    assert request["selected_label_name"] == "spleen"
    assert (prediction.values[2:4] == 2).all(), "value 1 of the answer is the label that was drawn"
    assert (prediction.values[6:8] == 1).all(), "other labels stay"
    assert not list((tmp_path / "spool").iterdir())


def test_an_answer_in_a_file_is_read_and_removed(image, tmp_path):
    file = tmp_path / "answer.nii.gz"
    write_volume(file, np.ones(SHAPE, np.uint8), GRID.affine, compress=True)
    assert asked(Old(str(file)), image, point(1, 1, 1)).values.all()
    assert not file.exists()


@pytest.mark.parametrize("answer", [None, np.ones((3, 3, 3), np.uint8)])
def test_an_answer_that_is_no_mask_of_the_image_is_a_failure(image, answer):
    with pytest.raises(TaskFailed):
        asked(Old(answer), image, point(1, 1, 1))


def test_which_tasks_take_part():
    assert as_prompted(Old(None, InferType.SEGMENTATION)) is None
    declared = Old(None, InferType.SEGMENTATION)
    declared.prompt_kinds = ["point", "box"]
    assert declared_kinds(declared) == {PromptKind.POINT, PromptKind.BOX}
    info = as_prompted(declared).interactive_info()
    assert info["prompt_kinds"] == ["box", "point"]
    assert set(info["conversions"]) == {"box"}
    assert info["label_values"] == {"liver": 1, "spleen": 2}


class Spot(InteractiveTask):
    """Paints the voxel of each point; a scribble's voxels."""

    prompt_kinds = frozenset({PromptKind.POINT, PromptKind.SCRIBBLE})

    def __init__(self):
        super().__init__("deepedit", LABELS, 3)
        self.prepared = 0

    def prepare(self, image):
        self.prepared += 1
        return image.grid.shape

    def predict(self, prepared, clicks):
        mask = np.array(clicks.mask)
        for prompt in clicks.prompts:
            points = prompt.mask.indices() if prompt.mask else prompt.points
            mask[tuple(points.astype(int).T)] = clicks.value_of(prompt) if prompt.positive else 0
            yield Prediction((0, 0, 0), mask, final=False)
        yield Prediction((-2, 0, 0), np.concatenate([np.ones((2, *SHAPE[1:]), np.uint8), mask]))


def test_an_interactive_task_answers_the_keys_of_old_clients(image, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    task = Spot()
    request = {"image": image, "liver": [[1, 1, 1]], "spleen": [[2, 2, 2], [3, 3, 3]], "background": [[3, 3, 3]]}
    for _ in range(2):
        file, answer = task({**request, "result_extension": ".nrrd"})
        volume = read_volume(Path(file))
        Path(file).unlink()
    assert (volume.voxels[1, 1, 1], volume.voxels[2, 2, 2], volume.voxels[3, 3, 3]) == (1, 2, 0)
    assert volume.voxels.sum() == 3, "what lies outside the image is cut off"
    assert answer["label_names"] == LABELS
    assert {"pre", "infer", "write", "total"} <= answer["latencies"].keys()
    assert task.prepared == 1


def test_without_clicks_the_mask_is_empty_or_the_uploaded_one(image, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    file, _ = Spot()({"image": image})
    assert not read_volume(Path(file)).voxels.any()
    label = tmp_path / "label.nii"
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[1], drawn[2], drawn[3, 0, 0], drawn[4, 0, 0] = 1, 9, 4, 3
    write_volume(label, drawn, GRID.affine, compress=False)
    info = [{"name": "foreground_scribbles", "id": 4}, {"name": "background_scribbles", "id": 3}]
    request = {"image": image, "label": str(label), "label_info": info, "selected_label_name": "spleen"}
    file, _ = Spot()(request)
    mask = read_volume(Path(file)).voxels
    assert (mask[1] == 1).all(), "what was there already"
    assert not mask[2].any(), "no label of this task"
    assert mask[3, 0, 0] == 2
    write_volume(label, drawn[:4], GRID.affine, compress=False)
    with pytest.raises(GridsDiffer):
        Spot()(request)


def test_bad_clicks_of_old_clients_are_refused(image):
    for clicks in ([[99, 0, 0]], [[1, 1]], "here", [["a", 1, 1]]):
        with pytest.raises(InvalidPrompt):
            Spot()({"image": image, "foreground": clicks})


class _Stopped(Silent):
    def should_stop(self):
        return True


def test_a_caller_who_left_ends_the_prediction(image):
    with watched_by(_Stopped()), pytest.raises(RequestCancelled):
        Spot()({"image": image, "foreground": [[1, 1, 1]]})


def test_the_image_is_prepared_anew_when_its_file_changes(image):
    task = Spot()
    prepared_of(task, image)
    prepared_of(task, image)
    assert task.prepared == 1
    write_volume(Path(image), np.ones((3, 3, 3), np.int16), GRID.affine, compress=False)
    assert prepared_of(task, image) == (3, 3, 3)


def test_keys_of_old_clients_and_prompts_agree():
    prompts = [point(1, 2, 3), point(4, 5, 6, "spleen"), point(7, 8, 7, "spleen", positive=False)]
    keys = request_of(prompts, LABELS, GRID)
    assert keys.pop("foreground") == [[1, 2, 3], [4, 5, 6]]
    again = [(p.label, p.positive, p.points[0].tolist()) for p in prompts_of(keys, LABELS, GRID)]
    assert again == [("liver", True, [1, 2, 3]), ("spleen", True, [4, 5, 6]), ("spleen", False, [7, 8, 7])]


def test_both_spellings_of_a_region():
    (six,) = prompts_of({"roi": [1, 4, 2, 6, 3, 5]}, LABELS, GRID)
    assert six.box == ((1, 2, 3), (4, 6, 5))
    (four,) = prompts_of({"roi": [1, 2, 4, 6]}, LABELS, GRID)
    assert four.kind is PromptKind.BOX
    assert prompts_of({"roi": []}, LABELS, GRID) == []
