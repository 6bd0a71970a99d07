"""Where the time of an inference went, as the header ``Server-Timing`` (W3C Server Timing), in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping

from labelserver.domain.json_types import JsonValue


def server_timing(latencies: JsonValue, waited_s: float) -> str:
    """The stages queue, load, pre, forward, post, encode and total.

    Args:
        latencies: what a task answers about itself, in seconds: pre, infer, invert, post, write, total, and under
            ``transform`` the time of each transform by stage. A task that tells nothing counts as forward.
        waited_s: seconds from handing the request to the engine to its answer.
    """
    told = latencies if isinstance(latencies, Mapping) else {}
    pre, load = _seconds(told, "pre"), _loading(told)
    worked = _seconds(told, "total") or waited_s
    stages = {
        "queue": max(waited_s - worked, 0.0),
        "load": load,
        "pre": max(pre - load, 0.0),
        "forward": _seconds(told, "infer") if told else worked,
        "post": _seconds(told, "invert") + _seconds(told, "post"),
        "encode": _seconds(told, "write"),
        "total": waited_s,
    }
    return ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in stages.items())


def _seconds(table: Mapping[str, JsonValue], name: str) -> float:
    value = table.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def _loading(told: Mapping[str, JsonValue]) -> float:
    """Reading the image: the pre transforms whose class says that they load."""
    stages = told.get("transform")
    steps = stages.get("pre") if isinstance(stages, Mapping) else None
    if not isinstance(steps, Mapping):
        return 0.0
    return sum(_seconds(steps, name) for name in steps if str(name).startswith("Load"))
