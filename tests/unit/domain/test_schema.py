"""The rules of a label schema, without a store."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelserver.domain.errors import InvalidParams, UnknownLabelName
from labelserver.domain.schema import (
    NOT_ANNOTATED,
    LabelSchema,
    NamedSegment,
    SchemaMode,
    app_label_names,
    channels_of_values,
)


@given(st.lists(st.tuples(st.text(min_size=1, max_size=8).filter(str.strip), st.integers(0, 300)), max_size=30))
def test_growing_never_moves_a_value_nor_gives_one_twice(segments: list[tuple[str, int]]) -> None:
    schema = LabelSchema()
    seen: dict[str, int] = {}
    for name, value in segments:
        schema, (entry,) = schema.resolved([NamedSegment(name, value=value)])
        assert seen.setdefault(entry.id, entry.value) == entry.value
        assert entry.value not in (0, NOT_ANNOTATED)
    values = [entry.value for entry in schema.entries]
    assert len(set(values)) == len(values) == len({entry.id for entry in schema.entries})
    assert values == sorted(values)
    assert LabelSchema.from_json(schema.to_json()).values() == schema.values()


@pytest.mark.parametrize("name", ["x" * 500, "\ud800", "\x00", "a\u0308", "Stra\u00dfe", "  liver  "])
def test_any_name_is_known_again_after_it_was_written_down(name: str) -> None:
    schema, (entry,) = LabelSchema().resolved([NamedSegment(name)])
    read = LabelSchema.from_json(json.loads(json.dumps(schema.to_json(), ensure_ascii=False).encode()))
    assert read.resolved([NamedSegment(name)]) == (read, [entry])


def test_a_strict_schema_learns_nothing() -> None:
    schema = LabelSchema.from_json({"mode": "strict", "labels": [{"name": "liver"}]})
    assert schema.resolved([NamedSegment("Liver")])[0] is schema
    with pytest.raises(UnknownLabelName, match="Allowed: liver"):
        schema.resolved([NamedSegment("spleen")])
    assert schema.mode is SchemaMode.STRICT


@pytest.mark.parametrize(
    "labels", [None, 3, [3], [{"name": ""}], [{"name": "a", "value": "1"}], [{"name": "a", "id": "/"}]]
)
def test_nonsense_is_refused_with_a_sentence(labels: object) -> None:
    with pytest.raises(InvalidParams, match=r"\w"):
        LabelSchema.from_json({"labels": labels})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("names", "stored", "channels"),
    [
        (["a", "b"], {}, {1: 1, 2: 2}),
        (["a", "b"], {"a": 1, "b": 2}, {1: 1, 2: 2}),
        (["a", "b"], {"b": 1, "a": 10, "c": 2}, {10: 1, 1: 2}),
        (["a", "b"], {"label_1": 1, "label_2": 2}, {1: 1, 2: 2}),
        (["a", "b"], {"c": 1, "B": 7}, {7: 2}),
    ],
)
def test_stored_values_become_a_models_channels(
    names: list[str], stored: dict[str, int], channels: dict[int, int]
) -> None:
    assert channels_of_values(names, stored) == channels


def test_an_apps_labels_come_before_those_of_its_models() -> None:
    info = {"labels": {"liver": 2, "spleen": 1, "background": 0}, "models": {"m": {"labels": ["vessel", "liver"]}}}
    assert app_label_names(info) == ["spleen", "liver", "vessel"]  # type: ignore[arg-type]
