"""``labelserver import`` shows what a bundle executes, and takes it in only if somebody agrees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from labelserver.cli.main import run
from labelserver.domain.errors import AppLoadFailed
from labelserver.tasks.bundle_trust import ensure_trusted


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        run(words)
    return int(ended.value.code or 0)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "main.py").touch()
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "downloads" / "spleen"
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "inference.json").write_text(json.dumps({"device": "$torch.device('cpu')"}))
    return folder


def test_nothing_is_imported_before_somebody_agrees(
    app: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("import", str(bundle), "--app", str(app)) == 1
    said = capsys.readouterr()
    assert "$torch.device('cpu')" in said.out
    assert "--trust" in said.err
    assert not (app / "model").exists()


def test_an_imported_bundle_is_pinned_and_may_be_renamed(app: Path, bundle: Path) -> None:
    assert command("import", str(bundle), "--app", str(app), "--name", "spleen_2", "--trust") == 0
    ensure_trusted(app / "model" / "spleen_2")
    assert not list((app / "model").glob(".importing-*"))
    (app / "model" / "spleen_2" / "configs" / "inference.json").write_text("{}")
    with pytest.raises(AppLoadFailed):
        ensure_trusted(app / "model" / "spleen_2")
    assert command("import", "spleen_2", "--app", str(app), "--trust") == 0  # looked at again, where it lies
    ensure_trusted(app / "model" / "spleen_2")


@pytest.mark.parametrize("name", ["../outside", ".hidden", "a/b"])
def test_a_name_cannot_lead_out_of_the_app(app: Path, bundle: Path, name: str) -> None:
    assert command("import", str(bundle), "--app", str(app), "--name", name, "--trust") == 1


def test_what_is_there_is_not_replaced(app: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("import", str(bundle), "--app", str(app), "--trust") == 0
    assert command("import", str(bundle), "--app", str(app), "--trust") == 1
    assert "--name" in capsys.readouterr().err


def test_a_folder_that_is_no_bundle_and_an_app_that_is_none_are_named(
    app: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("import", str(tmp_path), "--app", str(app)) == 1
    assert "configs" in capsys.readouterr().err
    assert command("import", str(tmp_path), "--app", str(tmp_path)) == 1
    assert "main.py" in capsys.readouterr().err
