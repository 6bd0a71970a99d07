"""What the running server process is made of, and how it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from labelserver.cli.apps import carried_apps
from labelserver.client import LabelServerClient
from labelserver.phantoms import make_study_set
from tests.support.live_server import LiveServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

#: MiB; idle, with radiology and its phantoms
RSS_LIMIT = 150


def copied_app(folder: Path) -> Path:
    words = ["apps", "--download", "--name", "radiology", "--output", str(folder)]
    subprocess.run([sys.executable, "-m", "labelserver.cli.main", *words], check=True, timeout=60)
    return folder / "radiology"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("process")
    make_study_set(folder / "studies", 4, spacing_mm=8.0)
    quiet = {"LABELSERVER_AUTO_UPDATE_SCORING": "false"}
    with LiveServer(copied_app(folder), folder / "studies", conf={"models": "segmentation"}, **quiet) as running:
        yield running


def children_of(pid: int) -> list[int]:
    """Processes that `pid` started, from any of its threads."""
    return [
        int(child)
        for thread in Path(f"/proc/{pid}/task").iterdir()
        for child in (thread / "children").read_text().split()
    ]


def rss_mib(pid: int) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def test_the_server_process_maps_neither_torch_nor_the_app(server: LiveServer) -> None:
    assert "segmentation" in server.http.get("/info/").json()["models"]
    server.http.post("/activelearning/first")
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    assert "libtorch" not in maps
    for library in ("matplotlib", "skimage", "sklearn"):
        assert f"/{library}/" not in maps
    workers = children_of(server.pid)
    assert any("libtorch" in Path(f"/proc/{pid}/maps").read_text() for pid in workers), "it is the worker that has it"


def test_a_worker_keeps_its_memory_for_the_next_pass(server: LiveServer) -> None:
    worker = server.processes("labelserver.worker")[0]
    assert "glibc.malloc.trim_threshold" in Path(f"/proc/{worker}/environ").read_text()


def test_the_idle_server_is_small(server: LiveServer) -> None:
    assert rss_mib(server.pid) < RSS_LIMIT


def test_one_line_tells_what_to_open_and_what_to_try(server: LiveServer) -> None:
    lines = server.output.read_text().splitlines()
    assert lines == [f"Ready for viewers. Open {server.url}/ to label, or try: curl {server.url}/info/"]


def test_the_log_is_in_the_app_folder_and_at_the_route(server: LiveServer) -> None:
    assert (server.app / "logs" / "labelserver.log").stat().st_size > 0
    assert "labelserver." in server.http.get("/logs/", params={"text": True}).text


def test_the_python_client_drives_it(server: LiveServer, tmp_path: Path) -> None:
    reference = server.studies.with_name("studies-reference")
    with LabelServerClient(server.url, person="ada") as client:
        info = client.info()
        assert info.images == 4
        assert client.is_ready()
        assert not client.auth_enabled()
        sample = client.next_sample("first")
        assert sample is not None
        image = client.download_image(sample.id, tmp_path)
        assert image.read_bytes() == (server.studies / image.name).read_bytes()
        client.save_label(sample.id, reference / image.name, params={"label_info": [{"name": "liver", "idx": 1}]})
        assert client.label_info(sample.id)["label_info"] == [{"name": "liver", "idx": 1}]
        label = client.download_label(sample.id, folder=tmp_path / "labels")
        assert label.stat().st_size > 0
        assert sample.id in client.datastore()["objects"]
        upload = client.create_session(image)
        assert client.get_session(upload.session_id).session_id == upload.session_id
        client.remove_session(upload.session_id)
        assert client.upload_image(image, "copy/of it") == "copy/of it"
        client.remove_image("copy/of it")
        client.remove_label(sample.id)
        assert client.jobs() == []
        assert client.models() == []
        assert client.train_status() is None


def test_a_taken_port_is_said_so(server: LiveServer, tmp_path: Path) -> None:
    app = copied_app(tmp_path)
    command = [sys.executable, "-m", "labelserver.cli.main", "start_server", "--app", str(app)]
    command += ["--studies", str(tmp_path / "s"), "--port", str(server.port)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert f"{server.port}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_second_server_on_the_same_folders_says_who_has_them(server: LiveServer) -> None:
    command = [sys.executable, "-m", "labelserver.cli.main", "start_server", "--app", str(server.app)]
    ended = subprocess.run(
        [*command, "--studies", str(server.studies), "--port", "0"], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert str(server.pid) in ended.stderr


def test_a_bind_beyond_loopback_stops_with_advice(tmp_path: Path) -> None:
    app = copied_app(tmp_path)
    command = [sys.executable, "-m", "labelserver.cli.main", "start_server", "--app", str(app)]
    ended = subprocess.run(
        [*command, "--studies", str(tmp_path / "s"), "--host", "0.0.0.0"], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert "--behind-proxy" in ended.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order_and_it_says_what_becomes_of_jobs(how: signal.Signals, tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    make_study_set(studies, 1, spacing_mm=10.0)
    running = LiveServer(copied_app(tmp_path), studies)
    running.start(ready=False)
    workers = children_of(running.pid)
    running.stop(how)
    running.http.close()
    assert running._process is not None
    assert running._process.returncode == 0
    assert "checkpoint" in running.output.read_text()
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_doctor_finds_nothing_wrong_here_and_names_a_bad_file(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    make_study_set(studies, 1, spacing_mm=10.0)
    (studies / "broken.nii.gz").write_bytes(b"not a volume")
    command = [sys.executable, "-m", "labelserver.cli.main", "doctor", "--app", str(carried_apps() / "radiology")]
    ended = subprocess.run(
        [*command, "--studies", str(studies)], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Nothing is wrong" in ended.stdout
    assert "broken.nii.gz" in ended.stdout
    assert "segmentation" in ended.stdout
