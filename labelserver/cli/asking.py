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


def said_about(job: Job) -> str:
    """Why it failed and what to do, else loss and metrics in a few words, else its last line."""
    if job.reason is not None:
        return f"{job.reason.value}: {job.message} {job.advice}"
    words = []
    loss = job.progress.get("loss")
    if isinstance(loss, int | float):
        words.append(f"loss {loss:.3f}")
    metrics = job.progress.get("metrics")
    if isinstance(metrics, dict):
        words += [f"{name} {value:.3f}" for name, value in list(metrics.items())[:4] if isinstance(value, int | float)]
    return "  ".join(words) or (job.details[-1][:100] if job.details else "")
