"""A package as a real image: built without docker, run as user 1000 without network, checked as an OCI layout.

The root file system is Debian's with Python 3.11 (mmdebstrap), the image is built by buildah in a chroot and run by
runc. So that the image stays small, its layer of packages is not installed: this environment's is mounted read-only.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from labelserver.export.map import layout, write_map
from labelserver.export.map.checking import check
from labelserver.export.map.dockerfile import image_name
from labelserver.imaging.volumes import read_volume
from tests.support.dicom_studies import write_series
from tests.support.exported_model import expected, prepare

pytestmark = [pytest.mark.slow, pytest.mark.map_image, pytest.mark.timeout(1500)]

TOOLS = ("mmdebstrap", "buildah", "runc")
PACKAGES = "/opt/packages"
SOURCES = [Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")]


@dataclass(frozen=True, slots=True)
class Image:
    """A built image: its files as runc's root, and as an OCI layout."""

    root: Path
    layout: Path
    context: Path
    bundle: Path


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"a real image needs root and {', '.join(TOOLS)}; missing: {', '.join(missing) or 'root'}")
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the packages that are mounted into Debian 12 must be of its Python, 3.11")
    place = tmp_path_factory.mktemp("image")
    contents = prepare(place / "model")
    context = write_map(contents, place / "context")
    name = f"localhost/{image_name(contents)}"
    buildah = _Buildah(place)
    _base(place / "base.tar")
    container = buildah.call("from", "scratch")
    buildah.call("add", "--quiet", container, str(place / "base.tar"), "/")
    buildah.call("commit", "--quiet", container, "localhost/base")
    arguments = ["--build-arg", "BASE_IMAGE=localhost/base", "--build-arg", "DEPENDENCIES=none"]
    buildah.call("bud", "--quiet", "--isolation", "chroot", "--pull-never", *arguments, "--tag", name, str(context))
    buildah.call("push", "--quiet", name, f"oci:{place / 'layout'}:map")
    ours = buildah.call("from", "--pull-never", name)
    (place / "bundle").mkdir()
    try:
        yield Image(Path(buildah.call("mount", ours)), place / "layout", context, place / "bundle")
    finally:
        buildah.call("rm", "--all")
        shutil.rmtree(place, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Buildah:
    place: Path

    def call(self, *words: str) -> str:
        roots = ["--root", str(self.place / "store"), "--runroot", str(self.place / "run"), "--storage-driver", "vfs"]
        environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
        done = subprocess.run(["buildah", *roots, *words], env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()


def _base(target: Path) -> None:
    source = next((str(path) for path in SOURCES if path.is_file() and "deb" in path.read_text()), "")
    words = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=python3", "--format=tar", "bookworm", str(target)]
    if source.endswith(".sources"):
        words.append(source)
    done = subprocess.run(words, capture_output=True, text=True, timeout=900)
    if done.returncode != 0:
        pytest.skip(f"no Debian root can be made here: {done.stderr.strip()[-300:]}")


def run(
    image: Image, *words: str, mounts: Sequence[tuple[Path, str, str]] = (), packages: bool = True
) -> tuple[int, str]:
    """Run the image's entry point with runc: user 1000, no network. Returns the status and what it said."""
    shutil.rmtree(image.root / "run/holoscan/export", ignore_errors=True)  # mount points of an earlier run
    config = image.bundle / "config.json"
    config.unlink(missing_ok=True)
    subprocess.run(["runc", "spec"], cwd=image.bundle, check=True)
    document = json.loads(config.read_text())
    assert {"type": "network"} in document["linux"]["namespaces"]
    variables = {**layout.ENVIRONMENT, "PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    variables |= {"OMP_NUM_THREADS": "1"}
    places = list(mounts)
    if packages:
        places.append((Path(np.__file__).parents[1], PACKAGES, "ro"))
        variables["PYTHONPATH"] = PACKAGES
    document["root"] = {"path": str(image.root), "readonly": False}
    document["process"] |= {
        "terminal": False,
        "user": {"uid": layout.USER, "gid": layout.USER},
        "args": [layout.TOOLS, *words],
        "cwd": layout.WORK,
        "env": [f"{name}={value}" for name, value in variables.items()],
    }
    for source, target, mode in places:
        mount = {"destination": target, "type": "bind", "source": str(source), "options": ["rbind", mode]}
        document["mounts"].append(mount)
    config.write_text(json.dumps(document))
    words_ = ["runc", "--root", str(image.bundle / "state"), "run", "--bundle", str(image.bundle), f"map-{os.getpid()}"]
    done = subprocess.run(words_, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout + done.stderr


def for_user(folder: Path) -> Path:
    """A folder that the image's user may write."""
    folder.mkdir(parents=True)
    os.chown(folder, layout.USER, layout.USER)
    return folder


def test_the_image_layout_follows_the_specification(image: Image) -> None:
    assert [str(finding) for finding in check(image.layout)] == []


def test_the_image_segments_with_its_packages_mounted(image: Image, tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(-200, 900, (16, 14, 5)).astype(np.int32)
    write_series(tmp_path / "in", voxels, PixelRepresentation=1)
    out = for_user(tmp_path / "out")
    mounts = [(tmp_path / "in", f"{layout.WORK}/input", "ro"), (out, f"{layout.WORK}/output", "rw")]
    status, said = run(image, "--nifti", mounts=mounts)
    assert status == 0, said
    assert sorted(p.name for p in out.iterdir()) == ["labels.nii.gz", "metadata.json", "segmentation.dcm"]
    assert {p.stat().st_uid for p in out.iterdir()} == {layout.USER}
    assert np.array_equal(read_volume(out / "labels.nii.gz").voxels, expected(voxels))


def test_the_image_refuses_an_input_that_cannot_be_placed(image: Image, tmp_path: Path) -> None:
    write_series(tmp_path / "in", np.zeros((8, 8, 5), np.int32))[2].unlink()
    out = for_user(tmp_path / "out")
    mounts = [(tmp_path / "in", f"{layout.WORK}/input", "ro"), (out, f"{layout.WORK}/output", "rw")]
    status, said = run(image, mounts=mounts)
    assert (status, list(out.iterdir())) == (3, [])
    assert "slices are missing" in said


def test_show_and_help_need_no_packages(image: Image) -> None:
    status, said = run(image, "show", packages=False)
    assert status == 0
    assert (image.context / "map" / "app.json").read_text() in said
    assert run(image, "help", packages=False)[0] == 0


@pytest.mark.parametrize("mounted", [(), ("app",), ("config", "models"), ("app", "config", "models", "docs")])
def test_extract_with_no_one_and_several_mounts(image: Image, tmp_path: Path, mounted: tuple[str, ...]) -> None:
    export = "/run/holoscan/export"
    if mounted:
        mounts = [(for_user(tmp_path / name), f"{export}/{name}", "rw") for name in mounted]
    else:
        mounts = [(for_user(tmp_path / "all"), export, "rw")]
    status, said = run(image, "extract", mounts=mounts, packages=False)
    assert status == 0, said
    place = tmp_path if mounted else tmp_path / "all"
    wanted = set(mounted or ("app", "config", "models", "docs"))
    assert {p.name for p in place.iterdir()} == wanted
    files = {
        "app": "__main__.py",
        "config": "app.json",
        "models": "segmentation/model.ts",
        "docs": "README.md",
    }
    for name in wanted:
        assert (place / name / files[name]).is_file()


def test_a_wrong_command_and_a_timeout_are_told_by_the_status(image: Image, tmp_path: Path) -> None:
    manifest = json.loads((image.context / "map" / "app.json").read_text())
    for command, timeout, wanted in (('["/nowhere"]', 600, 127), ('["sleep", "60"]', 1, 124)):
        changed = tmp_path / f"{wanted}.json"
        changed.write_text(json.dumps({**manifest, "command": command, "timeout": timeout}))
        mounts = [(changed, layout.APP_MANIFEST, "ro")]
        assert run(image, mounts=mounts, packages=False)[0] == wanted
