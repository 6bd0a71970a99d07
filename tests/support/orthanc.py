"""A real Orthanc on free ports of this machine alone, in a folder of its own, for as long as a test needs it."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

_PLUGINS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc/plugins")


@dataclass(frozen=True, slots=True)
class Orthanc:
    """Where it listens. `aet`: its name in DIMSE."""

    http_port: int
    dicom_port: int
    aet: str = "ORTHANC"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def dicomweb(self) -> str:
        return f"{self.url}/dicom-web"


@contextlib.contextmanager
def running_orthanc(folder: Path) -> Iterator[Orthanc]:
    """Start it, wait until it answers, end it. Skips the test, visibly, where it is not installed."""
    program = shutil.which("Orthanc")
    plugins = [p for p in _PLUGINS if list(Path(p).glob("*OrthancDicomWeb*"))]
    if program is None or not plugins:
        pytest.skip("Orthanc (Debian packages orthanc and orthanc-dicomweb) is not installed")
    place = Orthanc(_free_port(), _free_port())
    folder.mkdir(parents=True, exist_ok=True)
    configuration = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "HttpPort": place.http_port,
        "HttpBindAddresses": ["127.0.0.1"],
        "DicomPort": place.dicom_port,
        "DicomAet": place.aet,
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowStore": True,
        "UnknownSopClassAccepted": True,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": plugins,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    with (folder / "orthanc.log").open("w") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log)
        try:
            _wait_until_ready(place, process, folder / "orthanc.log")
            yield place
        finally:
            process.terminate()
            process.wait(20)


def _wait_until_ready(place: Orthanc, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if process.poll() is not None:
            raise AssertionError(f"Orthanc ended: {log.read_text()[-2000:]}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{place.url}/system", timeout=5).status_code == 200:
                return
    raise AssertionError(f"Orthanc does not answer: {log.read_text()[-2000:]}")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
