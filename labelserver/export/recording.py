"""Remember with which arguments objects are built, so that they can be written down as configuration.

Transforms, inferers and networks do not keep what they were given. While `recorded` is active, every ``__init__`` that
starts in this thread leaves its arguments here, whatever library the class is from; nothing is patched. The first frame
of an object is that of its own class, so arguments that a class passes on to its base are not mistaken for its own.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Built:
    """How an object was built: ``cls(*positional, **named)``."""

    made: Any  #: the object, kept so that its id is not given to another
    positional: tuple[Any, ...]  #: of ``*args``
    named: dict[str, Any]


class Recording:
    """What was built while recording."""

    def __init__(self) -> None:
        self._built: dict[int, Built] = {}

    def of(self, value: object) -> Built | None:
        """How `value` was built; None if that was not seen."""
        found = self._built.get(id(value))
        return found if found is not None and found.made is value else None

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event != "call" or code.co_name != "__init__" or not code.co_argcount:
            return
        values = frame.f_locals
        made = values.get(code.co_varnames[0])
        if made is None or id(made) in self._built or isinstance(made, torch.Tensor):
            return
        names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
        named = {name: _kept(values[name]) for name in names if name in values}
        position = code.co_argcount + code.co_kwonlyargcount
        positional: tuple[Any, ...] = ()
        if code.co_flags & inspect.CO_VARARGS:
            positional = tuple(values.get(code.co_varnames[position], ()))
            position += 1
        if code.co_flags & inspect.CO_VARKEYWORDS:
            named |= dict(values.get(code.co_varnames[position], {}))
        self._built[id(made)] = Built(made, positional, named)


def _kept(value: Any) -> Any:
    """The argument as it is now: a list or dict may be changed by the class that was given it."""
    if type(value) is list:
        return list(value)
    return dict(value) if type(value) is dict else value


@contextmanager
def recorded(recording: Recording | None = None) -> Iterator[Recording]:
    """Record what is built inside the block, in this thread."""
    found = recording or Recording()
    before = sys.getprofile()
    sys.setprofile(found._note)
    try:
        yield found
    finally:
        sys.setprofile(before)


def without_defaults(cls: type, named: Mapping[str, Any]) -> dict[str, Any]:
    """`named` without what the class would take anyway."""
    parameters = inspect.signature(cls).parameters
    return {name: value for name, value in named.items() if not _is_default(parameters.get(name), value)}


def _is_default(parameter: inspect.Parameter | None, value: Any) -> bool:
    if parameter is None or parameter.default is inspect.Parameter.empty:
        return False
    default = parameter.default
    if value is default:
        return True
    return type(value) is type(default) and isinstance(value, str | int | float | bool | tuple) and value == default
