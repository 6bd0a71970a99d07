"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real CT images; the test is skipped, visibly, where there is none."""
    folder = os.environ.get("LABELSERVER_TEST_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("LABELSERVER_TEST_DATA does not name a folder with the real images")
    return Path(folder)
