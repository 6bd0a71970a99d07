"""A `LocalEngine` around the fake app, for as long as a test needs it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from labelserver.domain.paths import Roots
from labelserver.engine.job_folder import OnEvent
from labelserver.engine.local import LocalEngine
from labelserver.settings import Settings

FAKE_WORKER = Path(__file__).parents[1] / "fakes" / "fake_worker.py"


async def until(what: str, condition: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """Poll `condition` until it is truthy and return its value; fail with `what` after `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            while not (value := condition()):
                await asyncio.sleep(0.005)
            return value
    except TimeoutError:
        raise AssertionError(f"{what} did not happen within {timeout_s:.0f} s") from None


class Place:
    """The folders of a test, and an engine in them."""

    def __init__(self, folder: Path) -> None:
        self.roots = Roots(folder / "app", folder / "studies", folder / "studies" / ".labelserver")
        for path in (self.roots.app / "lib", self.roots.studies, self.roots.state):
            path.mkdir(parents=True, exist_ok=True)
        self.versions: list[tuple[str, int]] = []
        self.settings: dict[str, Any] = {}
        self.job_grace_s = 20.0

    def engine(self, *, code_hash: str = "hash", on_job_event: OnEvent | None = None) -> LocalEngine:
        settings = Settings(app_dir=self.roots.app, studies=str(self.roots.studies), **self.settings)
        return LocalEngine(
            settings,
            self.roots,
            [sys.executable, str(FAKE_WORKER), "serve"],
            [sys.executable, str(FAKE_WORKER), "run-job"],
            code_hash,
            lambda model, version: self.versions.append((model, version)),
            job_grace_s=self.job_grace_s,
            warm_command=[sys.executable, str(FAKE_WORKER), "warm-job"],
            on_job_event=on_job_event,
        )

    @asynccontextmanager
    async def running(self, *, ready: bool = True, leave_jobs: bool = False) -> AsyncIterator[LocalEngine]:
        """An engine that is started, ready if `ready`, and stopped at the end."""
        engine = self.engine()
        await engine.start()
        try:
            if ready:
                await until("readiness", lambda: engine.readiness().ready)
            yield engine
        finally:
            await engine.stop(leave_jobs=leave_jobs)

    async def at(self, name: str) -> None:
        """Wait until the app has come to the barrier `name`."""
        await until(f"the barrier {name}", (self.roots.studies / f"at-{name}").exists)

    def let_pass(self, name: str) -> None:
        (self.roots.studies / f"pass-{name}").touch()

    def notes(self) -> list[str]:
        """What the app wrote down, in order."""
        file = self.roots.studies / "notes"
        return file.read_text().split() if file.exists() else []
