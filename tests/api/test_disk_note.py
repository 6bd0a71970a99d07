"""``/info/`` warns of a disk that is nearly full."""

from __future__ import annotations

import pytest

from tests.api.conftest import World


def test_info_notes_a_nearly_full_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labelserver.storage.space.LOW_SHARE", 0.0)
    assert not [note for note in world.http.get("/info/").json()["notes"] if "prune" in note]
    monkeypatch.setattr("labelserver.storage.space.LOW_SHARE", 1.1)
    notes = world.http.get("/info/").json()["notes"]
    assert [note for note in notes if "nearly full" in note]
