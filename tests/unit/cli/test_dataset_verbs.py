"""``labelserver datasets``: the old flags and the verbs beside them, on a folder that a server may have open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from labelserver.cli.main import run
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.ids import FINAL, ImageId
from labelserver.domain.work import Verdict
from tests.support.study_folder import put_image, put_label


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        run(words)
    return int(ended.value.code or 0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalDatastore]:
    """Open all the while, as by a running server."""
    put_image(tmp_path / "studies", "a.nii.gz")
    store = LocalDatastore(tmp_path / "studies")
    store.save_label("a", str(put_label(tmp_path / "l.nii.gz")), "final", {"user": "Ada"})
    yield store
    store.close()


@pytest.fixture
def studies(store: LocalDatastore) -> str:
    return str(store.layout.studies)


def test_the_flags_still_list_and_make(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("datasets") == 0
    assert "Task09_Spleen" in capsys.readouterr().out
    assert command("datasets", "--download", "--name", "nothing", "--output", str(tmp_path)) != 0


def test_import_tells_first_and_does_with_yes(
    store: LocalDatastore, studies: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_image(tmp_path / "in", "b.nii.gz")
    put_label(tmp_path / "in" / "labels/final/b.nii.gz")
    assert command("datasets", "import", str(tmp_path / "in"), "--studies", studies) == 0
    assert "Nothing was changed" in capsys.readouterr().out
    assert store.list_images() == ["a"]
    assert command("datasets", "import", str(tmp_path / "in"), "--studies", studies, "--yes") == 0
    assert store.list_images() == ["a", "b"]
    assert store.get_labeled_images() == ["a", "b"]
    assert command("datasets", "import", str(tmp_path / "in"), "--studies", studies, "--format", "x") == 1
    assert "known are monai-label" in capsys.readouterr().err


def test_export_prints_the_hash_that_import_confirms(
    studies: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("datasets", "export", str(tmp_path / "out"), "--studies", studies) == 0
    shown = capsys.readouterr().out.split("snapshot ")[1].split()[0]
    (tmp_path / "other").mkdir()
    assert command("datasets", "import", str(tmp_path / "out"), "--studies", str(tmp_path / "other"), "--yes") == 0
    assert shown in capsys.readouterr().out
    assert command("datasets", "export", str(tmp_path / "again"), "--studies", str(tmp_path / "other")) == 0
    assert shown in capsys.readouterr().out
    assert command("datasets", "export", str(tmp_path / "out"), "--studies", studies) == 1


def test_export_says_what_it_left_out_and_takes_it_if_asked(
    store: LocalDatastore, studies: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_image(tmp_path / "studies", "b.nii.gz")
    store.refresh()
    store.save_label("b", str(put_label(tmp_path / "l.nii.gz")), "final", {})
    store.work.reviews.review(ImageId("b"), FINAL, Verdict.RETURNED, "the tip", "rita")
    assert command("datasets", "export", str(tmp_path / "out"), "--studies", studies) == 0
    out = capsys.readouterr().out
    assert "1 labels and 1 images" in out
    assert "do not learn from them: 1 returned. Add --include" in " ".join(out.split())
    assert command("datasets", "export", str(tmp_path / "all"), "--studies", studies, "--include", "returned") == 0
    assert "2 labels and 2 images" in capsys.readouterr().out
    assert command("datasets", "export", str(tmp_path / "more"), "--studies", studies, "--include", "all") == 0
    assert command("datasets", "export", str(tmp_path / "x"), "--studies", studies, "--include", "poor") == 1
    assert "known are returned, unapproved, flagged, all" in capsys.readouterr().err


def test_log_and_verify_tell_of_an_edit(
    store: LocalDatastore, studies: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("datasets", "log", "--studies", studies) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("Ada", "save", "final 1"))
    assert command("datasets", "verify", "--studies", studies) == 0
    head = capsys.readouterr().out.split("hash is ")[1].split()[0]
    assert command("datasets", "verify", "--studies", studies, "--head", head) == 0
    file = store.layout.audit_file
    file.write_text(file.read_text().replace("Ada", "Eve"))
    assert command("datasets", "verify", "--studies", studies) == 1
    assert "line 1 of the copy" in capsys.readouterr().out


def test_erase_tells_first_and_does_with_yes(
    store: LocalDatastore, studies: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("datasets", "erase", "a", "--studies", studies) == 0
    assert "Nothing was changed" in capsys.readouterr().out
    assert store.list_images() == ["a"]
    assert command("datasets", "erase", "a", "--studies", studies, "--yes") == 0
    assert store.list_images() == []
    assert command("datasets", "erase", "a", "--studies", studies) == 1


def test_erase_says_what_lies_elsewhere(
    store: LocalDatastore, studies: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    single = put_image(tmp_path / "archive", "one.nii.gz")
    inside = put_image(tmp_path / "more", "two.nii.gz")
    (Path(studies) / "one.nii.gz").symlink_to(single)
    (Path(studies) / "far").symlink_to(inside.parent, target_is_directory=True)
    store.refresh()
    assert command("datasets", "erase", "one", "--studies", studies) == 0
    assert f"(a link; {single} stays)" in capsys.readouterr().out
    assert command("datasets", "erase", "one", "--studies", studies, "--yes") == 0
    assert f"Only the link to {single} is gone" in capsys.readouterr().out
    assert single.is_file()
    assert command("datasets", "erase", "far/two", "--studies", studies) == 0
    assert f"(that is {inside})" in capsys.readouterr().out
    assert command("datasets", "erase", "far/two", "--studies", studies, "--yes") == 0
    assert not inside.exists()
    store.refresh()
    assert store.list_images() == ["a"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("datasets", "log", "--studies", str(tmp_path / "nowhere")) == 1
    assert "nowhere" in capsys.readouterr().err


def test_a_schema_is_shown_and_set_from_a_file(
    store: LocalDatastore, studies: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "schema.json"
    file.write_text(
        '{"mode": "strict", "labels": [{"id": "label_1", "name": "liver", "value": 1}, {"name": "vessel"}]}'
    )
    assert command("datasets", "schema", "set", str(file), "--studies", studies) == 0
    assert store.label_values() == {"liver": 1, "vessel": 2}
    assert command("datasets", "schema", "show", "--studies", studies) == 0
    shown = capsys.readouterr().out
    assert "strict" in shown
    assert "vessel" in shown
    assert command("datasets", "schema", "show", "--json", "--studies", studies) == 0
    file.write_text(capsys.readouterr().out)
    assert command("datasets", "schema", "set", str(file), "--studies", studies) == 0
    file.write_text('{"labels": [{"name": "other", "value": 1}]}')
    assert command("datasets", "schema", "set", str(file), "--studies", studies) != 0
    assert "stored labels use it" in capsys.readouterr().err
