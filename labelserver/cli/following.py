"""Follow a job on a terminal: what is under way, and a line for each epoch; into a pipe, lines alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labelserver.cli.failing import CommandFailed
from labelserver.cli.showing import console, size_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from labelserver.client import Job, LabelServerClient
    from labelserver.wire.events import ServerEvent

#: epochs shown at once; earlier ones scroll away.
_SHOWN = 12
#: metrics of an epoch in one line.
_METRICS = 8


def watch(client: LabelServerClient, job: Job) -> Job:
    """Show a job until it ends. Ctrl-C ends the watching, not the job.

    Raises:
        CommandFailed: the job failed or was stopped, with what to do.
    """
    screen = Screen(job)
    try:
        _show(client, job, screen)
    except KeyboardInterrupt:
        raise CommandFailed(f"The job runs on. Watch it again: labelserver jobs follow {job.id[:8]}", 130) from None
    ended = client.job(job.id)
    if ended.state.value != "done":
        raise CommandFailed(ended_in_words(ended))
    return ended


def ended_in_words(job: Job) -> str:
    """How a job ended without success, why, and what to do."""
    if job.state.value == "stopped":
        return f"Job {job.id[:8]} was stopped. Let it go on: labelserver jobs resume {job.id[:8]}"
    why = f" ({job.reason.value})" if job.reason else ""
    said = job.message or (job.details[-1] if job.details else "its log says more")
    return f"Job {job.id[:8]} {job.state.value}{why}: {said} {job.advice}".rstrip()


def _show(client: LabelServerClient, job: Job, screen: Screen) -> None:
    """Feed the screen until the job has ended."""
    from contextlib import closing

    from rich.live import Live

    out = console()
    with closing(client.events(job_id=job.id, after=0)) as news:
        if not out.is_terminal:
            for event in news:
                for line in screen.take(event):
                    out.print(line, markup=False)
                if screen.has_ended(client, event):
                    return
            return
        with Live(screen.render(), console=out, refresh_per_second=4) as live:
            for event in news:
                screen.take(event)
                live.update(screen.render())
                if screen.has_ended(client, event):
                    return


class Screen:
    """What is known of a job, drawn from its events."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._now: dict[str, Any] = dict(job.progress)
        self._state = job.state.value
        self._epochs: list[dict[str, Any]] = []
        self._line = job.details[-1] if job.details else ""

    def take(self, event: ServerEvent) -> list[str]:
        """Take notice; returns the lines that a pipe shows."""
        self._now |= {key: value for key, value in event.data.items() if key not in ("job_kind", "task", "line")}
        if event.kind == "job.state":
            self._state = str(event.data.get("state", self._state))
            return [f"{self._job.task}: {self._state}"]
        if event.kind == "job.log":
            self._line = str(event.data.get("line", ""))
            return []
        if event.kind == "job.epoch":
            self._epochs = [*self._epochs, event.data][-_SHOWN:]
            return [epoch_line(event.data)]
        if event.kind.startswith("version."):
            return [f"{event.kind.replace('.', ' ')}: {event.data.get('model')} {event.data.get('version')}"]
        return []

    def has_ended(self, client: LabelServerClient, event: ServerEvent) -> bool:
        """After a change of state, asked of the server: events of an earlier run may tell of an end that is past."""
        return event.kind in ("job.state", "gap") and client.job(self._job.id).state.is_final

    def render(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        now = self._now
        head = Text.assemble((f"{self._job.task} ", "bold"), (self._state, "cyan"), f"  {self._where()}")
        parts: list[RenderableType] = [head]
        total = now.get("total_steps") or now.get("total_epochs") or now.get("total")
        done = now.get("step") if now.get("total_steps") else now.get("epoch") or now.get("done")
        if total:
            parts.append(ProgressBar(total=float(total), completed=float(done or 0), width=60))
        if self._epochs:
            names = metric_names(self._epochs)
            table = Table("epoch", "loss", "learning rate", *names, box=None)
            for point in self._epochs:
                metrics = point.get("metrics") or {}
                cells = [_number(metrics.get(name)) for name in names]
                rate = _number(point.get("learning_rate"), "{:.2e}")
                table.add_row(str(point.get("epoch", "")), _number(point.get("loss")), rate, *cells)
            parts.append(table)
        parts.append(Text(self._line[:200], style="dim"))
        return Group(*parts)

    def _where(self) -> str:
        """Epoch, step, time left, device and memory in words."""
        now, words = self._now, []
        if "total_epochs" in now:
            words.append(f"epoch {now.get('epoch', 0)}/{now['total_epochs']}")
        if "total_steps" in now:
            words.append(f"step {now.get('step', 0)}/{now['total_steps']}")
        if isinstance(now.get("time_left_s"), int | float):
            words.append(f"{_duration(now['time_left_s'])} left")
        if "device" in now:
            words.append(str(now["device"]))
        for key in ("memory_bytes", "device_memory_bytes"):
            if isinstance(now.get(key), int | float) and now[key]:
                words.append(size_text(now[key]))
        if now.get("paused"):
            words.append("waits while people use the device")
        return "  ".join(words)


def metric_names(points: list[dict[str, Any]]) -> list[str]:
    """Names of the metrics in the points, in their order, as many as fit."""
    names = dict.fromkeys(name for point in points for name in (point.get("metrics") or {}))
    return list(names)[:_METRICS]


def epoch_line(point: dict[str, Any]) -> str:
    """An epoch in one line."""
    words = [f"epoch {point.get('epoch')}/{point.get('total_epochs', '?')}"]
    if isinstance(point.get("loss"), int | float):
        words.append(f"loss {point['loss']:.4f}")
    metrics = point.get("metrics") or {}
    words += [f"{name} {_number(metrics[name])}" for name in metric_names([point])]
    if isinstance(point.get("time_left_s"), int | float):
        words.append(f"{_duration(point['time_left_s'])} left")
    return "  ".join(words)


def _number(value: object, form: str = "{:.4f}") -> str:
    return form.format(value) if isinstance(value, int | float) else ""


def _duration(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
