"""The command line: what each verb prints, refuses and leaves behind. No server, no torch."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from labelserver.cli import doctor, logs
from labelserver.cli.failing import CommandFailed
from labelserver.cli.main import run
from labelserver.cli.pairs import join_pairs, split_pairs
from labelserver.cli.train import parse_params


def command(*words: str) -> int:
    """Run a command line in this process; its exit status."""
    with pytest.raises(SystemExit) as ended:
        run(words)
    return int(ended.value.code or 0)


@pytest.fixture
def an_app(tmp_path: Path) -> Path:
    app = tmp_path / "apps" / "mine"
    (app / "lib").mkdir(parents=True)
    (app / "main.py").write_text("")
    (app / "README.md").write_text("# Mine\n\nSegments what is mine.\n\nMore.\n")
    (app / "versions" / "m" / "1").mkdir(parents=True)
    (app / "lib" / "__pycache__").mkdir()
    return app


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, labelserver.cli.main as m\n"
        "heavy = {'torch', 'monai', 'numpy', 'scipy', 'fastapi', 'pydantic', 'httpx', 'uvicorn', 'nibabel', 'ignite'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""
    shown = subprocess.run([sys.executable, "-m", "labelserver.cli.main", "--help"], capture_output=True, text=True)
    assert "start_server" in shown.stdout


def test_version_prints_component_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--version") == 0
    shown = capsys.readouterr().out
    assert "labelserver 0." in shown
    assert "monai 1." in shown


@pytest.mark.parametrize(
    ("words", "joined"),
    [
        (["--conf", "models", "a"], ["--conf=models=a"]),
        (["-c", "a", "1", "--conf", "b", "x y", "-v"], ["--conf=a=1", "--conf=b=x y", "-v"]),
        (["--conf", "a=1", "--port", "1"], ["--conf=a=1", "--port", "1"]),
        (["--conf", "roi", "[1,2]"], ["--conf=roi=[1,2]"]),
        (["--conf", "offset", "-1"], ["--conf=offset=-1"]),
        (["x", "--", "-c", "a"], ["x", "--", "-c", "a"]),
    ],
)
def test_conf_takes_two_words_any_number_of_times(words: Sequence[str], joined: Sequence[str]) -> None:
    assert join_pairs(words) == joined


@pytest.mark.parametrize("words", [["--conf"], ["--conf", "models"], ["--conf", "--app", "x"]])
def test_conf_without_a_value_is_refused(words: Sequence[str]) -> None:
    with pytest.raises(CommandFailed, match="two words"):
        join_pairs(words)


def test_conf_values_may_hold_equal_signs_and_the_last_one_counts() -> None:
    assert split_pairs(["url=http://x/?a=b", "n=1", "n=2"]) == {"url": "http://x/?a=b", "n": "2"}


def test_apps_lists_names_with_the_first_sentence_of_the_readme(
    an_app: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("apps", "--prefix", str(an_app.parent)) == 0
    assert "Segments what is mine." in capsys.readouterr().out


def test_apps_download_copies_without_what_was_made_at_run_time(an_app: Path, tmp_path: Path) -> None:
    words = ("apps", "--download", "--name", "mine", "--output", str(tmp_path / "w"), "--prefix", str(an_app.parent))
    assert command(*words) == 0
    copied = tmp_path / "w" / "mine"
    assert (copied / "main.py").exists()
    assert not (copied / "versions").exists()
    assert not (copied / "lib" / "__pycache__").exists()
    (copied / "main.py").write_text("changed")
    assert command(*words) == 255, "a target that exists is not overwritten"
    assert (copied / "main.py").read_text() == "changed"


def test_apps_download_of_an_unknown_name_lists_the_known(an_app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("apps", "-d", "-n", "nobody", "--prefix", str(an_app.parent)) == 255
    assert "mine" in capsys.readouterr().err


def test_datasets_lists_the_phantoms_and_the_ten_decathlon_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("datasets") == 0
    shown = capsys.readouterr().out
    assert "phantom-abdomen" in shown
    assert sum(f"Task{n:02d}_" in shown for n in range(1, 11)) == 10


def test_datasets_makes_phantoms_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("datasets", "--download", "--name", "Phantom-Abdomen", "--output", str(tmp_path), "--count", "1")
    assert command(*words) == 0
    assert [p.name for p in (tmp_path / "phantom-abdomen").iterdir()] == ["phantom_000.nii.gz"]
    assert (tmp_path / "phantom-abdomen-reference" / "phantom_000.nii.gz").exists()
    assert command(*words) == 255
    assert "exists" in capsys.readouterr().err
    (tmp_path / "phantom-abdomen-reference" / "labels.json").unlink()
    assert command(*words) == 0, "an interrupted run is taken up again"


def test_datasets_refuses_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("datasets", "-d", "-n", "Task99") == 255
    assert "Task09_Spleen" in capsys.readouterr().err


def test_plugins_says_where_to_get_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("plugins") == 0
    assert "3D Slicer" in capsys.readouterr().out
    assert command("plugins", "--download", "--name", "slicer") == 255
    assert command("plugins", "--name", "paint") == 255


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "--studies FOLDER"),
        (("--app", "APP"), "--studies FOLDER"),
        (("--app", "nowhere", "--studies", "s"), "no main.py"),
        (("--app", "APP", "--studies", "s", "--workers", "2"), "LABELSERVER_WORKERS_PER_DEVICE"),
        (("--app", "APP", "--studies", "s", "--port", "99999"), "port"),
        (("--app", "APP", "--studies", "s", "--verbose", "LOUD"), "DEBUG"),
        (("--app", "APP", "--studies", "s", "--uvicorn_app", "x:y"), "labelserver alone"),
    ],
)
def test_start_server_refuses_with_a_sentence(
    words: tuple[str, ...],
    sentence: str,
    an_app: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("LABELSERVER_", "MONAI_LABEL_")):
            monkeypatch.delenv(name)
    assert command("start_server", *(str(an_app) if word == "APP" else word for word in words)) == 1
    shown = capsys.readouterr()
    assert sentence in shown.err
    assert "Traceback" not in shown.err
    assert not (tmp_path / "s").exists()


def test_dryrun_writes_the_settings_for_the_owner_alone(
    an_app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--app", str(an_app), "--studies", "s", "-c", "models", "it's", "--cors-origins", "http://a, http://b")
    assert command("start_server", *words, "--root_path", "/r", "--dryrun") == 0
    env = tmp_path / ".env"
    assert env.stat().st_mode & 0o077 == 0
    shown = subprocess.run(
        [
            "bash",
            "-c",
            "source .env; echo $LABELSERVER_CONF; echo $LABELSERVER_CORS_ORIGINS; echo $LABELSERVER_ROOT_PATH",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.splitlines() == ['{"models": "it\'s"}', '["http://a", "http://b"]', "/r"]
    assert (tmp_path / "s").is_dir()


def test_verbs_that_ask_a_server_say_when_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("jobs", "list"), ("models", "list"), ("train",)):
        assert command(*words, "--server", "http://127.0.0.1:9") == 1
        assert "start_server" in capsys.readouterr().err


def test_train_params_are_json_where_they_are_json() -> None:
    given = ["max_epochs=3", "name=a b", "pretrained=false", "roi=[1, 2]", "note=x=y"]
    expected = {"max_epochs": 3, "name": "a b", "pretrained": False, "roi": [1, 2], "note": "x=y"}
    assert parse_params(given) == expected
    with pytest.raises(CommandFailed, match="KEY=VALUE"):
        parse_params(["max_epochs"])


def test_the_log_is_one_event_a_line_with_its_fields() -> None:
    record = logging.makeLogRecord({"name": "labelserver.engine", "levelname": "INFO", "msg": "job\nstarted"})
    record.job_id, record.reason = "7", "no label = no training"
    line = logs.EventFormatter().format(record)
    assert "\n" not in line
    assert line.endswith('INFO labelserver.engine job\\nstarted job_id=7 reason="no label = no training"')


def test_a_log_configuration_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "log.json"
    file.write_text("[]")
    with pytest.raises(CommandFailed, match="logging configuration"):
        logs.set_up(tmp_path, level="INFO", console_level="INFO", config_file=file)


def test_doctor_advises_when_python_or_a_package_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["numpy>=999", "nothing-of-this-name", "pytest"])
    found = {f.what: f for f in doctor._packages()}
    assert found["numpy"].level is doctor.Level.WRONG
    assert "--upgrade" in found["numpy"].advice
    assert found["nothing-of-this-name"].found == "missing"
    monkeypatch.setattr(doctor.sys, "version_info", (3, 9))
    assert next(doctor._python()).level is doctor.Level.WRONG


def test_doctor_limits() -> None:
    levels = [doctor._limited("memory", value, (10, 20), "", "free some").level for value in (5, 15, 25)]
    assert levels == [doctor.Level.WRONG, doctor.Level.NOTE, doctor.Level.OK]
