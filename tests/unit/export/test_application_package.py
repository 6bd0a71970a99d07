"""The application package: what is in its context, how its entry point behaves, and what the checker finds."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from labelserver.domain.errors import Absent, Conflict, InvalidParams, UnreadableFile
from labelserver.export.contents import ExportContents
from labelserver.export.map import MapOptions, dockerfile, engines, layout, tools, wheels, write_map
from labelserver.export.map.checking import RULES, Finding, check
from labelserver.export.map.engines import Engine
from labelserver.export.map.manifests import Resources
from labelserver.export.map.running import run_folder
from tests.support.exported_model import prepare


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> ExportContents:
    return prepare(tmp_path_factory.mktemp("export") / "model")


@pytest.fixture
def context(contents: ExportContents, tmp_path: Path) -> Path:
    return write_map(contents, tmp_path / "map")


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


# What is written


def test_the_manifests_have_exactly_our_profile(context: Path) -> None:
    app = json.loads((context / "map" / "app.json").read_text())
    assert app == {
        "apiVersion": "1.0.0",
        "type": "application",
        "command": '["python3", "/opt/holoscan/app"]',
        "environment": {
            "HOLOSCAN_APPLICATION": "/opt/holoscan/app",
            "HOLOSCAN_INPUT_PATH": "/var/holoscan/input/",
            "HOLOSCAN_OUTPUT_PATH": "/var/holoscan/output/",
            "HOLOSCAN_WORKDIR": "/var/holoscan/",
            "HOLOSCAN_MODEL_PATH": "/opt/holoscan/models/",
            "HOLOSCAN_CONFIG_PATH": "/var/holoscan/app.yaml",
            "HOLOSCAN_APP_MANIFEST_PATH": "/etc/holoscan/app.json",
            "HOLOSCAN_PKG_MANIFEST_PATH": "/etc/holoscan/pkg.json",
            "HOLOSCAN_DOCS": "/opt/holoscan/docs",
            "HOLOSCAN_DOCS_PATH": "/opt/holoscan/docs",
            "HOLOSCAN_LOGS": "/var/holoscan/logs",
            "HOLOSCAN_LOGS_PATH": "/var/holoscan/logs",
        },
        "input": {"path": "input/", "formats": ["file"]},
        "output": {"path": "output/", "format": "file", "formats": ["file"]},
        "readiness": None,
        "liveness": None,
        "sdk": "labelserver",
        "sdkVersion": "0.1.0",
        "timeout": 600,
        "version": "7.0.0",
        "workingDirectory": "/var/holoscan/",
    }
    package = json.loads((context / "map" / "pkg.json").read_text())
    assert package == {
        "apiVersion": "1.0.0",
        "applicationRoot": "/opt/holoscan/app/",
        "modelRoot": "/opt/holoscan/models/",
        "models": [{"name": "segmentation", "path": "segmentation"}],
        "resources": {"cpu": 2, "gpu": 0, "memory": "4Gi", "sharedMemory": "1Gi"},
        "version": "7.0.0",
        "platformConfig": "cpu",
    }


def test_the_context_has_one_file_for_each_model_and_none_in_the_application(context: Path) -> None:
    models = [p.relative_to(context).as_posix() for p in (context / "models").rglob("*") if p.is_file()]
    assert models == ["models/segmentation/model.ts"]
    assert not list((context / "app").rglob("*.ts"))
    assert os.access(context / "tools", os.X_OK)
    with ZipFile(context / "models" / "segmentation" / "model.ts") as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {"model"}  # not renamed since it was saved


def test_names_from_people_are_no_syntax_of_the_recipe(contents: ExportContents) -> None:
    import dataclasses

    text = dockerfile.text(
        dataclasses.replace(contents, description='x" \n RUN rm -rf / \\ $HOME `id`', app="a\nRUN b")
    )
    (label,) = [line for line in text.splitlines() if "image.description" in line]
    assert label.strip() == ('org.opencontainers.image.description="x\\" RUN rm -rf / \\\\ \\$HOME \'id\'" \\')
    assert not [line for line in text.splitlines() if line.startswith("RUN b")]


def test_nothing_is_overwritten(context: Path, contents: ExportContents) -> None:
    with pytest.raises(Conflict):
        write_map(contents, context)


# The entry point


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The files of an image whose application prints its arguments."""
    root = tmp_path / "root"
    for path in (layout.APP, f"{layout.MODELS}/m", layout.DOCS, "/etc/holoscan", layout.WORK):
        (root / path.lstrip("/")).mkdir(parents=True)
    (root / "opt/holoscan/app/a.py").write_text("")
    (root / "opt/holoscan/models/m/model.ts").write_bytes(b"weights")
    (root / "opt/holoscan/docs/README.md").write_text("# x")
    (root / "var/holoscan/app.yaml").write_text("{}")
    (root / "etc/holoscan/pkg.json").write_text('{"version": "1.0.0"}')
    manifest(root, f"{json.dumps([sys.executable, '-c', 'import sys; print(sys.argv[1:])'])}")
    return root


