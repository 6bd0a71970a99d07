"""Data sets of other tools come in and go out: a look first, then exactly what was seen; snapshots keep their hash."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from labelserver.datastore.exchange.cases import ImportLayout, find_cases
from labelserver.datastore.exchange.exporting import Exported, ExportLayout, export
from labelserver.datastore.exchange.importing import Fate, ImportPlan, carry_out, plan_import
from labelserver.datastore.exchange.snapshots import adopt_schema, read, take
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.errors import Conflict, InvalidSetting, LabelNotFound, UnreadableFile
from labelserver.domain.ids import FINAL, ImageId
from labelserver.domain.labels import LabelSource
from labelserver.domain.schema import LabelSchema
from labelserver.domain.work import Verdict, Withheld, Workflow
from labelserver.imaging.seg_nrrd import write_seg_nrrd
from labelserver.imaging.volumes import read_volume, write_volume
from tests.support.study_folder import AFFINE, SHAPE, put_image, put_label, put_series

Open = Callable[[str], LocalDatastore]


@pytest.fixture
def open_at(tmp_path: Path) -> Iterator[Open]:
    """A store in a new folder of that name below tmp_path."""
    opened: list[LocalDatastore] = []

    def make(name: str) -> LocalDatastore:
        (tmp_path / name).mkdir(exist_ok=True)
        opened.append(LocalDatastore(tmp_path / name))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


def nnunet(root: Path) -> None:
    for name in ("c1", "c2"):
        put_image(root / "imagesTr", f"{name}_0000.nii.gz")
        put_label(root / f"labelsTr/{name}.nii.gz")
    put_image(root / "imagesTs", "c3_0000.nii.gz")
    document = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(document))


def decathlon(root: Path) -> None:
    for name in ("c1", "c2", "c3"):
        put_image(root / "imagesTr", f"{name}.nii.gz")
    for name in ("c1", "c2"):
        put_label(root / f"labelsTr/{name}.nii.gz")
    pairs = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in ("c1", "c2")]
    document = {"labels": {"0": "background", "1": "liver"}, "training": pairs, "test": ["./imagesTr/c3.nii.gz"]}
    (root / "dataset.json").write_text(json.dumps(document))


def monai_label(root: Path) -> None:
    for name in ("c1", "c2", "c3"):
        put_image(root, f"{name}.nii.gz")
    for name in ("c1", "c2"):
        put_label(root / f"labels/final/{name}.nii.gz")
    info = {"label_info": [{"name": "liver", "idx": 1}]}
    entry = {"image": {"ext": ".nii.gz", "info": {}}, "labels": {"final": {"ext": ".nii.gz", "info": info}}}
    (root / "datastore_v2.json").write_text(json.dumps({"objects": {"c1": entry, "c2": entry}}))


def manifest(root: Path) -> None:
    for name in ("c1", "c2", "c3"):
        put_image(root / "x", f"{name}.nii.gz")
    for name in ("c1", "c2"):
        put_label(root / f"y/{name}-drawn.nii.gz")
    rows = [("x/c1.nii.gz", "y/c1-drawn.nii.gz"), ("x/c2.nii.gz", "y/c2-drawn.nii.gz"), ("x/c3.nii.gz", "")]
    with (root / "list.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("image", "label"), *rows])
    (root / "list.json").write_text(json.dumps([{"image": i, **({"label": x} if x else {})} for i, x in rows]))


def folders(root: Path) -> None:
    for name in ("c1", "c2", "c3"):
        put_image(root / "images", f"{name}.nii.gz")
    put_label(root / "labels/c1.nii.gz")
    put_label(root / "images/c2_seg.nii.gz")


@pytest.mark.parametrize(
    ("make", "below", "layout"),
    [
        (nnunet, "", ImportLayout.NNUNET),
        (decathlon, "", ImportLayout.DECATHLON),
        (monai_label, "", ImportLayout.MONAI_LABEL),
        (manifest, "list.csv", ImportLayout.MANIFEST),
        (manifest, "list.json", ImportLayout.MANIFEST),
        (folders, "", ImportLayout.FOLDERS),
    ],
)
@pytest.mark.parametrize("link", [False, True])
def test_each_layout_is_known_by_its_looks_and_taken(
    make: Callable[[Path], None], below: str, layout: ImportLayout, link: bool, tmp_path: Path, open_at: Open
) -> None:
    source = tmp_path / "source"
    make(source)
    store = open_at("studies")
    found = find_cases(source / below)
    assert found.layout is layout
    plan = plan_import(store, found)
    assert store.list_images() == [], "a look takes nothing"
    assert (plan.count(Fate.NEW, labels=False), plan.count(Fate.NEW, labels=True)) == (3, 2)
    assert carry_out(store, plan, "Ada", link=link) == []
    assert store.list_images() == ["c1", "c2", "c3"]
    assert store.get_labeled_images() == ["c1", "c2"]
    made_by = store.current_revision(ImageId("c1"), FINAL).provenance
    assert (made_by.source, made_by.person) == (LabelSource.IMPORT, "Ada")
    assert (store.layout.studies / "c1.nii.gz").is_symlink() is link
    assert store.upkeep.verify().findings == []
    again = plan_import(store, find_cases(source / below))
    assert (again.takes, again.count(Fate.THERE, labels=True)) == ([], 2)


def test_bids_labels_find_their_acquisition(tmp_path: Path, open_at: Open) -> None:
    source = tmp_path / "bids"
    for name in ("sub-01/anat/sub-01_T1w", "sub-01/anat/sub-01_T2w", "sub-02/ses-1/anat/sub-02_ses-1_run-2_T1w"):
        put_image(source, f"{name}.nii.gz")
    put_label(source / "derivatives/manual/sub-01/anat/sub-01_desc-liver_dseg.nii.gz")
    put_label(source / "sub-02/ses-1/anat/sub-02_ses-1_run-2_dseg.nii.gz")
    put_label(source / "derivatives/manual/sub-03/anat/sub-03_dseg.nii.gz")
    store = open_at("studies")
    found = find_cases(source)
    assert found.layout is ImportLayout.BIDS
    assert len(found.notes) == 2
    carry_out(store, plan_import(store, found), "")
    assert len(store.list_images()) == 3
    assert store.get_labeled_images() == ["sub-01/anat/sub-01_T1w", "sub-02/ses-1/anat/sub-02_ses-1_run-2_T1w"]


def test_a_dicom_folder_is_one_image(tmp_path: Path, open_at: Open) -> None:
    put_series(tmp_path / "source" / "patient" / "ct", "1.2.3")
    store = open_at("studies")
    carry_out(store, plan_import(store, find_cases(tmp_path / "source")), "")
    assert store.list_images() == ["patient/ct"]


def reasons(plan: ImportPlan) -> dict[tuple[str, str], Fate]:
    return {(item.image_id, item.tag): item.fate for item in plan.items}


def test_the_report_names_collisions_and_unreadable_files_and_the_rest_is_taken(tmp_path: Path, open_at: Open) -> None:
    source = tmp_path / "source"
    monai_label(source)
    put_image(source, "c4.nii.gz")
    put_image(source, "c5.nii.gz")
    put_image(source, "c6.nrrd")
    put_image(source, "c6.nii.gz")
    (source / "c4.nii.gz").write_bytes(b"noise")
    put_label(source / "labels/final/c3.nii.gz", shape=(9, 9, 9))
    (source / "labels/final/c5.nii.gz").write_bytes(b"")
    put_label(source / "labels/final/nobody.nii.gz")
    store = open_at("studies")
    put_image(store.layout.studies, "c2.nii.gz", shape=(3, 3, 3))
    store.refresh()
    before = (store.layout.studies / "c2.nii.gz").read_bytes()
    plan = plan_import(store, find_cases(source))
    fates = reasons(plan)
    assert fates["c2", ""] is Fate.COLLIDES
    assert fates["c4", ""] is Fate.UNREADABLE
    assert fates["c3", "final"] is Fate.REFUSED
    assert fates["c5", "final"] is Fate.UNREADABLE
    assert [i.fate for i in plan.items if i.image_id == "c6"] == [Fate.NEW, Fate.COLLIDES]
    assert any("nobody" in note for note in plan.found.notes)
    assert all(item.reason for item in plan.items if item.fate in (Fate.COLLIDES, Fate.UNREADABLE, Fate.REFUSED))
    assert carry_out(store, plan, "") == []
    assert store.list_images() == ["c1", "c2", "c3", "c5", "c6"]
    assert (store.layout.studies / "c2.nii.gz").read_bytes() == before
    assert store.get_labeled_images() == ["c1"]


@pytest.mark.parametrize(
    ("value", "kind", "says"),
    [(-1, np.int16, "from -1"), (np.nan, np.float32, "not numbers"), (0.5, np.float32, "fractions")],
)
def test_the_first_look_finds_labels_that_would_be_refused(
    value: float, kind: type, says: str, tmp_path: Path, open_at: Open
) -> None:
    manifest(tmp_path / "in")
    write_volume(tmp_path / "in/y/c2-drawn.nii.gz", np.full(SHAPE, value, kind), AFFINE, compress=True)
    store = open_at("studies")
    plan = plan_import(store, find_cases(tmp_path / "in/list.csv"))
    (found,) = [item for item in plan.items if item.fate is Fate.UNREADABLE]
    assert (found.image_id, says in found.reason) == ("c2", True)
    assert store.list_images() == []
    assert carry_out(store, plan, "Ada") == []
    assert store.get_labeled_images() == ["c1"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_manifest_may_come_from_any_spreadsheet(separator: str, encoding: str, tmp_path: Path) -> None:
    manifest(tmp_path)
    rows = [("image", "label"), ("x/c1.nii.gz", "y/c1-drawn.nii.gz"), ("x/c3.nii.gz", ""), ("", "")]
    (tmp_path / "other.csv").write_text("\r\n".join(separator.join(row) for row in rows), encoding=encoding)
    found = find_cases(tmp_path / "other.csv")
    assert [(case.image_id, len(case.labels)) for case in found.cases] == [("c1", 1), ("c3", 0)]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("m.csv", "picture,label\na.nii.gz,l.nii.gz\n", "it has: picture, label"),
        ("m.json", '{"image": "a.nii.gz"}', "must be a list"),
        ("m.json", '["a.nii.gz"]', "must be a list"),
        ("m.json", "[{", "cannot be read as manifest"),
    ],
)
def test_a_manifest_that_cannot_be_understood_is_refused_with_a_sentence(
    name: str, content: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UnreadableFile, match=says):
        find_cases(tmp_path / name)


def test_what_is_no_data_set_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="There is no"):
        find_cases(tmp_path / "nothing")
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "dataset.json").write_text('{"channel_names": 3}')
    with pytest.raises(UnreadableFile, match="nnunet"):
        find_cases(tmp_path)


@pytest.fixture
def filled(open_at: Open, tmp_path: Path) -> LocalDatastore:
    """Two images, one in a folder; revisions above 1; names of what was drawn."""
    store = open_at("filled")
    put_image(store.layout.studies, "a.nii.gz")
    put_image(store.layout.studies, "b/c.nrrd")
    store.refresh()
    info = {"label_info": [{"name": "liver", "idx": 1}]}
    for image_id in ("a", "a", "b/c"):
        store.save_label(image_id, str(put_label(tmp_path / "l.nii.gz")), "final", info)
    store.save_label("a", str(put_label(tmp_path / "l.nii.gz", 1)), "original", info)
    return store


def test_a_snapshot_imports_to_the_same_hash(filled: LocalDatastore, tmp_path: Path, open_at: Open) -> None:
    first = export(filled, tmp_path / "one", ExportLayout.SNAPSHOT)
    assert (first.images, first.labels, first.left_out) == (2, 3, [])
    known = read(tmp_path / "one")
    assert known is not None
    assert known.hash == first.snapshot.hash
    other = open_at("other")
    assert carry_out(other, plan_import(other, find_cases(tmp_path / "one")), "") == []
    second = export(other, tmp_path / "two", ExportLayout.SNAPSHOT)
    assert second.snapshot.hash == first.snapshot.hash
    numbers = [{(x.image_id, x.tag): x.number for x in s.labels}["a", "final"] for s in (first.snapshot, take(other))]
    assert numbers == [2, 1]


def test_a_snapshots_schema_goes_with_it(filled: LocalDatastore, tmp_path: Path, open_at: Open) -> None:
    info = {"label_info": [{"name": "spleen", "idx": 7}, {"name": "liver", "idx": 1}]}
    filled.save_label("b/c", str(put_label(tmp_path / "l.nii.gz", 7)), "final", info)
    filled.save_label("a", str(put_label(tmp_path / "l.nii.gz", 1)), "final", {"label_info": [{"name": "x", "idx": 1}]})
    first = export(filled, tmp_path / "one", ExportLayout.SNAPSHOT)
    known = read(tmp_path / "one")
    assert known is not None
    assert len(known.schema) > 0
    other, third = open_at("other"), open_at("third")
    assert adopt_schema(other, known, "Ada") == ""
    assert carry_out(other, plan_import(other, find_cases(tmp_path / "one")), "") == []
    assert take(other).hash == first.snapshot.hash
    assert other.audit_log(100)[0].act.action == "schema"
    put_image(third.layout.studies, "z.nii.gz")
    third.refresh()
    third.save_label("z", str(put_label(tmp_path / "l.nii.gz")), "final", {"label_info": [{"name": "rib", "idx": 1}]})
    assert "hash will differ" in adopt_schema(third, known, "Ada")


def test_a_snapshot_opens_in_place_as_a_monai_label_folder(filled: LocalDatastore, tmp_path: Path) -> None:
    export(filled, tmp_path / "one", ExportLayout.SNAPSHOT)
    document = json.loads((tmp_path / "one" / "datastore_v2.json").read_text())
    assert sorted(document["objects"]) == ["a", "b/c"]
    store = LocalDatastore(tmp_path / "one")
    assert store.list_images() == ["a", "b/c"]
    assert store.get_label_info("a", "final")["label_info"] == [{"name": "liver", "idx": 1}]
    store.close()


def test_another_label_makes_another_hash(filled: LocalDatastore, tmp_path: Path) -> None:
    before = take(filled).hash
    filled.save_label("a", str(put_label(tmp_path / "l.nii.gz", 1, shape=SHAPE)), "other", {})
    assert take(filled).hash != before
    filled.remove_label("a", "other")
    assert take(filled).hash == before


def test_an_export_is_read_only_never_overwritten_and_an_edit_shows(filled: LocalDatastore, tmp_path: Path) -> None:
    export(filled, tmp_path / "one", ExportLayout.SNAPSHOT, images=False, tags=("final",))
    files = sorted(p.relative_to(tmp_path / "one").as_posix() for p in (tmp_path / "one").rglob("*") if p.is_file())
    labels = ["labels/final/a.nii.gz", "labels/final/b/c.nii.gz"]
    assert files == ["datastore_v2.json", *labels, "manifest.csv", "snapshot.json"]
    assert all(p.stat().st_mode & 0o222 == 0 for p in (tmp_path / "one").rglob("*") if p.is_file())
    with pytest.raises(Conflict, match="never overwritten"):
        export(filled, tmp_path / "one", ExportLayout.SNAPSHOT)
    file = tmp_path / "one" / "snapshot.json"
    file.chmod(0o644)
    file.write_text(file.read_text().replace('"b/c"', '"b/d"'))
    with pytest.raises(UnreadableFile, match="edited"):
        read(tmp_path / "one")


def judged(store: LocalDatastore, tmp_path: Path) -> None:
    """a: returned; b/c: approved; d: submitted; e: of a flagged image."""
    for name in ("d", "e"):
        put_image(store.layout.studies, f"{name}.nii.gz")
    store.refresh()
    for name in ("d", "e"):
        store.save_label(name, str(put_label(tmp_path / "l.nii.gz")), "final", {})
    store.work.reviews.review(ImageId("a"), FINAL, Verdict.RETURNED, "the tip", "rita")
    store.work.reviews.review(ImageId("b/c"), FINAL, Verdict.APPROVED, "", "rita")
    store.work.reviews.flag(ImageId("e"), "bea", "wrong patient")


def exported(done: Exported) -> list[tuple[str, str]]:
    return [(label.image_id, label.tag) for label in done.snapshot.labels]


def test_an_export_holds_what_trainings_learn_from_and_counts_the_rest(filled: LocalDatastore, tmp_path: Path) -> None:
    judged(filled, tmp_path)
    done = export(filled, tmp_path / "flat", ExportLayout.NNUNET)
    assert exported(done) == [("b/c", FINAL), ("d", FINAL)]
    assert len(filled.datalist()) == 2
    assert done.withheld == {Withheld.RETURNED: 1, Withheld.FLAGGED: 1}
    whole = export(filled, tmp_path / "whole", ExportLayout.SNAPSHOT)
    assert exported(whole) == [("a", "original"), ("b/c", FINAL), ("d", FINAL)], "a proposal was not returned"
    assert json.loads((tmp_path / "whole" / "snapshot.json").read_text())["withheld"] == {"returned": 1, "flagged": 1}
    assert read(tmp_path / "whole") == whole.snapshot
    filled.work.workflows.replace(Workflow(approved_only=True), based_on=None, person="anna")
    strict = export(filled, tmp_path / "strict", ExportLayout.NNUNET)
    assert exported(strict) == [("b/c", FINAL)]
    assert len(filled.datalist()) == 1
    assert strict.withheld == {Withheld.RETURNED: 1, Withheld.UNAPPROVED: 1, Withheld.FLAGGED: 1}


def test_what_is_withheld_is_exported_if_asked_for(filled: LocalDatastore, tmp_path: Path) -> None:
    judged(filled, tmp_path)
    some = export(filled, tmp_path / "some", ExportLayout.NNUNET, include=(Withheld.RETURNED,))
    assert exported(some) == [("a", FINAL), ("b/c", FINAL), ("d", FINAL)]
    assert some.withheld == {Withheld.FLAGGED: 1}
    everything = export(filled, tmp_path / "all", ExportLayout.SNAPSHOT, include=tuple(Withheld))
    assert everything.snapshot == take(filled)
    assert everything.withheld == {}
    assert "withheld" not in json.loads((tmp_path / "all" / "snapshot.json").read_text())


def test_a_returned_label_that_was_drawn_again_is_exported_again(filled: LocalDatastore, tmp_path: Path) -> None:
    judged(filled, tmp_path)
    filled.save_label("a", str(put_label(tmp_path / "l.nii.gz", 1)), "final", {})
    assert ("a", FINAL) in exported(export(filled, tmp_path / "again", ExportLayout.NNUNET))


def test_a_returned_label_is_one_that_is_there_and_none_to_learn_from(filled: LocalDatastore, tmp_path: Path) -> None:
    judged(filled, tmp_path)
    assert filled.get_labeled_images() == ["a", "b/c", "d", "e"]
    assert [Path(case["image"]).name for case in filled.datalist()] == ["c.nrrd", "d.nii.gz"]


def test_if_all_is_withheld_the_sentence_says_so(filled: LocalDatastore, tmp_path: Path) -> None:
    filled.work.workflows.replace(Workflow(approved_only=True), based_on=None, person="anna")
    with pytest.raises(LabelNotFound, match="2 unapproved"):
        export(filled, tmp_path / "out", ExportLayout.NNUNET)
    assert not (tmp_path / "out").exists()


def test_nothing_to_export_is_told_and_leaves_no_folder(open_at: Open, tmp_path: Path) -> None:
    with pytest.raises(LabelNotFound):
        export(open_at("empty"), tmp_path / "one", ExportLayout.SNAPSHOT)
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize("layout", [ExportLayout.NNUNET, ExportLayout.DECATHLON, ExportLayout.BIDS])
def test_other_layouts_come_back_voxel_by_voxel(
    layout: ExportLayout, filled: LocalDatastore, tmp_path: Path, open_at: Open
) -> None:
    done = export(filled, tmp_path / "one", layout)
    assert (done.images, done.labels, done.left_out) == (2, 2, [])
    other = open_at("other")
    found = find_cases(tmp_path / "one")
    assert found.layout.value == layout.value
    assert carry_out(other, plan_import(other, found), "") == []
    assert len(other.get_labeled_images()) == 2
    for image_id in other.list_images():
        voxels = read_volume(Path(other.get_label_uri(image_id, "final")))
        assert np.array_equal(voxels.grid.affine, AFFINE)
        assert voxels.voxels.sum() == np.prod(SHAPE) // 2
    if layout is not ExportLayout.BIDS:
        info = other.get_label_info(other.list_images()[0], "final")
        assert info["label_info"] == [{"name": "liver", "idx": 1}]


def test_overlapping_segments_are_kept_by_a_snapshot_and_refused_by_flat_layouts(
    filled: LocalDatastore, tmp_path: Path
) -> None:
    layers = np.zeros((2, *SHAPE), np.uint8)
    layers[0, :2] = 1
    layers[1, 1:3] = 1
    file = tmp_path / "l.seg.nrrd"
    write_seg_nrrd(file, layers, AFFINE, ["liver", "lesion"], [(255, 0, 0), (0, 255, 0)], compress=True)
    filled.save_label("a", str(file), "final", {})
    flat = export(filled, tmp_path / "flat", ExportLayout.NNUNET)
    assert flat.labels == 1
    assert "overlap" in flat.left_out[0]
    assert not (tmp_path / "flat/labelsTr/a.nii.gz").exists()
    whole = export(filled, tmp_path / "whole", ExportLayout.SNAPSHOT)
    assert whole.left_out == []
    kept = (tmp_path / "whole/labels/final/a.seg.nrrd").read_bytes()
    assert kept == Path(filled.get_label_uri("a", "final")).read_bytes()


def test_a_snapshot_brings_ids_names_colours_and_codes_into_an_empty_project(tmp_path: Path, open_at: Open) -> None:
    first = open_at("first")
    put_image(first.layout.studies, "a.nii.gz")
    first.refresh()
    term = {"scheme": "SCT", "value": "10200004", "meaning": "Liver"}
    labels = [
        {"id": "hepar", "name": "liver", "value": 10, "color": [1, 2, 3], "term": term, "former_names": ["Leber"]},
        {"name": "spleen", "value": 234},
    ]
    first.set_schema(LabelSchema.from_json({"mode": "strict", "labels": labels}))
    info = {"label_info": [{"name": "Leber", "idx": 10}]}
    first.save_label("a", str(put_label(tmp_path / "l.nii.gz", 10)), "final", info)
    done = export(first, tmp_path / "one", ExportLayout.SNAPSHOT)
    other = open_at("other")
    known = read(tmp_path / "one")
    assert known is not None
    assert adopt_schema(other, known, "Ada") == ""
    assert carry_out(other, plan_import(other, find_cases(tmp_path / "one")), "Ada") == []
    assert take(other).hash == done.snapshot.hash
    ours, theirs = first.schema(), other.schema()
    assert (theirs.mode, theirs.entries) == (ours.mode, ours.entries)
    assert theirs.entries[0].id == "hepar"
    assert theirs.entries[0].term is not None
    assert (
        other.current_revision(ImageId("a"), FINAL).info["segments"]
        == first.current_revision(ImageId("a"), FINAL).info["segments"]
    )
