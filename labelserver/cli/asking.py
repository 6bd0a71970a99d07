"""Verbs that ask a running server: its address, and its "no" as one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from labelserver.cli.failing import CommandFailed

if TYPE_CHECKING:
    from labelserver.client import Job, LabelServerClient

DEFAULT_URL = "http://127.0.0.1:8000"

ServerOption = Annotated[str, typer.Option("--server", "-S", envvar="LABELSERVER_URL", help="Address of the server.")]


@contextmanager
def asking(url: str) -> Iterator[LabelServerClient]:
    """A client of the server at `url`. Its errors become `CommandFailed`."""
    import getpass

    from labelserver.client import ClientError, LabelServerClient

    try:
        person = getpass.getuser()
    except (OSError, KeyError):  # a container whose user has no name
        person = ""
    try:
        with LabelServerClient(url, person=person) as client:
            yield client
    except ClientError as error:
        raise CommandFailed(str(error)) from error


def watch(client: LabelServerClient, job: Job) -> Job:
    """Show a job's progress until it ends. Ctrl-C ends the watching, not the job.

    Raises:
        ClientError: the job failed or was stopped.
    """
    from labelserver.cli.showing import progress_bar

    with progress_bar() as bar:
        shown = bar.add_task(job.state.value, total=None, said="")

        def show(state: Job) -> None:
            epoch, total = _number(state, "epoch"), _number(state, "total_epochs")
            if total is None:
                epoch, total = _number(state, "step"), _number(state, "total_steps")
            bar.update(shown, description=state.state.value, completed=epoch or 0, total=total, said=said_about(state))

        show(job)
        try:
            return client.wait_for_job(job, show)
        except KeyboardInterrupt:
            bar.stop()
            raise CommandFailed(f"The job runs on. Watch it again: labelserver jobs watch {job.id[:8]}", 130) from None


def _number(job: Job, key: str) -> float | None:
    value = job.progress.get(key)
    return float(value) if isinstance(value, int | float) else None


def said_about(job: Job) -> str:
    """Loss and metrics in a few words; without them the job's last line."""
    words = []
    loss = job.progress.get("loss")
    if isinstance(loss, int | float):
        words.append(f"loss {loss:.3f}")
    metrics = job.progress.get("metrics")
    if isinstance(metrics, dict):
        words += [f"{name} {value:.3f}" for name, value in list(metrics.items())[:4] if isinstance(value, int | float)]
    return "  ".join(words) or (job.details[-1][:100] if job.details else "")