def manifest(root: Path, command: str, timeout: float = 0, **more: Any) -> None:
    document = {"command": command, "timeout": timeout, "workingDirectory": str(root / "var/holoscan"), **more}
    (root / "etc/holoscan/app.json").write_text(json.dumps(document))


def tool(root: Path, *words: str, start: bool = True) -> subprocess.Popen[str]:
    code = f"import sys; from labelserver.export.map.tools import main; sys.exit(main(sys.argv[1:], {str(root)!r}))"
    return subprocess.Popen([sys.executable, "-c", code, *words], stdout=-1, stderr=-1, text=True)


def ran(root: Path, *words: str) -> tuple[int, str, str]:
    process = tool(root, *words)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_no_words_and_unknown_words_go_to_the_application(image: Path) -> None:
    assert ran(image) == (0, "[]\n", "")
    assert ran(image, "shows", "--mesh") == (0, "['shows', '--mesh']\n", "")


@pytest.mark.parametrize("timeout", [0, 50])
def test_the_command_is_a_list_in_a_text_or_a_line_for_a_shell(image: Path, timeout: float) -> None:
    manifest(
        image,
        f"{sys.executable} -c 'import os; print(os.environ[\"A\"], os.getcwd())'",
        timeout,
        environment={"A": "b"},
    )
    assert ran(image)[1] == f"b {image / 'var/holoscan'}\n"
    manifest(image, "echo $A | tr b c; exit 7", timeout, environment={"A": "b"})
    assert ran(image)[:2] == (7, "c\n")
    manifest(image, "echo $A", timeout, environment={"A": "b"})
    assert ran(image, "more words")[1] == "b more words\n"


def test_a_command_that_is_not_there_ends_with_127(image: Path) -> None:
    for timeout in (0, 5):
        manifest(image, '["/nowhere/python"]', timeout)
        assert ran(image)[0] == 127


def test_an_application_that_runs_too_long_is_ended(image: Path) -> None:
    manifest(image, json.dumps([sys.executable, "-c", "import signal; signal.pause()"]), 0.2)
    status, _, said = ran(image)
    assert status == 124
    assert "ended after 0.2 s" in said


@pytest.mark.parametrize("timeout", [0, 50])
def test_a_signal_reaches_the_application(image: Path, timeout: float) -> None:
    code = "import signal, sys; signal.signal(15, lambda *a: sys.exit(9)); print('up', flush=True); signal.pause()"
    manifest(image, json.dumps([sys.executable, "-c", code]), timeout)
    process = tool(image)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 9


