"""The build hook: when the page is made, with which Node, and what happens when it cannot be."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Writes a page without any package, so that no registry is asked.
BUILD = "mkdir -p ../labelserver/web_dist && echo built > ../labelserver/web_dist/index.html"


@pytest.fixture
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    web = tmp_path / "web"
    (web / "src").mkdir(parents=True)
    (web / "index.html").write_text("<html></html>")
    (web / "src" / "main.ts").write_text("1")
    (web / "package.json").write_text(json.dumps({"name": "x", "version": "1.0.0", "scripts": {"build": BUILD}}))
    lock = {"name": "x", "version": "1.0.0", "lockfileVersion": 3, "packages": {"": {"name": "x", "version": "1.0.0"}}}
    (web / "package-lock.json").write_text(json.dumps(lock))
    return tmp_path


def made_page(clone: Path) -> Path:
    page = clone / "labelserver" / "web_dist" / "index.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("made before")
    return page


def a_hook(hook: ModuleType, clone: Path) -> tuple[Any, list[str]]:
    warnings: list[str] = []
    made = hook.PageHook(
        str(clone), {}, None, None, str(clone), "wheel", SimpleNamespace(display_warning=warnings.append)
    )
    return made, warnings


needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="npm is missing")


@needs_npm
@pytest.mark.slow
def test_a_missing_page_is_made_and_an_up_to_date_one_is_left(hook: ModuleType, clone: Path) -> None:
    assert hook.is_stale(clone)
    assert hook.ensure_page(clone)
    page = clone / "labelserver" / "web_dist" / "index.html"
    assert page.read_text() == "built\n"
    page.write_text("kept")
    assert not hook.ensure_page(clone)
    assert page.read_text() == "kept"


@pytest.mark.parametrize(
    ("name", "stale"),
    [
        ("web/src/main.ts", True),
        ("web/package-lock.json", True),
        ("web/tests/a.test.ts", False),
        ("web/node_modules/x", False),
    ],
)
def test_a_page_older_than_its_sources_is_stale(hook: ModuleType, clone: Path, name: str, stale: bool) -> None:
    page = made_page(clone)
    later = page.stat().st_mtime_ns + 10**9
    assert not hook.is_stale(clone)
    (clone / name).parent.mkdir(exist_ok=True)
    (clone / name).write_text("changed")
    os.utime(clone / name, ns=(later, later))
    assert hook.is_stale(clone) is stale


def test_an_unpacked_archive_carries_its_page(hook: ModuleType, clone: Path) -> None:
    made_page(clone)
    shutil.rmtree(clone / "web")
    assert not hook.ensure_page(clone)


def test_without_sources_and_page_the_words_say_what_to_do(hook: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(hook.PageMissing, match="Build from a clone"):
        hook.ensure_page(tmp_path)


def test_node_comes_from_pip_only_where_it_is_needed(
    hook: ModuleType, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = a_hook(hook, clone)
    monkeypatch.setattr(hook, "npm_on_path", lambda: None)
    assert made.dependencies() == [hook.NODE_PACKAGE]
    monkeypatch.setenv(hook.SKIP, "1")
    assert made.dependencies() == []
    monkeypatch.delenv(hook.SKIP)
    monkeypatch.setattr(hook, "npm_on_path", lambda: ["/usr/bin/npm"])
    assert made.dependencies() == []
    made_page(clone)
    monkeypatch.setattr(hook, "npm_on_path", lambda: None)
    assert made.dependencies() == []


@pytest.mark.parametrize(
    ("version", "usable"),
    [("v18.20.1", False), ("v20.18.9", False), ("v20.19.0", True), ("v24.1.0", True), ("?", False)],
)
def test_an_old_node_counts_as_none(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, usable: bool
) -> None:
    for name in ("node", "npm"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {version}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (hook.npm_on_path() is not None) is usable


@needs_npm
@pytest.mark.slow
def test_a_failed_build_ends_a_wheel_and_only_warns_an_editable_installation(hook: ModuleType, clone: Path) -> None:
    (clone / "web" / "package.json").write_text(
        json.dumps({"name": "x", "version": "1.0.0", "scripts": {"build": "echo Type error in main.ts >&2; exit 2"}})
    )
    made, warnings = a_hook(hook, clone)
    with pytest.raises(hook.PageMissing, match=r"Type error in main\.ts"):
        made.initialize("standard", {})
    made.initialize("editable", {})
    assert "Type error in main.ts" in warnings[0]


def test_skipping_is_possible(hook: ModuleType, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(hook.SKIP, "1")
    made, _ = a_hook(hook, clone)
    made.initialize("standard", {})
    assert not (clone / "labelserver").exists()


def test_it_runs_by_itself(clone: Path) -> None:
    shutil.copy(ROOT / "hatch_build.py", clone)
    check = [sys.executable, "-S", str(clone / "hatch_build.py"), "--check"]  # -S: without hatchling
    assert subprocess.run(check, check=False).returncode == 1
    made_page(clone)
    assert subprocess.run(check, check=False).returncode == 0
