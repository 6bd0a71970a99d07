"""App folders: found, executed, named when they fail, and each with its own lib."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from labelserver import settings as settings_module
from labelserver.app.loading import code_hash, load_app
from labelserver.domain.errors import AppLoadFailed, InvalidSetting
from labelserver.settings import Settings

APP = """
from dataclasses import dataclass

from labelserver import LabelApp
from lib.names import NAME


@dataclass
class Options:
    value: "int" = 3


class Base(LabelApp):
    def __init__(self, app_dir, studies, conf):
        self.name_before = NAME
        super().__init__(app_dir=app_dir, studies=studies, conf=conf, name=NAME)


class Zebra(Base):
    pass
"""


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(settings_module, "_installed", Settings())
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setenv("PYTHONPATH", "")  # other tests' apps have a lib, too
    monkeypatch.setenv("PATH", os.environ["PATH"])
    yield
    for name in [n for n in sys.modules if n == "lib" or n.startswith("lib.")]:
        del sys.modules[name]


@pytest.fixture
def studies(tmp_path: Path) -> str:
    (tmp_path / "studies").mkdir()
    return str(tmp_path / "studies")


def app_folder(tmp_path: Path, name: str, code: str = APP) -> Path:
    folder = tmp_path / name
    (folder / "lib").mkdir(parents=True)
    (folder / "main.py").write_text(code)
    (folder / "lib" / "__init__.py").write_text("")
    (folder / "lib" / "names.py").write_text(f"NAME = {name!r}\n")
    return folder


def test_the_first_class_by_name_that_main_defines_is_built_also_an_indirect_subclass(
    tmp_path: Path, studies: str
) -> None:
    app = load_app(app_folder(tmp_path, "one"), studies, {"a": "b"})
    assert (type(app).__name__, app.name, app.conf) == ("Base", "one", {"a": "b"})
    assert app.studies == studies
    assert "main" not in sys.modules


def test_two_apps_with_a_lib_each_are_loaded_one_after_the_other(tmp_path: Path, studies: str) -> None:
    first = load_app(app_folder(tmp_path, "one"), studies, {})
    second = load_app(app_folder(tmp_path, "two"), studies, {})
    assert (first.name, second.name) == ("one", "two")


def test_folders_exist_before_the_constructor_and_children_find_lib_and_bin(tmp_path: Path, studies: str) -> None:
    code = APP.replace("self.name_before = NAME", "import os; open(os.path.join(app_dir, 'model', 'w'), 'w').close()")
    folder = app_folder(tmp_path, "one", code)
    load_app(folder, studies, {})
    assert all((folder / part).is_dir() for part in ("model", "lib", "logs", "bin"))
    said = subprocess.run(
        [sys.executable, "-c", "import lib.names; print(lib.names.NAME)"], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "one"
    assert str(folder / "bin") in os.environ["PATH"].split(os.pathsep)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("def broken(:\n", r"failed to load at main\.py, line 1: SyntaxError"),
        ("x = 1\n\nraise ValueError('no licence')\n", r"at main\.py, line 3: ValueError: no licence"),
        ("import lib.wrong\n", r"at lib/wrong\.py, line 2: ZeroDivisionError"),
        ("import not_there_at_all\n", r"at main\.py, line 1: ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("import sys\nsys.exit(-1)\n", r"at main\.py, line 2: SystemExit"),
        ("x = 1\n", r"defines no app\. Write one: class MyApp\(LabelApp\)"),
        ("from labelserver import LabelApp\n", r"defines no app"),
        (
            "from labelserver import LabelApp\nclass A(LabelApp):\n    def init_infers(self):\n        return {}[0]\n",
            r"at main\.py, line 4: KeyError",
        ),
    ],
)
def test_a_failure_is_a_sentence_with_file_and_line(tmp_path: Path, studies: str, code: str, sentence: str) -> None:
    folder = app_folder(tmp_path, "bad", code)
    (folder / "lib" / "wrong.py").write_text("x = 1\ny = x / 0\n")
    with pytest.raises(AppLoadFailed, match=sentence):
        load_app(folder, studies, {})
    assert "main" not in sys.modules


def test_our_own_errors_keep_their_kind_and_a_missing_main_is_named(tmp_path: Path, studies: str) -> None:
    with pytest.raises(InvalidSetting, match="studies folder"):
        load_app(app_folder(tmp_path, "one"), str(tmp_path / "nowhere"), {})
    (tmp_path / "empty").mkdir()
    with pytest.raises(AppLoadFailed, match=r"has no main\.py"):
        load_app(tmp_path / "empty", studies, {})


def test_the_code_hash_follows_main_lib_and_conf_and_nothing_else(tmp_path: Path) -> None:
    folder = app_folder(tmp_path, "one")
    before = code_hash(folder, {"a": "1"})
    assert code_hash(folder, {"a": "1"}) == before
    assert code_hash(folder, {"a": "2"}) != before
    (folder / "lib" / "__pycache__").mkdir()
    (folder / "lib" / "__pycache__" / "names.pyc").write_bytes(b"x")
    (folder / "model").mkdir()
    (folder / "model" / "w.pt").write_bytes(b"x")
    assert code_hash(folder, {"a": "1"}) == before
    (folder / "lib" / "names.py").write_text("NAME = 'other'\n")
    assert code_hash(folder, {"a": "1"}) != before
