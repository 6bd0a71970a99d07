"""``/info/`` as every client can bear it."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelserver.api.info_document import contiguous, wire_config, wire_info


def test_r08_labels_are_an_array_of_texts() -> None:
    for labels in (None, [], {"a": 2, "b": 1}, ["b", "a"], "b"):
        result = wire_info({"labels": labels})["labels"]
        assert isinstance(result, list)
        assert all(isinstance(name, str) for name in result)
    assert wire_info({"labels": {"a": 2, "b": 1}})["labels"] == ["b", "a"]


def test_r09_labels_of_a_model_are_never_null() -> None:
    info = wire_info({"models": {"m": {"labels": None}, "n": {}, "o": {"labels": ["x", "y"]}}})
    assert [m["labels"] for m in info["models"].values()] == [{}, {}, {"x": 1, "y": 2}]


def test_r10_lists_hold_texts_and_nothing_is_null() -> None:
    config = {"device": ["cpu", 0, True, None], "x": None, "n": 1.5, "b": False, "d": {"a": [1, 2], "z": None}}
    assert wire_config(config) == {"device": ["cpu", "0", "true"], "n": 1.5, "b": False, "d": {"a": [1, 2]}}


def test_r11_there_is_no_config_at_the_top() -> None:
    assert "config" not in wire_info({"config": {"a": 1}, "extra": 2})
    assert wire_info({"config": {"a": 1}, "extra": 2})["extra"] == 2


def test_r12_ids_are_contiguous_and_background_is_zero() -> None:
    assert contiguous({"esophagus": 42, "liver": 1, "background": 0}) == {"background": 0, "liver": 1, "esophagus": 2}
    assert contiguous({"a": 1, "b": 1}) == {"a": 1, "b": 2}
    assert contiguous(["x", "background", "y", "x"]) == {"x": 1, "background": 0, "y": 2}


def test_r13_every_label_of_a_model_is_a_label_of_the_app() -> None:
    models = {"m": {"labels": {"b": 2, "a": 1, "background": 0}}, "n": {"labels": ["c", "a"]}}
    assert wire_info({"labels": ["a"], "models": models})["labels"] == ["a", "b", "c"]
    assert wire_info({"models": models})["labels"] == ["a", "b", "c"]


def test_r43_nothing_that_strict_clients_read_is_null() -> None:
    info = wire_info({"models": {"m": {"type": None, "dimension": None, "description": None}}, "trainers": {"m": {}}})
    model = info["models"]["m"]
    assert model == {"type": "others", "labels": {}, "dimension": 3, "description": "", "config": {}}
    assert info["trainers"]["m"] == {"description": "", "config": {}}
    assert isinstance(info["name"], str)
    assert isinstance(info["description"], str)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 99) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def _holds_no_null(value: object) -> bool:
    if isinstance(value, dict):
        return all(_holds_no_null(item) for item in value.values())
    if isinstance(value, list):
        return all(_holds_no_null(item) for item in value)
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "name": json_values,
            "labels": json_values,
            "config": json_values,
            "models": st.dictionaries(
                st.text(max_size=5),
                st.fixed_dictionaries({}, optional={"labels": json_values, "config": json_values, "x": json_values}),
                max_size=3,
            ),
            "trainers": st.dictionaries(st.text(max_size=5), st.dictionaries(st.text(max_size=5), json_values)),
            "strategies": json_values,
            "anything": json_values,
        },
    )
)
def test_whatever_an_app_says_the_document_is_fit_for_clients(info: dict) -> None:
    document = wire_info(info)
    assert _holds_no_null(document)
    json.dumps(document, allow_nan=False)
    assert "config" not in document
    for model in document["models"].values():
        ids = sorted(i for name, i in model["labels"].items() if name != "background")
        assert ids == list(range(1, len(ids) + 1))
        assert set(model["labels"]) - {"background"} <= set(document["labels"])
        for value in model["config"].values():
            assert not isinstance(value, list) or all(isinstance(item, str) for item in value)


@pytest.mark.parametrize("labels", [{"a": None, "b": 1}, {"a": "x"}, {}, [None], 3])
def test_odd_labels_do_not_break_it(labels: object) -> None:
    assert all(isinstance(i, int) for i in contiguous(labels).values())
