"""Uploads: taken over, found again, ended; and archives that mean harm."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from labelserver.datastore.uploads import Upload, UploadStore
from labelserver.domain.errors import InvalidId, TooLarge, UnreadableFile, UploadNotFound


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> UploadStore:
    return UploadStore(tmp_path / "uploads", 3600, 10_000, clock)


def spooled(folder: Path, name: str, data: bytes = b"voxels") -> tuple[Path, str]:
    path = folder / f"spooled-{len(list(folder.iterdir()))}"
    path.write_bytes(data)
    return path, name


def archive(folder: Path, kind: str, names: list[str], data: bytes = b"slice") -> tuple[Path, str]:
    path = folder / f"archive.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as packed:
            for name in names:
                packed.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz") as tar:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path, path.name


def test_one_file_becomes_the_image_and_keeps_only_its_extension(store: UploadStore, tmp_path: Path) -> None:
    upload = store.add([spooled(tmp_path, "../../etc/scan.nii.gz")])
    assert upload.image.name == "000000.nii.gz"
    assert upload.image.read_bytes() == b"voxels"
    assert not list(tmp_path.glob("spooled-*"))


def test_several_files_become_a_folder(store: UploadStore, tmp_path: Path) -> None:
    upload = store.add([spooled(tmp_path, f"slice{n}.dcm") for n in range(3)])
    assert upload.image.is_dir()
    assert len(list(upload.image.iterdir())) == 3


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_is_unpacked_under_names_of_ours(store: UploadStore, tmp_path: Path, kind: str) -> None:
    upload = store.add([archive(tmp_path, kind, ["../../evil.dcm", "/abs/a.dcm", "b/b.dcm"])], uncompress=True)
    assert sorted(p.name for p in upload.image.iterdir()) == ["000000.dcm", "000001.dcm", "000002.dcm"]
    assert not list(tmp_path.parent.rglob("evil.dcm"))
    assert not (tmp_path / f"archive.{kind}").exists()


def test_links_in_archives_are_refused_and_nothing_stays(store: UploadStore, tmp_path: Path) -> None:
    path = tmp_path / "links.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("passwd.dcm")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(UnreadableFile, match="link"):
        store.add([(path, "links.tar")], uncompress=True)
    assert not list((tmp_path / "uploads").iterdir())


def test_a_zip_with_a_symbolic_link_is_refused(store: UploadStore, tmp_path: Path) -> None:
    path = tmp_path / "links.zip"
    with zipfile.ZipFile(path, "w") as packed:
        member = zipfile.ZipInfo("passwd.dcm")
        member.external_attr = 0o120777 << 16
        packed.writestr(member, "/etc/passwd")
    with pytest.raises(UnreadableFile, match="link"):
        store.add([(path, "links.zip")], uncompress=True)


def test_an_archive_may_not_unpack_to_more_than_allowed(store: UploadStore, tmp_path: Path) -> None:
    with pytest.raises(TooLarge, match="unpacks"):
        store.add([archive(tmp_path, "zip", ["a.dcm", "b.dcm"], b"\0" * 6_000)], uncompress=True)
    assert not list((tmp_path / "uploads").iterdir())


@pytest.mark.parametrize("data", [b"no archive", b"PK\x03\x04 cut", b""])
def test_what_is_no_archive_is_refused(store: UploadStore, tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UnreadableFile):
        store.add([spooled(tmp_path, "a.zip", data)], uncompress=True)


def test_use_puts_off_the_end_and_disuse_brings_it(store: UploadStore, tmp_path: Path, clock: Clock) -> None:
    upload = store.add([spooled(tmp_path, "a.nii.gz")], expiry_s=100)
    clock.now += 90
    store.get(upload.upload_id)
    clock.now += 90
    assert store.get(upload.upload_id, use=False).expires_ts == pytest.approx(clock.now + 10)
    clock.now += 20
    with pytest.raises(UploadNotFound) as caught:
        store.get(upload.upload_id)
    assert caught.value.fields["expired"] is True


def test_an_asked_expiry_is_capped_by_the_servers(store: UploadStore, tmp_path: Path) -> None:
    assert store.add([spooled(tmp_path, "a.nii.gz")], expiry_s=10**9).expiry_s == 3600
    assert store.add([spooled(tmp_path, "a.nii.gz")], expiry_s=0).expiry_s == 3600
    assert store.add([spooled(tmp_path, "a.nii.gz")], expiry_s=30).expiry_s == 30


def test_cleaning_up_keeps_a_memory_of_what_expired(store: UploadStore, tmp_path: Path, clock: Clock) -> None:
    old = store.add([spooled(tmp_path, "a.nii.gz")], expiry_s=10)
    clock.now += 60
    new = store.add([spooled(tmp_path, "b.nii.gz")])
    assert store.remove_expired() == 1
    assert store.get(new.upload_id).upload_id == new.upload_id
    with pytest.raises(UploadNotFound) as caught:
        store.get(old.upload_id)
    assert caught.value.fields["expired"] is True


def test_a_removed_or_foreign_id_was_never_there(store: UploadStore, tmp_path: Path) -> None:
    upload = store.add([spooled(tmp_path, "a.nii.gz")])
    store.remove(upload.upload_id)
    for upload_id in (upload.upload_id, "00000000-0000-4000-8000-000000000000"):
        with pytest.raises(UploadNotFound) as caught:
            store.get(upload_id)
        assert caught.value.fields["expired"] is False


@pytest.mark.parametrize("text", ["", "..", "../x", "a/b", "00000000-0000-4000-8000-00000000000/"])
def test_ids_are_uuids_alone(store: UploadStore, text: str) -> None:
    with pytest.raises(InvalidId):
        store.get(text)


def test_an_upload_is_found_again_after_a_restart(store: UploadStore, tmp_path: Path, clock: Clock) -> None:
    upload = store.add([spooled(tmp_path, "a.nii.gz")])
    again: Upload = UploadStore(tmp_path / "uploads", 3600, 10_000, clock).get(upload.upload_id, use=False)
    assert again == upload


def test_the_servers_folders_are_not_told(store: UploadStore, tmp_path: Path) -> None:
    assert str(tmp_path) not in str(store.add([spooled(tmp_path, "a.nii.gz")]).to_json())