def test_show_prints_one_manifest_or_both(image: Path) -> None:
    app, package = ((image / "etc/holoscan" / name).read_text() for name in ("app.json", "pkg.json"))
    assert ran(image, "show")[1] == f"{app}\n{package}\n"
    assert ran(image, "show", "pkg")[1] == f"{package}\n"
    assert ran(image, "show", "all")[0] == 2
    assert "extract" in ran(image, "help")[1]


ALL = {
    "app/a.py",
    "config/app.json",
    "config/app.yaml",
    "config/pkg.json",
    "docs/README.md",
    "models/m/model.ts",
}


@pytest.mark.parametrize(
    ("mounted", "copied"),
    [
        ((), ALL),
        (("app",), {"app/a.py"}),
        (("config", "models"), {n for n in ALL if n.startswith(("config", "models"))}),
        (("app", "config", "docs", "models"), ALL),
    ],
)
def test_extract_copies_the_contents_into_what_is_mounted(
    image: Path, mounted: tuple[str, ...], copied: set[str]
) -> None:
    export = image / "var/run/holoscan/export"
    export.mkdir(parents=True)
    for name in mounted:
        (export / name).mkdir()
    assert ran(image, "extract")[0] == 0
    assert {p.relative_to(export).as_posix() for p in export.rglob("*") if p.is_file()} == copied


def test_extract_without_a_mount_says_so(image: Path) -> None:
    status, said, _ = ran(image, "extract")
    assert status == 1
    assert "Nothing is mounted" in said


def test_the_entry_point_in_the_context_is_the_tested_one(context: Path) -> None:
    assert (context / "tools").read_bytes() == Path(tools.__file__).read_bytes()
    isolated = subprocess.run([sys.executable, "-I", "-S", context / "tools", "help"], capture_output=True, text=True)
    assert isolated.stdout.strip() == (tools.__doc__ or "").strip()


# The checker


def test_our_own_context_has_nothing_to_find(context: Path) -> None:
    assert check(context) == []


APP_FAULTS: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("A1", lambda d: d.update(apiVersion=1.0)),
    ("A2", lambda d: d.pop("type")),
    ("A3", lambda d: d.update(command=["python3"])),
    ("A3", lambda d: d.update(command=" ")),
    ("H1", lambda d: d.update(command="python3 /opt/holoscan/app")),
    ("A4", lambda d: d.update(environment={"A": 1})),
    ("A5", lambda d: d["input"].update(formats=None)),
    ("A5", lambda d: d.pop("input")),
    ("A6", lambda d: d.update(output={"path": "output/"})),
    ("A7", lambda d: d.update(readiness={"type": "tcp", "port": 70000})),
    ("A8", lambda d: d.update(liveness={"type": "psychic"})),
    ("A9", lambda d: d.update(sdkVersion="one")),
    ("A10", lambda d: d.update(timeout=-1)),
    ("A10", lambda d: d.update(timeout="600")),
    ("A11", lambda d: d.update(version=1.0)),
    ("A12", lambda d: d.update(workingDirectory="holoscan")),
    ("E1", lambda d: d["environment"].pop("HOLOSCAN_INPUT_PATH")),
    ("H3", lambda d: d["environment"].pop("HOLOSCAN_DOCS_PATH")),
]
PACKAGE_FAULTS: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("K1", lambda d: d.update(apiVersion="1")),
    ("K2", lambda d: d.pop("applicationRoot")),
    ("K3", lambda d: d.update(modelRoot="models")),
    ("K4", lambda d: d.update(models={"segmentation": "/opt/holoscan/models/segmentation"})),
    ("K4", lambda d: d.update(models=[{"name": "two words"}])),
    ("K5", lambda d: d["resources"].update(memory="4GB")),
    ("K5", lambda d: d["resources"].update(cpu=3.14)),
    ("K5", lambda d: d["resources"].update(fragments={"one": {"gpu": -1}})),
    ("K6", lambda d: d.update(version="1,024")),
    ("P4", lambda d: d.update(models=[{"name": "other"}])),
]


