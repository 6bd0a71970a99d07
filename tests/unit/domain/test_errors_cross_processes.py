"""An error raised in a worker is the same error in the server."""

from __future__ import annotations

from labelserver.domain.errors import AppFailed, ImageNotFound, LabelServerError, error_from_json


def test_every_error_survives_a_frame():
    for code, cls in LabelServerError.registry.items():
        again = error_from_json(cls("a sentence", image_id="x").to_json())
        assert type(again) is cls
        assert (again.code, again.message, again.fields) == (code, "a sentence", {"image_id": "x"})


def test_an_unknown_code_is_the_apps_failure():
    assert type(error_from_json({"code": "Nonsense", "message": "m"})) is AppFailed
    assert isinstance(ImageNotFound("m"), LabelServerError)
