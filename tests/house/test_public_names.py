"""The names people import, the settings and commands they read about, and what must never stand in the repository."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer.main

import labelserver
from labelserver import client
from labelserver.cli.main import cli
from labelserver.imaging.volumes import read_volume
from labelserver.phantoms import make_phantom
from labelserver.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def test_every_public_name_resolves() -> None:
    code = "import labelserver\nfor name in labelserver.__all__: assert getattr(labelserver, name) is not None, name"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


def test_app_authors_find_the_names_they_import() -> None:
    promised = {"LabelApp", "MONAILabelApp", "InferTask", "BasicInferTask", "InferType", "TrainTask", "BasicTrainTask"}
    promised |= {"Context", "Strategy", "ScoringMethod", "Datastore", "DefaultLabelTag"}
    assert promised <= set(labelserver.__all__)


def test_importing_the_package_or_the_client_loads_no_network_library() -> None:
    code = (
        "import sys, labelserver, labelserver.client\n"
        "sys.exit(' '.join({'torch', 'monai', 'ignite', 'numpy', 'fastapi'} & set(sys.modules)) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""


def test_every_name_of_the_client_resolves() -> None:
    assert [name for name in client.__all__ if not hasattr(client, name)] == []


def test_every_setting_is_documented_with_its_default() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    documented = set(re.findall(rf"^\| `({PREFIX}[A-Z_]+)`", page, re.MULTILINE))
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    assert documented == known
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, bool | int) and name != "max_upload_bytes":
            row = next(line for line in page.splitlines() if line.startswith(f"| `{PREFIX}{name.upper()}`"))
            expected = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
            assert f"| `{expected}` |" in row, row


def test_every_command_and_every_option_of_start_server_is_documented() -> None:
    guide = (ROOT / "docs" / "user-guide.md").read_text(encoding="utf-8")
    top = typer.main.get_command(cli)
    for name, command in top.commands.items():
        if not command.hidden:
            assert f"labelserver {name}" in guide, name
            for verb in getattr(command, "commands", {}):
                assert re.search(rf"\b{verb}\b", guide), (name, verb)
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    for option in top.commands["start_server"].params:
        if not getattr(option, "hidden", False) and option.name != "help":
            assert any(f"`{spelling}" in page for spelling in option.opts), option.name


def test_the_changelog_has_a_place_for_the_next_release() -> None:
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_constraints_pin_exactly_and_name_no_place() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line), line


def test_the_package_never_pins_torch() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert '"torch>=' in text
    assert not re.search(r'"torch *(==|<|~=)', text)
    assert "torchvision" not in text


def test_no_tracked_file_names_a_machine_or_a_registry() -> None:
    own = Path(__file__).resolve()
    forbidden = re.compile(
        "|".join(
            [r"/wo" + r"rk/", r"/ro" + r"ot/", r"/opt/py" + r"pi", r"--(extra-)?index-url", r"files\.pythonhosted"]
        )
    )
    found = [
        (p.relative_to(ROOT).as_posix(), m.group())
        for p in tracked_files()
        if p != own and (m := forbidden.search(text_of(p)))
    ]
    assert found == []


def test_sample_data_is_small_and_what_its_readme_says() -> None:
    folder = ROOT / "sample-data"
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < 3 * 2**20
    for number in (0, 5):
        made = make_phantom(number, seed=1, spacing_mm=5.0)
        kept = read_volume(folder / "studies" / f"{made.name}.nii.gz")
        assert np.abs(kept.voxels.astype(int) - made.voxels).max() <= 1, "processors differ in the last bit"
        assert np.array_equal(read_volume(folder / "reference" / f"{made.name}.nii.gz").voxels, made.labels)