@pytest.mark.parametrize(("rule", "fault"), APP_FAULTS)
def test_a_fault_in_the_application_manifest_is_found(
    context: Path, rule: str, fault: Callable[[dict[str, Any]], Any]
) -> None:
    changed(context / "map" / "app.json", fault)
    assert rule in {finding.rule for finding in check(context)}


@pytest.mark.parametrize(("rule", "fault"), PACKAGE_FAULTS)
def test_a_fault_in_the_package_manifest_is_found(
    context: Path, rule: str, fault: Callable[[dict[str, Any]], Any]
) -> None:
    changed(context / "map" / "pkg.json", fault)
    assert rule in {finding.rule for finding in check(context)}


def test_missing_and_misplaced_files_are_found(context: Path) -> None:
    (context / "docs" / "README.md").unlink()
    (context / "app.yaml").unlink()
    (context / "models" / "segmentation" / "second").write_bytes(b"")
    (context / "models" / "loose").write_bytes(b"")
    (context / "map" / "pkg.json").write_bytes(b"\xff")
    assert {f.rule for f in check(context)} == {"P2", "P5", "P6", "P7"}
    assert str(check(context)[0]).startswith("error P2: /etc/holoscan/pkg.json is not JSON in UTF-8")


def test_what_is_no_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidParams, match="no application package"):
        check(tmp_path)


