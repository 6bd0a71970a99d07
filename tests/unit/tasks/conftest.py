"""Fixtures of the tests of tasks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from labelserver.tasks import case_cache, kept_heads
from labelserver.tasks.prepared_images import shared


@pytest.fixture
def new_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is prepared; small images are made faster than read, and those of a test are younger than two seconds."""
    monkeypatch.setattr(kept_heads, "is_worth_reading", lambda made_s, size_bytes: True)
    monkeypatch.setattr(kept_heads, "_SETTLED_S", -1.0)
    monkeypatch.setattr(case_cache, "_SETTLED_S", -1.0)
    shared().clear()
    yield
    kept_heads.settle()
    shared().clear()
