"""An app without a server, built once a process."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from labelserver import settings as settings_module
from labelserver.app.label_app import LabelApp
from labelserver.app.loading import load_app


def app_instance(
    app_dir: str | None = None, studies: str | None = None, conf: dict[str, str] | None = None
) -> LabelApp:
    """The app of `app_dir` on `studies`; what is not given comes from the settings."""
    settings = settings_module.current()
    chosen = settings.conf if conf is None else conf
    return _built(str(app_dir or settings.app_dir), studies or settings.studies, tuple(sorted(chosen.items())))


@lru_cache(maxsize=8)
def _built(app_dir: str, studies: str, conf: tuple[tuple[str, str], ...]) -> LabelApp:
    return load_app(Path(app_dir), studies, dict(conf))


def clear_cache() -> None:
    """Forget the built apps."""
    _built.cache_clear()