def as_layout(
    place: Path, parts: list[dict[str, bytes]], *, modes: dict[str, int] | None = None, **config: Any
) -> Path:
    """An OCI image layout with a layer for each of `parts`: path -> content; a path that ends in / is a folder."""
    blobs = place / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(content: bytes) -> dict[str, Any]:
        digest = sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"digest": f"sha256:{digest}", "size": len(content)}

    layers = []
    for part in parts:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as archive:
            for name, content in part.items():
                info = tarfile.TarInfo(name.rstrip("/"))
                info.size, info.mode = len(content), (modes or {}).get(name, 0o755)
                info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
                archive.addfile(info, io.BytesIO(content))
        layers.append(put(stream.getvalue()))
    about = {"architecture": "amd64", "os": "linux", "config": config}
    manifest_ = {"config": put(json.dumps(about).encode()), "layers": layers}
    index = {
        "manifests": [
            {"mediaType": "application/vnd.oci.image.manifest.v1+json", **put(json.dumps(manifest_).encode())}
        ]
    }
    (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (place / "index.json").write_text(json.dumps(index))
    return place


def image_parts(context: Path) -> dict[str, bytes]:
    return {
        "etc/holoscan/app.json": (context / "map/app.json").read_bytes(),
        "etc/holoscan/pkg.json": (context / "map/pkg.json").read_bytes(),
        "opt/holoscan/app/a.py": b"",
        "opt/holoscan/models/segmentation/model.ts": b"x",
        "opt/holoscan/docs/README.md": b"x",
        "var/holoscan/app.yaml": b"{}",
        "run/holoscan/": b"",
    }


LABELS = {f"org.opencontainers.image.{n}": v for n, v in (("title", "t"), ("version", "7.0.0"), ("created", "c"))}


def test_an_image_layout_is_checked_layer_by_layer(context: Path, tmp_path: Path) -> None:
    good = {"Entrypoint": ["/t"], "User": "1000:1000", "Labels": LABELS}
    parts = image_parts(context)
    assert check(as_layout(tmp_path / "good", [parts], **good)) == []
    later: dict[str, bytes] = {"opt/holoscan/docs/.wh.README.md": b"", "opt/holoscan/models/.wh..wh..opq": b""}
    found = {f.rule for f in check(as_layout(tmp_path / "without", [parts, later], **good))}
    assert found == {"P4", "P6"}
    bare = check(as_layout(tmp_path / "bare", [parts], modes={"run/holoscan/": 0o700}))
    assert {f.rule for f in bare} == {"I1", "I2", "I4", "H4", "H5"}
    other = check(as_layout(tmp_path / "other", [parts], **{**good, "Labels": {**LABELS, list(LABELS)[1]: "8.0.0"}}))
    assert [f.rule for f in other] == ["I3"]


def test_a_damaged_layout_is_refused(context: Path, tmp_path: Path) -> None:
    place = as_layout(tmp_path / "image", [image_parts(context)])
    for blob in (place / "blobs/sha256").iterdir():
        blob.write_bytes(blob.read_bytes()[:20])
    with pytest.raises(UnreadableFile):
        check(place)


def test_a_foreign_package_is_checked_by_the_same_rules(tmp_path: Path) -> None:
    """One as an earlier packager left it: no type, models as an object, relative input, a line that needs jq."""
    (tmp_path / "map").mkdir()
    (tmp_path / "map/app.json").write_text(
        json.dumps(
            {
                "apiVersion": "1.0.0",
                "command": '["python3", "/opt/holoscan/app"]',
                "environment": {"HOLOSCAN_INPUT_PATH": "input/", "HOLOSCAN_OUTPUT_PATH": "output/"},
                "input": {"path": "input/", "formats": None},
                "output": {"path": "output/", "formats": None},
                "version": 1.0,
            }
        )
    )
    (tmp_path / "map/pkg.json").write_text(json.dumps({"applicationRoot": "/opt/holoscan/app", "models": {"m": "/x"}}))
    found = {f.rule: f.error for f in check(tmp_path)}
    errors = {rule for rule, error in found.items() if error}
    assert errors == {"A2", "A5", "A6", "A11", "K4", "P3", "E1"}
    assert set(found) <= set(RULES)


def test_every_rule_that_can_be_broken_is_described(context: Path) -> None:
    source = Path(sys.modules[check.__module__].__file__ or "").read_text()
    import re

    used = set(re.findall(r'"([A-Z]\d+)"', source))
    assert used == set(RULES)
    assert str(Finding("A1", False, "x.")) == "advice A1: x."


# Engines and folders


def test_a_folder_runs_without_a_container(image: Path, tmp_path: Path) -> None:
    code = "import os, sys; open(os.environ['HOLOSCAN_OUTPUT_PATH'] + '/told', 'w').write(repr([sys.argv[1:], "
    code += "os.environ['HOLOSCAN_MODEL_PATH'], os.environ['HOLOSCAN_INPUT_PATH'], os.getcwd()])); sys.exit(5)"
    (image / "opt/holoscan/app/__main__.py").write_text(code)
    manifest(image, '["python3", "/opt/holoscan/app"]', 60)
    (tmp_path / "in").mkdir()
    assert run_folder(image, tmp_path / "in", tmp_path / "out", ["--mesh"]) == 5
    models = str(image / "opt/holoscan/models")
    told = [["--mesh"], models, str(tmp_path / "in"), str(tmp_path / "out")]
    assert (tmp_path / "out" / "told").read_text() == repr(told)
    with pytest.raises(InvalidParams, match="does not exist"):
        run_folder(image, tmp_path / "nowhere", tmp_path / "out")


def test_without_an_engine_the_command_for_elsewhere_is_told(
    context: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Absent, match=r"docker build --tag x:1 --build-arg A=b --file Dockerfile \."):
        engines.build(context, "x:1", {"A": "b"})
    with pytest.raises(Absent, match=r"docker run --rm --network none --user 1000:1000 "):
        engines.run_image("x:1", tmp_path, tmp_path, [])
    with pytest.raises(InvalidParams, match="no Dockerfile"):
        engines.build(tmp_path, "x:1", {})


def put_engine(folder: Path, name: str, code: str) -> None:
    """A program of that name that writes down its words; `code` is Python with `words`."""
    folder.mkdir(exist_ok=True)
    script = f"#!{sys.executable}\nimport sys, json\nwords = sys.argv[1:]\n"
    script += f"open({str(folder / 'calls')!r}, 'a').write(json.dumps([{name!r}, *words]) + '\\n')\n{code}\n"
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)


