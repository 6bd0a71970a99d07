"""The Python client against the real application: labels with history, drafts, schema, pages, restoring."""

from __future__ import annotations

from pathlib import Path

import httpx
import nibabel as nib
import numpy as np
import pytest

from labelserver.client import NO_LABEL, Conflict, LabelServerClient, NothingThere
from tests.api.conftest import SHAPE, World, label_bytes, nifti
from tests.support.in_process import InProcess


class ThroughTheApplication(httpx.BaseTransport):
    """Hands a client's requests to an application in this process."""

    def __init__(self, http: InProcess) -> None:
        self._http = http

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._http.request(
            request.method, str(request.url), content=request.read(), headers=dict(request.headers)
        )
        headers = {k: v for k, v in answer.headers.items() if k.lower() != "content-encoding"}
        return httpx.Response(answer.status_code, headers=headers, content=answer.content)


def client_of(world: World, person: str) -> LabelServerClient:
    return LabelServerClient("http://127.0.0.1:8000", person=person, transport=ThroughTheApplication(world.http))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "label.nii.gz"
    path.write_bytes(label_bytes(tmp_path))
    return path


LIVER = {"label_info": [{"name": "liver", "idx": 1}]}


def test_a_label_is_changed_only_by_who_has_seen_the_newest(world: World, file: Path, tmp_path: Path) -> None:
    with client_of(world, "Ada") as ada, client_of(world, "Bob") as bob:
        first = ada.save_revision("ct_1", file, params=LIVER, if_match=NO_LABEL)
        assert (first.number, first.author, first.annotated.labels) == (1, "Ada", None)
        seen = bob.fetch_label("ct_1")
        assert seen.etag == first.etag
        assert seen.file.read_bytes() == file.read_bytes()
        second = ada.save_revision("ct_1", nifti(tmp_path / "n.nii.gz", np.ones(SHAPE, np.uint8)), params=LIVER)
        with pytest.raises(Conflict) as told:
            bob.save_revision("ct_1", file, params=LIVER, if_match=seen.etag)
        assert (told.value.status, told.value.newest, told.value.author) == (412, 2, "Ada")
        assert told.value.etag == second.etag
        with pytest.raises(Conflict):
            bob.save_revision("ct_1", file, if_match=NO_LABEL)
        assert bob.save_revision("ct_1", file, params=LIVER, if_match=told.value.etag).number == 3


def test_a_label_is_removed_only_by_who_has_seen_the_newest(world: World, file: Path, tmp_path: Path) -> None:
    with client_of(world, "Ada") as ada, client_of(world, "Bob") as bob:
        seen = bob.save_revision("ct_1", file, params=LIVER)
        newest = ada.save_revision("ct_1", nifti(tmp_path / "n.nii.gz", np.ones(SHAPE, np.uint8)), params=LIVER)
        with pytest.raises(Conflict) as told:
            bob.remove_label("ct_1", if_match=seen.etag)
        assert told.value.status == 412
        assert bob.fetch_label("ct_1").etag == newest.etag, "nothing was removed"
        bob.remove_label("ct_1", if_match=newest.etag)
        with pytest.raises(NothingThere):
            bob.fetch_label("ct_1")
        ada.save_revision("ct_1", file, params=LIVER)
        ada.remove_label("ct_1")
        with pytest.raises(NothingThere):
            ada.fetch_label("ct_1")


def test_history_is_listed_fetched_compared_and_restored(world: World, file: Path, tmp_path: Path) -> None:
    with client_of(world, "Ada") as ada:
        ada.save_revision("ct_1", file, params=LIVER)
        ada.save_revision("ct_1", nifti(tmp_path / "n.nii.gz", np.ones(SHAPE, np.uint8)), params=LIVER)
        assert [r.number for r in ada.label_history("ct_1")] == [1, 2]
        assert ada.fetch_revision("ct_1", 1).file.read_bytes() == file.read_bytes()
        diff = ada.diff_revisions("ct_1")
        assert (diff.before, diff.after, diff.labels[0].added) == (1, 2, int(np.prod(SHAPE)) - 1)
        restored = ada.restore_revision("ct_1", 1, if_match=ada.label_revision("ct_1", 2).etag)
        assert (restored.number, restored.current) == (3, True)
        with pytest.raises(Conflict):
            ada.restore_revision("ct_1", 1, if_match='"nothing"')
        assert ada.diff_revisions("ct_1", 1, 3).changed_voxels == 0


def test_what_was_annotated_goes_and_comes(world: World, file: Path) -> None:
    with client_of(world, "Ada") as ada:
        region = {"kind": "boxes", "boxes": [[[0, 0, 0], [2, 2, 2]]]}
        saved = ada.save_revision("ct_1", file, params=LIVER, annotated={"labels": ["liver"], "region": region})
        assert (saved.annotated.labels, saved.annotated.region) == (["liver"], region)
        mask = np.asarray(nib.load(ada.fetch_annotated("ct_1")).dataobj)
        assert mask.sum() == 8
        again = ada.save_revision("ct_1", file, params=LIVER, annotated_mask=ada.fetch_annotated("ct_1", 1))
        assert again.annotated.region == region


def test_drafts_are_kept_fetched_and_dropped(world: World, file: Path) -> None:
    with client_of(world, "Ada") as ada, client_of(world, "Bob") as bob:
        assert ada.save_draft("ct_1", file, params={"slice": 3}).info == {"slice": 3}
        assert ada.draft("ct_1").size_bytes == file.stat().st_size
        assert ada.fetch_draft("ct_1").read_bytes() == file.read_bytes()
        with pytest.raises(NothingThere):
            bob.draft("ct_1")
        ada.drop_draft("ct_1")
        ada.drop_draft("ct_1")
        with pytest.raises(NothingThere):
            ada.draft("ct_1")
        assert ada.label_history("ct_1") == []


def test_the_schema_is_read_and_changed_by_who_knows_its_version(world: World) -> None:
    with client_of(world, "Ada") as ada:
        before = ada.schema()
        labels = [*before.labels, {"name": "tumour", "value": 200, "term": TERM}]
        after = ada.set_schema(labels, mode="strict", based_on=before.version)
        assert (after.version, after.mode, after.labels[-1].value) == (before.version + 1, "strict", 200)
        assert after.labels[-1].term is not None
        with pytest.raises(Conflict):
            ada.set_schema(labels, based_on=before.version)


TERM = {"scheme": "SCT", "value": "108369006", "meaning": "Neoplasm"}


def test_images_come_page_by_page_and_back_from_removal(world: World, file: Path) -> None:
    with client_of(world, "Ada") as ada:
        ada.save_revision("ct_2", file, params=LIVER)
        assert ada.image_page(limit=1).next is not None
        assert [image.id for image in ada.images(limit=1)] == ["ct_1", "ct_2"]
        assert [image.id for image in ada.images(state="labeled")] == ["ct_2"]
        ada.remove_image("ct_2")
        assert [image.id for image in ada.images()] == ["ct_1"]
        assert ada.restore_image("ct_2").tags == ["final"]
        assert [image.labels for image in ada.images(state="labeled")] == [["final"]]
        with pytest.raises(Conflict):
            ada.restore_image("ct_2")
