"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from labelserver import settings
from labelserver.datastore import sides
from tests.support.split_key import PROJECT_KEY


def pytest_make_parametrize_id(val: object) -> str | None:
    """Bytes are named by their number: what is in them (a time, say) may differ from one process to the next."""
    return f"{len(val)}_bytes" if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real CT images; the test is skipped, visibly, where there is none."""
    folder = os.environ.get("LABELSERVER_TEST_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("LABELSERVER_TEST_DATA does not name a folder with the real images")
    return Path(folder)


@pytest.fixture(autouse=True)
def _no_settings_of_an_earlier_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """A door that ran inside the test process has installed its settings for good; each test begins without any."""
    monkeypatch.setattr(settings, "_installed", None)


@pytest.fixture(autouse=True, scope="session")
def _one_key_for_all_projects() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sides, "new_key", lambda: PROJECT_KEY)
        yield