def test_the_first_engine_that_answers_builds(context: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_engine(tmp_path / "bin", "docker", "sys.exit(1)")  # installed, and no daemon behind it
    put_engine(tmp_path / "bin", "podman", "sys.exit(3 if words[0] == 'build' else 0)")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert engines.build(context, "x:1", {}) == 3
    calls = [json.loads(line) for line in (tmp_path / "bin" / "calls").read_text().splitlines()]
    assert [call[:2] for call in calls] == [["docker", "info"], ["podman", "info"], ["podman", "build"]]
    assert calls[-1][2:] == ["--tag", "x:1", "--file", str(context / "Dockerfile"), str(context)]


def test_an_image_is_run_as_its_own_manifest_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = {"environment": {"A": "1"}, "input": {"path": "in/"}, "workingDirectory": "/job", "timeout": 60}
    put_engine(tmp_path / "bin", "docker", f"print({json.dumps(app)!r}) if 'cat' in words else sys.exit(9)")
    code = "sys.exit(0) if words[0] == 'info' else None\n"
    put_engine(tmp_path / "bin", "docker", code + f"print({json.dumps(app)!r}) if 'cat' in words else sys.exit(9)")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert engines.run_image("x:1", tmp_path / "a", tmp_path / "b", ["--mesh"]) == 9
    call = json.loads((tmp_path / "bin" / "calls").read_text().splitlines()[-1])
    assert call[-2:] == ["x:1", "--mesh"]
    assert f"{tmp_path / 'a'}:/job/in/:ro" in call
    assert f"{tmp_path / 'b'}:/job/output/" in call
    assert "HOLOSCAN_INPUT_PATH=/job/in/" in call
    assert "A=1" in call


def test_an_engine_gets_words_and_no_shell(tmp_path: Path) -> None:
    words = Engine("docker", "docker").build(tmp_path / "a b; rm", "x:1", {"A": "$(id)"})
    assert "A=$(id)" in words
    assert words[-1] == str(tmp_path / "a b; rm")


def test_wheels_are_fetched_and_pinned_by_hash(context: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    folder.mkdir()
    wheel = folder / "tiny_thing-1.2-py3-none-any.whl"
    with ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_thing.py", "")
        archive.writestr("tiny_thing-1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-thing\nVersion: 1.2\n")
        archive.writestr("tiny_thing-1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_thing-1.2.dist-info/RECORD", "")
    (context / "app" / "requirements.txt").write_text("tiny-thing==1.2\n")
    options = ["--no-index", "--find-links", str(folder)]
    pins = wheels.fill(context, "3.12", options)
    assert pins == [f"tiny-thing==1.2 --hash=sha256:{sha256(wheel.read_bytes()).hexdigest()}"]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(tmp_path / "installed"), "--no-index"]
    install += [
        "--find-links",
        str(context / "wheels"),
        "--require-hashes",
        "-r",
        str(context / "wheels/requirements.txt"),
    ]
    assert subprocess.run(install, check=False).returncode == 0
    assert (tmp_path / "installed" / "tiny_thing.py").exists()
    (context / "app" / "requirements.txt").write_text("absent-thing==1\n")
    with pytest.raises(Absent, match="cannot be fetched"):
        wheels.fill(context, "3.12", options)


def test_a_model_that_needs_a_gpu_says_so(contents: ExportContents, tmp_path: Path) -> None:
    place = write_map(contents, tmp_path / "map", MapOptions(resources=Resources(gpu=1), timeout_s=0))
    package = json.loads((place / "map" / "pkg.json").read_text())
    assert (package["resources"]["gpu"], package["platformConfig"]) == (1, "dgpu")
    assert json.loads((place / "map" / "app.json").read_text())["timeout"] == 0
