"""Names from outside never leave the folder they are joined to."""

from __future__ import annotations

import pytest

from labelserver.domain.errors import InvalidId
from labelserver.domain.ids import folder_key, model_folder, parse_image_id, parse_job_id, parse_tag
from labelserver.domain.paths import Root, RootedPath, Roots


@pytest.mark.parametrize("text", ["liver_001", "case 7/t1", "Würfel/größe", "a.b.c", "x" * 200, "case-7+1"])
def test_plain_image_ids_are_kept(text):
    assert parse_image_id(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "..",
        "../x",
        "a/../b",
        "/etc/passwd",
        "a//b",
        "a\\b",
        "a\x00b",
        "a\nb",
        "c:/x",
        "x" * 2000,
        ".labelserver/index",
        "labels/final/a",
        "./a",
        "a/",
    ],
)
def test_image_ids_that_could_leave_the_folder_are_refused(text):
    with pytest.raises(InvalidId):
        parse_image_id(text)


def test_an_image_id_has_one_unicode_form():
    assert parse_image_id("u\u0308") == "\u00fc"


@pytest.mark.parametrize("text", ["final", "version_1", "reader 2", "a.b-c+d"])
def test_plain_tags_are_kept(text):
    assert parse_tag(text) == text


def test_an_empty_tag_means_final():
    assert parse_tag("") == "final"


@pytest.mark.parametrize("text", ["..", "../x", "a/b", ".hidden", "a\\b", "x" * 65, "a ", "a.", "-a", "é"])
def test_tags_that_are_not_one_path_part_are_refused(text):
    with pytest.raises(InvalidId):
        parse_tag(text)


def test_job_ids_are_uuids():
    assert parse_job_id("01234567-89ab-cdef-0123-456789abcdef")
    for text in ("", "x", "../../x", "01234567-89AB-cdef-0123-456789abcdef"):
        with pytest.raises(InvalidId):
            parse_job_id(text)


def test_folder_keys_differ_where_only_case_or_accents_differ():
    names = ["Case", "case", "cäse", "case/1", "case 1", "c" * 300, "日本"]
    keys = {folder_key(name).lower() for name in names}
    assert len(keys) == len(names)
    assert all(len(key) <= 60 and key.isascii() and "/" not in key for key in keys)


def test_a_plain_model_keeps_its_name_as_folder():
    assert model_folder("segmentation") == "segmentation"
    assert model_folder("Histogram+GraphCut").startswith("histogram-graphcut-")
    assert "/" not in model_folder("a/../b")


def test_rooted_paths_stay_below_their_root(tmp_path):
    roots = Roots(app=tmp_path / "app", studies=tmp_path / "studies", state=tmp_path / "state")
    inside = RootedPath(Root.STATE, "spool/x.nrrd")
    assert roots.relative(roots.resolve(inside), Root.STATE) == inside
    assert RootedPath.from_json(inside.to_json()) == inside
    for path in ("../x", "/etc/passwd", "a/../../x"):
        with pytest.raises(InvalidId):
            roots.resolve(RootedPath(Root.APP, path))
    with pytest.raises(InvalidId):
        roots.relative(tmp_path / "elsewhere", Root.APP)
