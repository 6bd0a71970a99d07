"""Classes are cut out of their modules with what they need, and run where neither app nor server is installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from labelserver.export.carrying import CarriedCode
from labelserver.export.configuring import CannotWrite
from labelserver.tasks.fast_spacing import SeparableSpacingd
from labelserver.tasks.transforms import ArgmaxOnOriginalGridd

WINDOWS = '''"""Steps of an app."""
from labelserver.tasks.transforms import Restored
import numpy as np
from .numbers import HALF

UNUSED = Restored

class Clip:
    """Cuts at twice the half."""

    def __call__(self, value):
        return np.minimum(value, _limit())

def _limit():
    return 2 * HALF
'''


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "app"
    (folder / "lib_of_test").mkdir(parents=True)
    (folder / "lib_of_test" / "__init__.py").touch()
    (folder / "lib_of_test" / "numbers.py").write_text("HALF = 2\nOTHER = 3\n")
    (folder / "lib_of_test" / "windows.py").write_text(WINDOWS)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.startswith("lib_of_test")]:
        del sys.modules[name]


def windows() -> ModuleType:
    import lib_of_test.windows  # type: ignore[import-not-found]

    return lib_of_test.windows


def run_alone(folder: Path, code: str) -> str:
    """In a process that sees `folder` and no package of ours."""
    blocked = "import sys; sys.modules['labelserver'] = None; sys.modules['lib_of_test'] = None; "
    words = [sys.executable, "-c", f"{blocked}sys.path.insert(0, '.'); {code}"]
    return subprocess.run(words, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_a_class_of_the_app_runs_without_the_app(app: Path, tmp_path: Path) -> None:
    code = CarriedCode(app)
    assert code.name_of(windows().Clip) == "scripts.lib_of_test_windows.Clip"
    code.write(tmp_path / "scripts")
    assert run_alone(tmp_path, "from scripts.lib_of_test_windows import Clip; print(int(Clip()(9)))") == "4"


def test_a_class_of_main_py_is_shipped_although_main_is_no_module(tmp_path: Path) -> None:
    from labelserver.app.loading import load_app

    app = tmp_path / "small_app"
    app.mkdir()
    (app / "main.py").write_text(
        "from labelserver import LabelApp\n\nLEAST = 3\n\n"
        "class Raised:\n    def __call__(self, value):\n        return max(value, LEAST)\n\n"
        "class Small(LabelApp):\n    def init_infers(self):\n        self.step = Raised()\n        return {}\n"
    )
    (tmp_path / "studies").mkdir()
    step = load_app(app, str(tmp_path / "studies"), {}).step  # type: ignore[attr-defined]
    code = CarriedCode(app)
    assert code.name_of(type(step)) == "scripts.main.Raised"
    code.write(tmp_path / "scripts")
    assert "Small" not in (tmp_path / "scripts" / "main.py").read_text()
    assert run_alone(tmp_path, "from scripts.main import Raised; print(Raised()(1))") == "3"


def test_what_a_class_does_not_use_stays_behind(app: Path, tmp_path: Path) -> None:
    code = CarriedCode(app)
    code.name_of(windows().Clip)
    code.write(tmp_path / "scripts")
    names = {path.name for path in (tmp_path / "scripts").iterdir()}
    assert names == {"__init__.py", "lib_of_test_windows.py", "lib_of_test_numbers.py"}
    text = (tmp_path / "scripts" / "lib_of_test_windows.py").read_text()
    assert "UNUSED" not in text
    assert "Restored" not in text
    assert "OTHER" not in (tmp_path / "scripts" / "lib_of_test_numbers.py").read_text()


def test_the_servers_own_steps_run_without_the_server(tmp_path: Path) -> None:
    code = CarriedCode(None)
    names = [code.name_of(cls) for cls in (SeparableSpacingd, ArgmaxOnOriginalGridd)]
    code.write(tmp_path / "scripts")
    imports = "; ".join(f"from {name.rpartition('.')[0]} import {name.rpartition('.')[2]}" for name in names)
    assert run_alone(tmp_path, f"{imports}; print('here')") == "here"
    assert not any("labelserver" in line for line in _import_lines(tmp_path / "scripts"))


def _import_lines(folder: Path) -> list[str]:
    lines = [line for path in folder.glob("*.py") for line in path.read_text().splitlines()]
    return [line for line in lines if line.startswith(("from ", "import "))]


def test_classes_of_libraries_stay_where_they_are() -> None:
    from monai.transforms import Spacingd

    code = CarriedCode(None)
    assert code.name_of(Spacingd) == "monai.transforms.Spacingd"
    assert not code
    assert code.requirements == set()


def test_a_library_beyond_the_usual_is_named_as_a_requirement() -> None:
    import httpx

    code = CarriedCode(None)
    assert code.name_of(httpx.URL) == "httpx.URL"
    assert code.requirements == {"httpx"}


def test_a_class_inside_a_function_is_refused_by_name(app: Path) -> None:
    path = app / "lib_of_test" / "inner.py"
    path.write_text("class Outer:\n    class Inner:\n        pass\n")
    import lib_of_test.inner

    with pytest.raises(CannotWrite, match=r"Outer.Inner of lib_of_test.inner is defined inside"):
        CarriedCode(app).name_of(lib_of_test.inner.Outer.Inner)
