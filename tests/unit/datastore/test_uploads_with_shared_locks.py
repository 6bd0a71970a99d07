"""Images share lock files by hash; an upload whose two locks are one file must not wait for itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from labelserver.datastore.local import LocalDatastore
from labelserver.storage.locks import all_exclusive
from tests.support.study_folder import put_image

OpenStore = Callable[..., LocalDatastore]


@pytest.mark.timeout(20)
def test_an_upload_whose_path_and_id_share_a_lock_is_stored(
    studies: Path, open_store: OpenStore, tmp_path: Path
) -> None:
    store = open_store()
    put_image(tmp_path, "new.nii.gz")
    lock = store._layout.image_lock
    name = next(f"i{n}" for n in range(10_000) if lock(f"i{n}") == lock(f"path i{n}.nii.gz"))
    assert store.add_image(name, str(tmp_path / "new.nii.gz"), {}) == name
    assert name in store.list_images()


@pytest.mark.timeout(20)
def test_locks_taken_together_are_each_taken_once(tmp_path: Path) -> None:
    with all_exclusive(tmp_path / "a", tmp_path / "b", tmp_path / "a"):
        pass
    with all_exclusive(tmp_path / "b", tmp_path / "a"):
        pass
