"""``--conf KEY VALUE``: the one option with two words.

The peer's command line takes it in this form, any number of times; typer knows no repeated pairs. So the words are
joined to ``--conf=KEY=VALUE`` before typer sees them, and taken apart after.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from labelserver.cli.failing import CommandFailed

OPTIONS = ("-c", "--conf")


def join_pairs(words: Sequence[str]) -> list[str]:
    """The command line with each ``--conf KEY VALUE`` as one word; ``--conf KEY=VALUE`` stays one.

    Raises:
        CommandFailed: a key without a value.
    """
    joined: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            return [*joined, word, *rest]
        if word not in OPTIONS:
            joined.append(word)
            continue
        key = next(rest, "")
        if "=" in key:
            joined.append(f"--conf={key}")
            continue
        value = next(rest, None)
        if not key or key.startswith("-") or value is None:
            raise CommandFailed(f"{word} takes two words, for example: {word} models segmentation", 2)
        joined.append(f"--conf={key}={value}")
    return joined


def split_pairs(pairs: Iterable[str]) -> dict[str, str]:
    """``["models=a", ...]`` as a dict; a later value replaces an earlier one. Raises `CommandFailed`."""
    result = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise CommandFailed(f"--conf takes KEY VALUE, not {pair!r}", 2)
        result[key] = value
    return result
