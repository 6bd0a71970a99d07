"""Which series of a study an application takes: rules as MONAI Deploy's series selector reads them, as JSON.

    {"selections": [{"name": "CT axial", "conditions": {
        "Modality": "(?i)^CT$", "ImageType": ["PRIMARY", "!SECONDARY"],
        "ImageOrientationPatient": "Axial", "SliceThickness": [2, ">"]}}]}

All conditions of a selection must hold; a series that any selection takes is taken, once. A key is a DICOM keyword,
looked up in the first instance; a keyword that is missing there does not match. What is expected:

- a text: equal without regard to case, or a regular expression found anywhere in the value, also without case;
- a number: equal; ``[low, high]`` both ends included; ``[number, op]`` with ``>``, ``>=``, ``<``, ``<=``, ``!=``; for a
  number in the image a text is a regular expression for all of its digits;
- several values: each term is part of the value's text, in lower case; a term that begins with ``!`` is not;
- ``{"equals": [...]}`` (ours): the values are exactly these;
- ``ImageOrientationPatient``: ``Axial``, ``Coronal`` or ``Sagittal``, by the main axis of the slices' normal.

An expectation that is empty (``""``, ``0``, ``null``) is not looked at. A selection without conditions is skipped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labelserver.domain.errors import InvalidParams

_POSITIONS = frozenset({"HFP", "HFS", "HFDL", "HFDR", "FFP", "FFS", "FFDL", "FFDR"})
_COMPARED = {
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    "!=": lambda a, b: a != b,
}
_VIEWS = ("sagittal", "coronal", "axial")  #: by the axis of LPS that the normal follows


@dataclass(frozen=True, slots=True)
class Selection:
    """A name and conditions, of which all must hold."""

    name: str
    conditions: Mapping[str, Any]  # Any: JSON, see above

    def takes(self, header: Any) -> bool:
        """`header`: the first instance of a series (a pydicom Dataset)."""
        return all(_holds(header, keyword, wanted) for keyword, wanted in self.conditions.items() if wanted)


@dataclass(frozen=True, slots=True)
class Rules:
    """Selections; none: every series is taken, under the name ""."""

    selections: tuple[Selection, ...] = ()
    given: bool = False

    def name_for(self, header: Any) -> str | None:
        """The name of the first selection that takes this series; None: it is not wanted."""
        if not self.given:
            return ""
        return next((s.name for s in self.selections if s.takes(header)), None)

    @classmethod
    def from_json(cls, document: Any) -> Rules:
        """None or {}: no rules. Raises `InvalidParams`."""
        if not document:
            return cls()
        listed = document.get("selections") if isinstance(document, Mapping) else None
        if not isinstance(listed, list) or not all(isinstance(item, Mapping) for item in listed):
            raise InvalidParams('Selection rules are an object with a list "selections" of objects.')
        selections = [_selection(item, number) for number, item in enumerate(listed, 1) if item.get("conditions")]
        return cls(tuple(selections), given=True)


def _selection(item: Mapping[str, Any], number: int) -> Selection:
    conditions = item["conditions"]
    if not isinstance(conditions, Mapping):
        raise InvalidParams(f'The "conditions" of selection {number} must be an object of DICOM keywords.')
    for keyword, wanted in conditions.items():
        for text in [wanted] if isinstance(wanted, str) else []:
            try:
                re.compile(text)
            except re.error as error:
                raise InvalidParams(f"{keyword}: {text!r} is no regular expression ({error}).") from error
    return Selection(str(item.get("name") or f"selection {number}"), dict(conditions))


def _holds(header: Any, keyword: str, wanted: Any) -> bool:
    value = header.get(keyword)
    if value is None:
        return False
    if keyword == "ImageOrientationPatient" and not isinstance(wanted, Mapping):
        return _view(header, value) == str(wanted).lower()
    if isinstance(wanted, Mapping):
        return _texts(value) == [str(part) for part in _listed(wanted.get("equals"))]
    if not isinstance(value, str | bytes) and isinstance(value, Sequence):
        return _has_terms(str(list(value)).lower(), _listed(wanted))
    number = _number(value)
    if number is not None:
        return _number_holds(number, wanted, str(value))
    text = str(value).strip()
    return any(text.lower() == str(term).lower() or _found(str(term), text) for term in _listed(wanted))


def _number_holds(number: float, wanted: Any, text: str) -> bool:
    if isinstance(wanted, str):
        return text.lower() == wanted.lower() or re.fullmatch(wanted, text, re.IGNORECASE) is not None
    if isinstance(wanted, list) and len(wanted) == 2 and isinstance(wanted[1], str):
        return wanted[1] in _COMPARED and bool(_COMPARED[wanted[1]](number, float(wanted[0])))
    if isinstance(wanted, list) and len(wanted) == 2:
        return float(wanted[0]) <= number <= float(wanted[1])
    return bool(number == float(wanted)) if isinstance(wanted, int | float) else False


def _has_terms(text: str, terms: Sequence[Any]) -> bool:
    lowered = [str(term).lower() for term in terms]
    absent = [term[1:] for term in lowered if term.startswith("!")]
    return all(term in text for term in lowered if not term.startswith("!")) and not any(t in text for t in absent)


def _found(pattern: str, text: str) -> bool:
    return re.search(pattern, text, re.IGNORECASE) is not None


def _number(value: Any) -> float | None:
    """A number of the image (IS, DS, US, ...); a text that looks like one is a text."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _listed(wanted: Any) -> Sequence[Any]:
    return wanted if isinstance(wanted, list | tuple) else [wanted]


def _texts(value: Any) -> list[str]:
    several = not isinstance(value, str | bytes) and isinstance(value, Sequence)
    return [str(part) for part in value] if several else [str(value)]


def _view(header: Any, value: Any) -> str:
    """Raises `InvalidParams` where the image does not say how the patient lay, as a view then has no name."""
    position = str(header.get("PatientPosition", "")).strip()
    if position not in _POSITIONS:
        raise InvalidParams(
            f"A rule asks for a view, but the image's PatientPosition is {position!r}; known are {sorted(_POSITIONS)}."
        )
    cosines = np.array([float(v) for v in value]).reshape(2, 3)
    return _VIEWS[int(np.argmax(np.abs(np.cross(*cosines))))]
