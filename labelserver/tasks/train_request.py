"""What a client may ask of a training, checked once at its beginning.

Text from a client becomes numbers, names and files that lie where they may. A file named by ``train_ds`` or ``val_ds``
(a JSON list of cases), and every image and label in such a list, must lie below the studies or the app folder: a
request can make the server read nothing else.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from labelserver.domain.errors import InvalidParams
from labelserver.settings import current
from labelserver.tasks.train_context import Case

_RUN_NAME = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.+ -]{0,63}$")
_TRUE = {"true", "yes", "y", "on", "1", "t"}


def run_name(request: Mapping[str, Any], default: str) -> str:
    """The run's folder below ``model_dir``. Raises `InvalidParams` for anything but one plain name."""
    name = str(request.get("name") or default)
    if not _RUN_NAME.match(name) or name.endswith((".", " ")):
        raise InvalidParams(f"The run name {name[:80]!r} is not allowed: use letters, digits, '_', '-' and '.'.")
    return name


def whole_number(request: Mapping[str, Any], key: str, default: int, *, least: int) -> int:
    """Raises `InvalidParams`."""
    value = request.get(key, default)
    try:
        number = int(value)
    except (TypeError, ValueError):
        raise InvalidParams(f"{key} must be a whole number, for example {default}; got {value!r}.") from None
    if number < least:
        raise InvalidParams(f"{key} must be at least {least}; got {number}.")
    return number


def positive(request: Mapping[str, Any], key: str, default: float) -> float:
    """A number above 0. Raises `InvalidParams`."""
    value = request.get(key, default)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (number > 0 and math.isfinite(number)):
        raise InvalidParams(f"{key} must be a number above 0, for example {default:g}; got {value!r}.")
    return number


def share(request: Mapping[str, Any], key: str, default: float) -> float:
    """A number below 1; what is negative means none. Raises `InvalidParams`."""
    value = request.get(key, default)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InvalidParams(f"{key} must be a number between 0 and 1, for example {default}; got {value!r}.") from None
    if not number < 1:
        raise InvalidParams(f"{key} must be less than 1, so that something is left to train on; got {number:g}.")
    return max(0.0, number)


def truth(request: Mapping[str, Any], key: str, default: bool) -> bool:
    """Clients send booleans, text or numbers."""
    value = request.get(key, default)
    return value.strip().lower() in _TRUE if isinstance(value, str) else bool(value)


def choice(request: Mapping[str, Any], key: str, default: str) -> str:
    """A list is an untouched drop-down: `default` then."""
    value = request.get(key)
    return str(value) if isinstance(value, str) and value else default


def allowed_roots(model_dir: str | Path) -> list[Path]:
    """Folders that a request's own lists may point into: models, app, studies, and labels kept elsewhere."""
    settings = current()
    further = [settings.app_dir, Path(settings.studies), settings.labels_dir]
    return [Path(model_dir), *(path for path in further if path is not None and path != Path())]


def listed_cases(value: Any, key: str, roots: Sequence[Path]) -> list[Case] | None:
    """The cases that a request names: a list, or the path of a JSON file with one; None if it names none.

    Raises:
        InvalidParams: no list of objects, or a file outside the `roots`.
    """
    if not value:
        return None
    if isinstance(value, str | PathLike):
        path = inside(Path(value), roots, key)
        try:
            value = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise InvalidParams(f"{key} names {path.name}, which is no readable JSON list of cases.") from error
    if not isinstance(value, list) or not all(isinstance(case, dict) for case in value):
        raise InvalidParams(
            f'{key} must be a list such as [{{"image": "a.nii.gz", "label": "labels/final/a.nii.gz"}}].'
        )
    return [{name: _placed(part, name, roots, key) for name, part in case.items()} for case in value]


def _placed(value: Any, name: str, roots: Sequence[Path], key: str) -> Any:
    return str(inside(Path(value), roots, key)) if name in ("image", "label") and isinstance(value, str) else value


def inside(path: Path, roots: Sequence[Path], key: str) -> Path:
    """The absolute path; a relative one is looked for below the roots. Raises `InvalidParams` if it leaves them."""
    homes = [root.resolve() for root in roots]
    candidates = [path] if path.is_absolute() else [home / path for home in homes]
    resolved = [candidate.resolve() for candidate in candidates]
    allowed = [found for found in resolved if any(found.is_relative_to(home) for home in homes)]
    if not allowed:
        raise InvalidParams(f"{key} names {path.name!r} outside the studies and the app folder; move it there.")
    return next((found for found in allowed if found.exists()), allowed[0])
