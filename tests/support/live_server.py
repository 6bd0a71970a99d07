"""A real server in processes of its own, on a free port, for as long as a test needs it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from labelserver.storage.processes import identity_of
from tests.support.split_key import fix_split


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(what: str, condition: Any, timeout_s: float = 60.0) -> Any:
    """Poll `condition` until it is truthy and return its value; fail with `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen within {timeout_s:.0f} s")


def processor_seconds(pid: int) -> float:
    """Processor time that a process has used (``/proc/<pid>/stat`` fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class LiveServer:
    """``labelserver start_server`` as a person runs it, but that a new project's key is no matter of chance."""

    def __init__(self, app: Path, studies: Path, *flags: str, conf: dict[str, str] | None = None, **env: str) -> None:
        self.app, self.studies = app, studies
        fix_split(studies, float(env.get("LABELSERVER_HELD_OUT_SHARE", 0.2)))
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        options = [text for key, value in (conf or {}).items() for text in ("--conf", key, value)]
        self._command = [sys.executable, "-m", "labelserver.cli.main", "start_server", "--app", str(app)]
        self._command += ["--studies", str(studies), "--port", str(self.port), *options, *flags]
        self._environment = {**os.environ, "OMP_NUM_THREADS": "2", **env}
        self._process: subprocess.Popen[bytes] | None = None
        self.output = app.parent / f"server-{self.port}.out"
        self.http = httpx.Client(base_url=self.url, timeout=120)

    def __enter__(self) -> LiveServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, *, ready: bool = True) -> None:
        with self.output.open("ab") as stream:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, env=self._environment
            )
        wait_until("an answer of /healthz", lambda: self._answers("/healthz"))
        if ready:
            wait_until("readiness", lambda: self._answers("/readyz"), 120)

    def _answers(self, path: str) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the server ended:\n{self.log_tail()}"
        try:
            return self.http.get(path, timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """kill -9 of the server process alone."""
        assert self._process is not None
        self._hang_up()
        self._process.kill()
        self._process.wait(30)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it as an operator does, and wait."""
        self._hang_up()
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                raise AssertionError(f"the server did not end on {how.name}:\n{self.log_tail()}") from None

    def _hang_up(self) -> None:
        """Close what is open to the server, so that a test leaves nothing behind; the next request connects anew."""
        self.http.close()
        self.http = httpx.Client(base_url=self.url, timeout=120)

    def log_tail(self, lines: int = 60) -> str:
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-lines:])

    def processes(self, containing: str) -> list[int]:
        """Living processes whose command holds `containing`: children of this server, runners and jobs of its app."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit() and int(folder.name) != self.pid:
                try:
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                except OSError:  # it ended meanwhile
                    continue
                ours = parent == self.pid or str(self.app) in command
                if ours and containing in command and identity_of(int(folder.name)) is not None:
                    found.append(int(folder.name))
        return found

    def infer(self, model: str, image: str, params: dict[str, Any] | None = None, output: str = "image") -> bytes:
        answer = self.http.post(
            f"/infer/{model}", params={"image": image, "output": output}, data={"params": json.dumps(params or {})}
        )
        assert answer.status_code == 200, answer.text
        return answer.content

    def save_label(self, image: str, file: Path, info: dict[str, Any] | None = None, tag: str = "final") -> None:
        with file.open("rb") as stream:
            answer = self.http.put(
                "/datastore/label",
                params={"image": image, "tag": tag},
                data={"params": json.dumps(info or {})},
                files={"label": (file.name, stream)},
            )
        assert answer.status_code == 200, answer.text

    def train(self, model: str, params: dict[str, Any], timeout_s: float = 600) -> dict[str, Any]:
        """Start a training and return its last status."""
        answer = self.http.post(f"/train/{model}", json=params)
        assert answer.status_code == 200, answer.text
        wait_until(
            "the end of the training", lambda: self.train_status()["status"] not in ("SUBMITTED", "RUNNING"), timeout_s
        )
        return self.train_status()

    def train_status(self) -> dict[str, Any]:
        answer = self.http.get("/train/")
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document
