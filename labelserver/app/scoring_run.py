"""All scoring methods of an app in one run: one process loads the app and the network once for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from labelserver.contracts.datastore import Datastore
from labelserver.contracts.progress import current_progress
from labelserver.domain.errors import LabelServerError, TaskFailed
from labelserver.tasks.base import ScoringMethod
from labelserver.tasks.budgets import Budget


def run_all(methods: Mapping[str, ScoringMethod], request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
    """Run one after the other until a stop is asked for or the budget is spent. One that fails keeps no other from it.

    Args:
        methods: of the app, in its order.
        request: goes to each; ``budget_s`` is for all of them together.
        datastore: where images and infos are.

    Returns:
        method -> what it said, or ``{"error": sentence}``.

    Raises:
        TaskFailed: none of them got anywhere.
    """
    budget, found, failed = Budget.of(request), {}, {}
    for name, method in methods.items():
        if current_progress().should_stop() or budget.is_spent():
            break
        current_progress().log(f"Scoring: {name}.")
        asked = {**deepcopy(dict(request)), "method": name, **budget.rest()}
        try:
            found[name] = method(asked, datastore) or {}
        except Exception as error:  # noqa: BLE001  the app's code; the others still have their turn
            message = error.message if isinstance(error, LabelServerError) else f"{type(error).__name__}: {error}"
            current_progress().log(f"{name} failed: {message}")
            failed[name] = message
    if failed and not found:
        raise TaskFailed(f"No scoring method got anywhere. The first one: {next(iter(failed.values()))}")
    return {**found, **{name: {"error": message} for name, message in failed.items()}}
