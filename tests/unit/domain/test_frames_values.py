"""Requests, answers and descriptions survive the JSON they travel as."""

from __future__ import annotations

from labelserver.domain.app_description import AppDescription
from labelserver.domain.ids import ImageId
from labelserver.domain.infer import InferAnswer, InferRequest, Priority
from labelserver.domain.paths import Root, RootedPath


def test_infer_requests_and_answers_survive_json():
    request = InferRequest(
        model="m",
        image_id=ImageId("a/b"),
        label_file=RootedPath(Root.STATE, "spool/l.nii.gz"),
        params={"foreground": [[1, 2, 3]]},
        person="ann",
        priority=Priority.CLICK,
    )
    assert InferRequest.from_json(request.to_json()) == request
    answer = InferAnswer({"label_names": {"liver": 1}}, RootedPath(Root.STATE, "x.nrrd"), ".nrrd", ("a", "final"), "3")
    assert InferAnswer.from_json(answer.to_json()) == answer


def test_descriptions_survive_json():
    description = AppDescription(
        info={"name": "x", "models": {}},
        code_hash="abc",
        overridden_hooks=frozenset({"infer"}),
        ready_made_strategies={"random": "Random"},
        local_store=None,
        trainer_models={"t": "m"},
    )
    assert AppDescription.from_json(description.to_json()) == description
