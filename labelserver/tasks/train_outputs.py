"""Output channels by name: a network that learns one more class keeps what it knows about the others.

The tensors of the last layers have as many rows (or columns) as there are classes. Where the new network has more, or
other, classes than the weights it starts from, the rows move to the channel that stands for the same class now, by the
schema's id where both know it, else by name. Rows of new classes stay as the new network began; they do not touch the
answers for the old ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from labelserver.domain.models import OutputLabel
from labelserver.tasks.base import Labels, numbered_labels

State = Mapping[str, torch.Tensor]

#: A bias that keeps a class from ever being the answer.
_NEVER = -1e4


def outputs_of(labels: Labels | str | None, schema_ids: Mapping[str, str]) -> tuple[OutputLabel, ...]:
    """The channels of a network for `labels`, in their order; channel 0 is background.

    Args:
        labels: of a trainer; the order of the values counts.
        schema_ids: name -> id in the project's schema.
    """
    numbered = sorted((value, name) for name, value in numbered_labels(labels).items() if value > 0)
    return tuple(
        OutputLabel(channel, name, schema_ids.get(name, "")) for channel, (_, name) in enumerate(numbered, start=1)
    )


def moved_channels(before: Sequence[OutputLabel], after: Sequence[OutputLabel]) -> dict[int, int]:
    """New channel -> old channel of the same class. Background stays; a class that is gone has no new channel."""
    by_id = {output.schema_id: output.channel for output in before if output.schema_id}
    by_name = {output.name: output.channel for output in before}
    moved = {0: 0}
    for output in after:
        old = by_id.get(output.schema_id) if output.schema_id else None
        old = by_name.get(output.name) if old is None else old
        if old is not None and old not in moved.values():
            moved[output.channel] = old
    return moved


def grown(
    state: State, own: State, before: Sequence[OutputLabel], after: Sequence[OutputLabel], *, never_new: bool = False
) -> dict[str, torch.Tensor]:
    """`state` in the shapes of `own`, as far as they differ by their classes alone.

    Args:
        state: the weights to start from.
        own: of the new network, as it begins.
        before: what the channels of `state` stand for.
        after: what those of `own` stand for.
        never_new: new classes are never the answer, so that the old weights can be measured as they are.

    Returns:
        The tensors that fit; names of other shapes are left out.
    """
    if not before or not after:
        return {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    channels = moved_channels(before, after)
    counts = (len(before) + 1, len(after) + 1)
    same = counts[0] == counts[1] and all(new == old for new, old in channels.items()) and len(channels) == counts[1]
    last = _last_names(own, counts[1])
    found: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if name not in own:
            continue
        if own[name].shape == value.shape and (same or counts[0] != counts[1] or name not in last):
            found[name] = value
        elif (fitted := _fitted(value, own[name], channels, counts)) is not None:
            found[name] = _silenced(name, fitted, channels, counts[1]) if never_new else fitted
    return found


def _last_names(own: State, classes: int) -> set[str]:
    """Parameters of the layers that give the classes: from the end back to what makes them of other channels."""
    last: set[str] = set()
    for name, value in reversed(list(own.items())):
        if not value.is_floating_point() or value.numel() == 1:
            continue
        sizes = value.shape[:2]
        if classes not in sizes:
            break
        last.add(name)
        if len(sizes) == 2 and sizes[0] != sizes[1]:
            break
    return last


def _fitted(
    value: torch.Tensor, wanted: torch.Tensor, channels: Mapping[int, int], counts: tuple[int, int]
) -> torch.Tensor | None:
    """`value` laid into a copy of `wanted`; None if the shapes differ by more than the classes."""
    if value.ndim != wanted.ndim:
        return None
    axes = []
    for axis, (old, new) in enumerate(zip(value.shape, wanted.shape, strict=True)):
        if (old, new) == counts and (old != new or axis < 2):
            axes.append(axis)
        elif old != new:
            return None
    if not axes:
        return None
    result = wanted.detach().clone()
    new_rows = torch.tensor(list(channels), dtype=torch.long)
    old_rows = torch.tensor(list(channels.values()), dtype=torch.long)
    if len(axes) == 1:
        result.index_copy_(axes[0], new_rows, value.index_select(axes[0], old_rows).to(result))
        return result
    # From classes to classes (rows and columns): a new class must not reach into the answers for the old ones.
    rows, columns = axes[0], axes[1]
    block = value.index_select(rows, old_rows).index_select(columns, old_rows).to(result)
    kept = result.index_select(rows, new_rows).zero_()
    kept.index_copy_(columns, new_rows, block)
    return result.index_copy_(rows, new_rows, kept)


def _silenced(name: str, value: torch.Tensor, channels: Mapping[int, int], count: int) -> torch.Tensor:
    """New classes get nothing from the layer and, where it has one, a bias far below all others."""
    fresh = [channel for channel in range(count) if channel not in channels]
    if not fresh:
        return value
    axis = next(axis for axis, size in enumerate(value.shape) if size == count)
    value.index_fill_(axis, torch.tensor(fresh), _NEVER if value.ndim == 1 and name.endswith("bias") else 0.0)
    return value


def counts_differ(before: Sequence[OutputLabel], after: Sequence[OutputLabel]) -> bool:
    """Whether weights for `before` have to be laid anew for `after`."""
    moved = moved_channels(before, after)
    return len(before) != len(after) or any(new != old for new, old in moved.items()) or len(moved) != len(after) + 1


def described(before: Sequence[OutputLabel], after: Sequence[OutputLabel]) -> str:
    """A sentence for people about what changed."""
    moved = moved_channels(before, after)
    added = [output.name for output in after if output.channel not in moved]
    gone = [output.name for output in before if output.channel not in moved.values()]
    parts = [f"new: {', '.join(added)}"] if added else []
    parts += [f"gone: {', '.join(gone)}"] if gone else []
    return f"The classes changed ({'; '.join(parts) or 'another order'}); what is known about the others is kept."


def as_state(network: Any) -> dict[str, torch.Tensor]:
    """The network's own tensors."""
    return {name: value for name, value in network.state_dict().items() if isinstance(value, torch.Tensor)}
