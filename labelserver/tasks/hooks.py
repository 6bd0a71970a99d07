"""Call a hook with as many arguments as its author wrote: old apps leave the last ones out.

``def val_inferer(self)`` and ``def val_inferer(self, context)`` are both accepted. Torch-free.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

_VARIABLE = 1_000  #: a hook with *args takes whatever is offered


def call_hook(hook: Callable[..., Any], *args: Any) -> Any:
    """Call the bound method `hook` with the leading `args` that its signature takes."""
    return hook(*args[: _capacity(hook)])


def _capacity(hook: Callable[..., Any]) -> int:
    """How many positional arguments a call of `hook` may pass (a bound method's self not counted)."""
    function = getattr(hook, "__func__", None)
    if function is None:
        return _positional(hook)
    return max(0, _positional_of_function(function) - 1)


@lru_cache(maxsize=512)
def _positional_of_function(function: Callable[..., Any]) -> int:
    """Cached, because infer hooks run at every click; functions are few and live as long as their app."""
    return _positional(function)


def _positional(function: Callable[..., Any]) -> int:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return _VARIABLE
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        return _VARIABLE
    return sum(
        p.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for p in parameters
    )
