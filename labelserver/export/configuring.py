"""Objects as MONAI configuration: each becomes ``{"_target_": class, argument: value}``, values become JSON.

What has no JSON form is written as an expression where its meaning is plain (a dtype, a named function of a library, a
small array). What cannot be written is refused with the name of the transform, the argument and what to do.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from types import BuiltinFunctionType, FunctionType
from typing import Any, Protocol

import monai
import numpy as np
import torch

from labelserver.domain.errors import InvalidParams
from labelserver.domain.json_types import JsonValue
from labelserver.export.recording import Recording, without_defaults

#: values of an array that are written out; more belong into the code or the weights
MAX_ARRAY = 4096
#: modules that an expression of MONAI's configuration knows without an import
_KNOWN = ("monai", "torch", "numpy")
_SPECIAL = ("$", "@", "%", "_")
#: where MONAI offers its classes under a short name
_SHORT = (
    monai.transforms,
    monai.inferers,
    monai.networks.nets,
    monai.data,
    monai.losses,
    monai.networks.blocks,
    torch,
    torch.nn,
    torch.nn.functional,
)


class CannotWrite(InvalidParams):
    """Something of a task that has no form as configuration."""


class CodeNames(Protocol):
    """Gives the name under which a class or function is found where the export runs."""

    def name_of(self, code: Any) -> str:
        """For example ``scripts.lib_windows.Clip``. Raises `CannotWrite`."""


class Configuration:
    """Writes objects. `references`: objects that stand elsewhere in the document, by the text that names them."""

    def __init__(self, recording: Recording, code: CodeNames) -> None:
        self._recording = recording
        self._code = code
        self._references: list[tuple[Any, str]] = []
        self.imports: set[str] = set()  #: import statements that expressions need

    def refer(self, value: Any, text: str) -> None:
        """From now on write `value` as `text`, for example ``@preprocessing``."""
        self._references.append((value, text))

    def component(self, value: Any, what: str) -> JsonValue:
        """`value`, which was built while recording, as a component.

        Args:
            value: a transform, an inferer, a network, a reader.
            what: says to a person which object it is.

        Raises:
            CannotWrite: it was built before, or one of its arguments has no JSON form.
        """
        if isinstance(value, FunctionType | BuiltinFunctionType):
            return self._named(value, what)
        built = self._recording.of(value)
        if built is None:
            raise CannotWrite(
                f"{what} was not built where the app says its transforms, so it is not known with which arguments. "
                "Build it in the method that returns it, or while the app is built."
            )
        target = self._code.name_of(type(value))
        named = without_defaults(type(value), built.named)
        arguments = {n: self._argument(n, part, f"{what}, argument {n}") for n, part in named.items()}
        if built.positional:
            parts = [self.value(part, f"{what}, argument {n}") for n, part in enumerate(built.positional, start=1)]
            called = self._imported(target)
            return {"_target_": f"$lambda parts, **named: {called}(*parts, **named)", "parts": parts, **arguments}
        return {"_target_": target, **arguments}

    def _argument(self, name: str, value: Any, where: str) -> JsonValue:
        if name == "device" and isinstance(value, str | torch.device):
            return "@device"
        return self.value(value, where)

    def value(self, value: Any, where: str) -> JsonValue:
        """`value` as JSON or as an expression. Raises `CannotWrite`."""
        for known, text in self._references:
            if known is value:
                return text
        plain = self._plain(value)
        if plain is not None or value is None:
            return plain
        if isinstance(value, Mapping):
            return self._table(value, where)
        if isinstance(value, list | tuple):
            return [self.value(part, where) for part in value]
        if isinstance(value, set | frozenset | range | slice):
            return f"${value!r}"
        if isinstance(value, functools.partial):
            return self._partial(value, where)
        if isinstance(value, FunctionType | BuiltinFunctionType | type | np.ufunc):
            return self._named(value, where)
        if self._recording.of(value) is not None:
            return self.component(value, f"{type(value).__name__} in {where}")
        raise CannotWrite(
            f"{where}: {type(value).__name__} cannot be written as configuration. Use numbers, texts, lists, or "
            "transforms; or move the step into a class of its own in a module of the app, which is then shipped."
        )

    def _plain(self, value: Any) -> JsonValue:
        """Values with one obvious form; None for all others."""
        found: JsonValue = None
        if isinstance(value, Enum):
            found = _text(value.value) if isinstance(value.value, str) else value.value
        elif isinstance(value, bool | int):
            found = value
        elif isinstance(value, np.bool_):
            found = bool(value)
        elif isinstance(value, float | np.floating):
            found = float(value) if math.isfinite(value) else f"$float('{float(value)}')"
        elif isinstance(value, np.integer):
            found = int(value)
        elif isinstance(value, str):
            found = _text(str(value))
        elif isinstance(value, torch.dtype):
            found = f"${value}"
        elif isinstance(value, np.dtype):
            found = f"$np.dtype('{value}')"
        elif isinstance(value, torch.device):
            found = "@device"
        elif isinstance(value, np.ndarray | torch.Tensor):
            found = _array(value)
        return found

    def _table(self, value: Mapping[Any, Any], where: str) -> JsonValue:
        if all(isinstance(name, str) and not name.startswith(_SPECIAL) for name in value):
            return {str(name): self.value(part, where) for name, part in value.items()}
        pairs = [(name, self._plain(part)) for name, part in value.items()]
        if any(not isinstance(name, str | int | float | bool) for name, _ in pairs):
            raise CannotWrite(f"{where}: a table with keys that are neither texts nor numbers cannot be written.")
        if any(written is None and part is not None for (_, written), part in zip(pairs, value.values(), strict=True)):
            raise CannotWrite(f"{where}: a table with numbers as keys may only hold numbers and texts.")
        return f"${dict(pairs)!r}"

    def _partial(self, value: functools.partial[Any], where: str) -> JsonValue:
        arguments = [*value.args, *value.keywords.values()]
        written = [self._plain(part) for part in arguments]
        if any(new is None and old is not None for new, old in zip(written, arguments, strict=True)):
            raise CannotWrite(f"{where}: a partial function whose arguments are neither numbers nor texts.")
        name = str(self._named(value.func, where))[1:]
        partial = self._imported("functools.partial")
        inner = [repr(part) for part in value.args] + [f"{n}={part!r}" for n, part in value.keywords.items()]
        return f"${partial}({', '.join([name, *inner])})"

    def _named(self, code: Callable[..., Any] | type, where: str) -> str:
        """A function or class that is found by its name."""
        qualified = getattr(code, "__qualname__", getattr(code, "__name__", ""))
        if "<lambda>" in qualified or "<locals>" in qualified:
            raise CannotWrite(
                f"{where}: a lambda, or a function inside another, has no name by which it is found again. Write it as "
                "a function of a module of the app; it is then shipped with the export."
            )
        return f"${self._imported(self._code.name_of(code))}"

    def _imported(self, name: str) -> str:
        """How an expression says the dotted `name`: MONAI binds each import under one plain word."""
        first, module, last = name.partition(".")[0], *name.rpartition(".")[::2]
        if first == "builtins":
            return last
        if first in _KNOWN:
            return name
        alias = name.replace(".", "_")
        self.imports.add(f"from {module} import {last} as {alias}")
        return alias


def short_name(code: Any) -> str:
    """The shortest public name of a class or function of a library."""
    name = getattr(code, "__name__", "")
    for module in _SHORT:
        if getattr(module, name, None) is code:
            return f"{module.__name__}.{name}"
    if isinstance(code, np.ufunc):
        return f"numpy.{name}"
    module_name = getattr(code, "__module__", None) or "builtins"
    return f"{module_name}.{getattr(code, '__qualname__', name)}"


def _text(value: str) -> str:
    """A text that the configuration would take for something else is written as an expression."""
    if not value.startswith(_SPECIAL[:3]):
        return value
    escaped = "".join(f"\\x{ord(sign):02x}" if sign in _SPECIAL else sign for sign in repr(value))
    return f"${escaped}"  # an expression, in which even a quoted @name would be taken for a reference


def _array(value: Any) -> str:
    tensor = isinstance(value, torch.Tensor)
    array = value.detach().cpu().numpy() if tensor else value
    if array.size > MAX_ARRAY or array.dtype.hasobject:
        raise CannotWrite(f"An array of {array.size} values is too large for a configuration.")
    listed: Sequence[Any] = array.tolist()
    return f"$torch.tensor({listed}, dtype={value.dtype})" if tensor else f"$np.array({listed}, dtype='{array.dtype}')"
