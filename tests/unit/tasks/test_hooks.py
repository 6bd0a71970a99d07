"""Hooks with fewer arguments than offered are called with what they take."""

from __future__ import annotations

from functools import partial
from typing import Any

from labelserver.tasks.hooks import call_hook


class Hooks:
    def none(self) -> str:
        return "none"

    def one(self, context: Any) -> Any:
        return context

    def optional(self, data: Any = None) -> Any:
        return data

    def keyword(self, context: Any, *, num_workers: int = 0) -> tuple[Any, int]:
        return context, num_workers

    def several(self, *args: Any) -> tuple[Any, ...]:
        return args

    @staticmethod
    def static(context: Any) -> Any:
        return context

    @classmethod
    def of_class(cls, context: Any) -> Any:
        return context


def test_a_hook_gets_as_many_arguments_as_it_takes() -> None:
    hooks = Hooks()
    assert call_hook(hooks.none, 1, 2) == "none"
    assert call_hook(hooks.one, 1, 2) == 1
    assert call_hook(hooks.optional, 1) == 1
    assert call_hook(hooks.keyword, 1, 2) == (1, 0)
    assert call_hook(hooks.several, 1, 2) == (1, 2)
    assert call_hook(hooks.static, 1, 2) == 1
    assert call_hook(hooks.of_class, 1, 2) == 1
    assert call_hook(partial(hooks.keyword, 5), 1) == (5, 0)


def test_a_hook_that_was_replaced_on_the_instance_still_works() -> None:
    hooks = Hooks()
    hooks.one = lambda: "changed"  # type: ignore[method-assign, assignment, misc]
    assert call_hook(hooks.one, 1) == "changed"


def test_a_builtin_without_signature_gets_all_arguments() -> None:
    assert call_hook(dict.fromkeys, ["a"], 1) == {"a": 1}
