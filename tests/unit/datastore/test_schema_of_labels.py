"""Whatever order, numbers and gaps clients send, a name keeps its voxel value."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from labelserver.datastore.local import LocalDatastore
from labelserver.domain.errors import Conflict, UnknownLabelName
from labelserver.domain.ids import FINAL, ImageId
from labelserver.domain.labels import Numbering, Provenance, Revision
from labelserver.domain.schema import LabelSchema
from labelserver.imaging.seg_nrrd import read_seg_nrrd, write_seg_nrrd
from labelserver.imaging.volumes import read_volume, write_volume
from tests.support.study_folder import AFFINE, SHAPE, put_image, put_label

OpenStore = Callable[..., LocalDatastore]
A = ImageId("a")
ORGANS = ("spleen", "liver", "tumour")
STRICT = {"mode": "strict", "labels": [{"name": n, "value": v} for n, v in zip(ORGANS, (1, 10, 234), strict=True)]}


@pytest.fixture
def store(studies: Path, open_store: OpenStore) -> LocalDatastore:
    put_image(studies, "a.nii.gz")
    return open_store()


def save(
    store: LocalDatastore, folder: Path, blocks: Mapping[int, int], label_info: object, **options: object
) -> Revision:
    """Save a label; `blocks`: slice along i -> voxel value in it."""
    voxels = np.zeros(SHAPE, np.uint16 if max(blocks.values(), default=0) > 255 else np.uint8)
    for slice_i, value in blocks.items():
        voxels[slice_i] = value
    path = folder / "upload.nii.gz"
    write_volume(path, voxels, AFFINE, compress=True)
    info = {} if label_info is None else {"label_info": label_info}
    return store.accept_label(A, path, ".nii.gz", FINAL, Provenance(), info, **options)  # type: ignore[arg-type]


def stored_blocks(store: LocalDatastore) -> dict[int, int]:
    voxels = read_volume(Path(store.get_label_uri("a", "final"))).voxels
    return {i: int(voxels[i, 0, 0]) for i in range(SHAPE[0]) if voxels[i, 0, 0]}


def named(**idx: int) -> list[dict[str, object]]:
    return [{"name": name, "idx": value} for name, value in idx.items()]


SENT = {
    "as the schema": ({0: 1, 1: 10, 2: 234}, named(spleen=1, liver=10, tumour=234)),
    "contiguous": ({0: 1, 1: 2, 2: 3}, named(spleen=1, liver=2, tumour=3)),
    "another order": ({0: 3, 1: 1, 2: 2}, named(liver=1, tumour=2, spleen=3)),
    "entries out of order": ({0: 3, 1: 1, 2: 2}, named(spleen=3, liver=1, tumour=2)),
    "other gaps": ({0: 40, 1: 7, 2: 200}, named(liver=7, spleen=40, tumour=200)),
    "order of entries, idx of a longer list": ({0: 1, 1: 2, 2: 3}, named(spleen=2, liver=3, tumour=4)),
    "no idx": ({0: 1, 1: 2, 2: 3}, [{"name": n} for n in ORGANS]),
    "no idx and gaps": ({0: 5, 1: 20, 2: 99}, [{"name": n} for n in ORGANS]),
    "an empty segment": ({0: 1, 1: 2, 2: 4}, named(spleen=1, liver=2, empty_one=3, tumour=4)),
    "a background entry": ({0: 1, 1: 2, 2: 3}, [{"name": "background", "idx": 0}, *named(spleen=1, liver=2, tumour=3)]),
    "another spelling": ({0: 1, 1: 2, 2: 3}, named(SPLEEN=1, Liver=2, tumour=3)),
}


@pytest.mark.parametrize("how", list(SENT))
def test_names_in_any_order_and_numbering_store_the_same_values(
    how: str, store: LocalDatastore, tmp_path: Path
) -> None:
    store.set_schema(LabelSchema.from_json({**STRICT, "mode": "open"}))
    blocks, label_info = SENT[how]
    revision = save(store, tmp_path, blocks, label_info)
    assert stored_blocks(store) == {0: 1, 1: 10, 2: 234}
    stored = read_volume(Path(store.get_label_uri("a", "final"))).voxels
    mapping = revision.info.get("mapping", {str(v): v for v in blocks.values()})
    assert isinstance(mapping, dict)
    assert {i: mapping[str(v)] for i, v in blocks.items()} == {0: 1, 1: 10, 2: 234}
    assert stored.dtype == np.uint8
    segments = revision.info["segments"]
    assert isinstance(segments, list)
    assert {"id": "liver", "name": "liver", "value": 10} in segments
    assert revision.schema_version == store.schema().version


def test_r37_the_order_of_entries_is_believed_over_idx(store: LocalDatastore, tmp_path: Path) -> None:
    store.learn_labels(ORGANS)
    save(store, tmp_path, {0: 1, 1: 2}, named(liver=2, tumour=3))
    assert stored_blocks(store) == {0: 2, 1: 3}
    save(store, tmp_path, {0: 2}, named(liver=2, tumour=3))  # the first kept segment is empty
    assert stored_blocks(store) == {0: 3}


def test_an_empty_segment_moves_no_other(store: LocalDatastore, tmp_path: Path) -> None:
    store.set_schema(LabelSchema.from_json(STRICT))
    save(store, tmp_path, {0: 1, 2: 234}, named(spleen=1, liver=10, tumour=234))
    assert stored_blocks(store) == {0: 1, 2: 234}
    save(store, tmp_path, {0: 1, 2: 3}, named(spleen=1, liver=2, tumour=3))
    assert stored_blocks(store) == {0: 1, 2: 234}


def test_a_renamed_label_keeps_its_value_under_old_and_new_name(store: LocalDatastore, tmp_path: Path) -> None:
    store.set_schema(LabelSchema.from_json(STRICT))
    save(store, tmp_path, {1: 2}, named(spleen=1, liver=2))
    labels = [{**told, "name": "Liver parenchyma"} if told["name"] == "liver" else told for told in listed(store)]
    store.set_schema(LabelSchema.from_json({"mode": "strict", "labels": labels}))
    for name in ("liver", "Liver parenchyma"):
        save(store, tmp_path, {1: 1}, [{"name": name, "idx": 1}])
        assert stored_blocks(store) == {1: 10}


def listed(store: LocalDatastore) -> list[dict[str, object]]:
    labels = store.schema().to_json()["labels"]
    assert isinstance(labels, list)
    return labels


def test_a_segment_that_was_renamed_in_the_viewer_is_known_by_its_id(store: LocalDatastore, tmp_path: Path) -> None:
    store.learn_labels(ORGANS)
    save(store, tmp_path, {1: 1}, [{"id": "tumour", "name": "Tumour, necrotic"}])
    assert stored_blocks(store) == {1: 3}
    save(store, tmp_path, {1: 1}, [{"id": "Segment_1", "name": "duodenum"}])
    assert stored_blocks(store) == {1: 4}
    save(store, tmp_path, {1: 1}, [{"id": "Segment_1", "name": "colon"}])
    assert stored_blocks(store) == {1: 5}


def test_an_open_schema_grows_from_the_app_and_from_names(store: LocalDatastore, tmp_path: Path) -> None:
    store.learn_labels(["spleen", "liver"])
    save(store, tmp_path, {0: 1, 1: 2}, named(pancreas=1, liver=2))
    assert store.label_values() == {"spleen": 1, "liver": 2, "pancreas": 3}
    assert stored_blocks(store) == {0: 3, 1: 2}
    before = store.schema()
    store.learn_labels(["liver", "spleen"])
    assert store.schema() == before


def test_a_value_without_a_name_is_kept_and_named_later(store: LocalDatastore, tmp_path: Path) -> None:
    revision = save(store, tmp_path, {0: 1, 1: 7}, None)
    assert stored_blocks(store) == {0: 1, 1: 7}
    assert "mapping" not in revision.info
    assert store.label_values() == {"label_1": 1, "label_7": 7}
    store.learn_labels(["spleen"])
    assert store.label_values() == {"spleen": 1, "label_7": 7}


def test_the_value_that_means_not_annotated_is_never_stored(store: LocalDatastore, tmp_path: Path) -> None:
    revision = save(store, tmp_path, {0: 255}, None)
    assert stored_blocks(store) == {0: 1}
    assert revision.info["mapping"] == {"255": 1}
    save(store, tmp_path, {0: 255}, named(liver=255))
    assert stored_blocks(store) == {0: 2}


def test_values_beyond_8_bit_are_stored_in_16(store: LocalDatastore, tmp_path: Path) -> None:
    labels = [{"name": f"v{n}"} for n in range(1, 300)]
    store.set_schema(LabelSchema.from_json({"mode": "strict", "labels": labels}))
    values = store.label_values()
    assert (values["v254"], values["v255"], values["v299"]) == (254, 256, 300)
    save(store, tmp_path, {0: 1, 1: 2}, named(v254=1, v255=2))
    stored = read_volume(Path(store.get_label_uri("a", "final"))).voxels
    assert (stored.dtype, stored_blocks(store)) == (np.uint16, {0: 254, 1: 256})


def test_a_strict_schema_refuses_unknown_names_and_values_and_lists_the_allowed(
    store: LocalDatastore, tmp_path: Path
) -> None:
    store.set_schema(LabelSchema.from_json(STRICT))
    with pytest.raises(UnknownLabelName, match=r"'gallbladder'.*spleen, liver, tumour"):
        save(store, tmp_path, {0: 1}, named(gallbladder=1))
    with pytest.raises(UnknownLabelName, match=r"value 2.*1 \(spleen\), 10 \(liver\)"):
        save(store, tmp_path, {0: 2}, None)
    assert store.revisions(A, FINAL) == []
    assert store.schema().version == 1
    store.learn_labels(["gallbladder"])
    assert "gallbladder" not in store.label_values()


def test_contiguous_ids_of_old_clients_are_understood(store: LocalDatastore, tmp_path: Path) -> None:
    store.set_schema(LabelSchema.from_json(STRICT))
    save(store, tmp_path, {0: 1, 1: 2, 2: 3}, None, numbering=Numbering.CONTIGUOUS)
    assert stored_blocks(store) == {0: 1, 1: 10, 2: 234}
    save(store, tmp_path, {0: 1, 1: 10, 2: 234}, None, numbering=Numbering.CONTIGUOUS)
    assert stored_blocks(store) == {0: 1, 1: 10, 2: 234}


def test_a_model_label_is_stored_under_the_schemas_values(store: LocalDatastore, tmp_path: Path) -> None:
    store.set_schema(LabelSchema.from_json(STRICT))
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[0], voxels[1] = 1, 2
    write_volume(tmp_path / "m.nii.gz", voxels, AFFINE, compress=True)
    info = {"model": "seg", "params": {"label_names": {"liver": 1, "spleen": 2}}}
    store.save_label("a", str(tmp_path / "m.nii.gz"), "original", info)
    stored = read_volume(Path(store.get_label_uri("a", "original"))).voxels
    assert (set(stored[0].ravel()), set(stored[1].ravel())) == ({10}, {1})


def test_segments_of_a_single_layer_file_get_the_schemas_values(store: LocalDatastore, tmp_path: Path) -> None:
    store.set_schema(LabelSchema.from_json(STRICT))
    layers = np.zeros((2, *SHAPE), np.uint8)
    layers[0, 0], layers[1, 1] = 1, 1
    path = tmp_path / "l.seg.nrrd"
    write_seg_nrrd(path, layers, AFFINE, ["tumour", "liver"], [(1, 2, 3), (4, 5, 6)], compress=True)
    revision = store.accept_label(A, path, ".seg.nrrd", FINAL, Provenance(), {})
    stored = read_seg_nrrd(Path(store.get_label_uri("a", "final")))
    assert [(s.name, s.value, s.color) for s in stored.segments] == [
        ("tumour", 234, (1, 2, 3)),
        ("liver", 10, (4, 5, 6)),
    ]
    assert all(np.array_equal(stored.mask(n), layers[n] == 1) for n in range(2))
    assert revision.info["mapping"] == {"1": 234, "2": 10}


@pytest.mark.parametrize("overlapping", [True, False])
@pytest.mark.parametrize("names", [["\u809d\u81df", "\u813e\u810f", "\u80be"], ["a b", "a  b", "a_b"], ["", " ", "x"]])
def test_segments_with_odd_names_are_never_taken_for_one_another(
    names: list[str], overlapping: bool, store: LocalDatastore, tmp_path: Path
) -> None:
    layers = np.zeros((3, *SHAPE), np.uint8)
    for index in range(3):
        layers[index, index] = 1
    layers[:, 3] = overlapping
    path = tmp_path / "l.seg.nrrd"
    write_seg_nrrd(path, layers, AFFINE, names, [(1, 2, 3)] * 3, compress=True)
    revision = store.accept_label(A, path, ".seg.nrrd", FINAL, Provenance(), {})
    told = revision.info["segments"]
    assert len({segment["value"] for segment in told}) == 3, told  # type: ignore[index, union-attr]
    stored = read_seg_nrrd(Path(store.get_label_uri("a", "final")))
    assert all(np.array_equal(stored.mask(n), layers[n] == 1) for n in range(3))


def test_overlapping_layers_come_back_as_they_were_sent(store: LocalDatastore, tmp_path: Path) -> None:
    store.set_schema(LabelSchema.from_json(STRICT))
    layers = np.zeros((2, *SHAPE), np.uint8)
    layers[0, :3], layers[1, 2:] = 1, 1
    path = tmp_path / "l.seg.nrrd"
    write_seg_nrrd(path, layers, AFFINE, ["tumour", "liver"], [(1, 2, 3), (4, 5, 6)], compress=True)
    revision = store.accept_label(A, path, ".seg.nrrd", FINAL, Provenance(), {})
    assert store.revision_file(A, FINAL, 1).read_bytes() == path.read_bytes()
    assert revision.info["segments"] == [
        {"id": "tumour", "name": "tumour", "value": 234, "layer": 0, "layer_value": 1},
        {"id": "liver", "name": "liver", "value": 10, "layer": 1, "layer_value": 1},
    ]


def test_an_entry_in_use_keeps_its_value_and_stays(store: LocalDatastore, tmp_path: Path) -> None:
    first = store.set_schema(LabelSchema.from_json(STRICT))
    save(store, tmp_path, {0: 1}, named(spleen=1))
    moved = LabelSchema.from_json({"labels": [{"id": "spleen", "name": "spleen", "value": 2}]})
    with pytest.raises(Conflict, match="moved from value 1 to 2"):
        store.set_schema(moved)
    with pytest.raises(Conflict, match="left out"):
        store.set_schema(LabelSchema.from_json({"labels": [{"name": "liver", "value": 10}]}))
    kept = store.set_schema(LabelSchema.from_json({"labels": [{"name": "spleen", "value": 1}]}), based_on=first.version)
    assert (kept.version, kept.values()) == (2, {"spleen": 1})
    with pytest.raises(Conflict, match="version 2"):
        store.set_schema(kept, based_on=1)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"schema": {"labels": 3}}', None])
@pytest.mark.parametrize("versions_too", [False, True])
def test_a_lost_or_damaged_project_file_costs_no_meaning(
    damage: bytes | None,
    versions_too: bool,
    store: LocalDatastore,
    studies: Path,
    tmp_path: Path,
    open_store: OpenStore,
) -> None:
    store.set_schema(LabelSchema.from_json(STRICT))
    save(store, tmp_path, {0: 1, 1: 2, 2: 3}, named(spleen=1, liver=2, tumour=3))
    before = store.label_values()
    file = studies / ".labelserver/project.json"
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage)
    for version in (studies / ".labelserver/schemas").iterdir():
        if versions_too:
            version.write_bytes(b"noise")
    again = open_store()
    assert again.label_values() == before
    assert json.loads(file.read_bytes())["schema"]["labels"]
    assert [p.path for p in again.problems()] == [".labelserver/project.json"]
    if not versions_too:
        assert again.schema().mode.value == "strict"


def test_two_stores_on_one_folder_see_each_others_schema(
    store: LocalDatastore, open_store: OpenStore, tmp_path: Path
) -> None:
    other = open_store()
    store.learn_labels(["spleen"])
    other.learn_labels(["liver"])
    assert store.label_values() == other.label_values() == {"spleen": 1, "liver": 2}


def test_an_outside_edit_holds_the_schemas_values_whatever_the_client_had_sent(
    store: LocalDatastore, studies: Path, tmp_path: Path
) -> None:
    store.learn_labels(ORGANS)
    save(store, tmp_path, {0: 1, 1: 2}, named(liver=1, spleen=2))
    assert stored_blocks(store) == {0: 2, 1: 1}
    path = studies / "labels/final/a.nii.gz"
    voxels = read_volume(path).voxels.copy()
    voxels[2] = 2
    write_volume(path, voxels, AFFINE, compress=True)
    store.refresh()
    assert stored_blocks(store) == {0: 2, 1: 1, 2: 2}
    assert [r.number for r in store.revisions(A, FINAL)] == [1, 2]


def test_the_record_of_an_exported_label_is_believed_over_what_its_first_client_sent(
    store: LocalDatastore, tmp_path: Path
) -> None:
    store.learn_labels(ORGANS)
    first = save(store, tmp_path, {0: 1, 1: 2}, named(liver=1, spleen=2))
    content = store.revision_file(A, FINAL, 1)
    again = store.accept_label(A, content, ".nii.gz", FINAL, Provenance(), first.info)
    assert stored_blocks(store) == {0: 2, 1: 1}
    assert again.sha256 == first.sha256
    assert "mapping" not in again.info


@pytest.mark.parametrize("count", [1, 20])
def test_labels_of_a_peers_folder_are_read_by_the_names_in_its_index(
    count: int, studies: Path, open_store: OpenStore
) -> None:
    objects = {}
    for n in range(count):
        put_image(studies, f"c{n:02}.nii.gz")
        voxels = np.zeros(SHAPE, np.uint8)
        voxels[0] = 1
        (studies / "labels/final").mkdir(parents=True, exist_ok=True)
        write_volume(studies / f"labels/final/c{n:02}.nii.gz", voxels, AFFINE, compress=True)
        names = named(liver=1) if n % 2 else named(spleen=1)  # each label has its own numbering
        labels = {"final": {"ext": ".nii.gz", "info": {"label_info": names}}}
        objects[f"c{n:02}"] = {"image": {"ext": ".nii.gz", "info": {}}, "labels": labels}
    (studies / "datastore_v2.json").write_text(json.dumps({"objects": objects}))
    store = open_store()
    assert store.problems() == []
    values = store.label_values()
    for n in range(count):
        stored = read_volume(Path(store.get_label_uri(f"c{n:02}", "final"))).voxels
        assert set(stored[0].ravel()) == {values["liver" if n % 2 else "spleen"]}


def test_the_audit_log_tells_of_every_version_of_the_schema(
    open_store: OpenStore, studies: Path, tmp_path: Path
) -> None:
    put_image(studies, "a.nii.gz")
    store = open_store()
    store.learn_labels(["liver", "spleen"])
    store.learn_labels(["spleen"])
    store.save_label("a", str(put_label(tmp_path / "l.nii.gz")), "final", {"label_info": [{"name": "rib", "idx": 1}]})
    store.set_schema(store.schema(), person="Ada")
    told = [(e.act.action, e.act.person, e.act.detail) for e in store.audit_log(10)]
    assert [(action, person) for action, person, _ in told] == [("schema", ""), ("save", ""), ("schema", "Ada")]
    assert told[0][2]["names"] == ["liver", "spleen"]
    versions = [told[0][2]["version"], told[1][2]["schema"], told[2][2]["version"]]
    assert versions == sorted(set(versions))
    assert versions[-1] == store.schema().version


def test_a_first_schema_whose_writing_was_cut_off_is_finished_without_an_alarm(
    open_store: OpenStore, studies: Path, tmp_path: Path
) -> None:
    put_image(studies, "a.nii.gz")
    store = open_store()
    store.learn_labels(["liver"])
    store.close()
    (store.layout.state / "project.json").unlink()
    again = open_store()
    assert again.schema().values() == {"liver": 1}
    assert again.problems() == []
    again.save_label("a", str(put_label(tmp_path / "l.nii.gz")), "final", {})
    again.close()
    (store.layout.state / "project.json").unlink()
    third = open_store()
    assert third.schema().values() == {"liver": 1}
    assert ["lost" in p.reason for p in third.problems()] == [True]
