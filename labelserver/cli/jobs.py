"""``labelserver jobs``: trainings, scorings and batch inferences of a running server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from labelserver.cli.asking import DEFAULT_URL, ServerOption, asking, said_about
from labelserver.cli.failing import CommandFailed

if TYPE_CHECKING:
    from labelserver.client import Job, LabelServerClient

cli = typer.Typer(help="Jobs of a running server: list, show, stop, resume, follow.", no_args_is_help=True)

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Its id, or the first letters of it.")]


@cli.command("list")
def list_jobs(server: ServerOption = DEFAULT_URL) -> None:
    """List all jobs, oldest first."""
    from labelserver.cli.showing import moment, print_table

    with asking(server) as client:
        rows = [
            (job.id[:8], job.kind.value, job.task, job.state.value, moment(job.created_ts), job.person, said_about(job))
            for job in client.jobs()
        ]
    columns = ("id", "kind", "task", "state", "asked for", "by", "progress")
    print_table("Jobs", columns, rows, "No job was started yet.")


@cli.command()
def show(job: JobArgument, server: ServerOption = DEFAULT_URL) -> None:
    """Show all that is known about a job, as JSON."""
    with asking(server) as client:
        typer.echo(_find(client, job).model_dump_json(indent=2))


@cli.command()
def stop(job: JobArgument, server: ServerOption = DEFAULT_URL) -> None:
    """Ask a job to end at its next step."""
    with asking(server) as client:
        found = _find(client, job)
        if found.state.is_final:
            raise CommandFailed(f"Job {found.id} has ended: {found.state.value}.")
        stopped = client.stop_job(found.id)
    typer.echo(f"Job {stopped.id} is {stopped.state.value}.")


@cli.command()
def resume(job: JobArgument, server: ServerOption = DEFAULT_URL) -> None:
    """Let a stopped or failed job go on from its last checkpoint."""
    with asking(server) as client:
        resumed = client.resume_job(_find(client, job).id)
    typer.echo(f"Job {resumed.id} is {resumed.state.value}. Follow it: labelserver jobs follow {resumed.id[:8]}")


@cli.command()
def curve(job: JobArgument, server: ServerOption = DEFAULT_URL) -> None:
    """Show loss, learning rate and metrics of a training by epoch."""
    from labelserver.cli.following import metric_names
    from labelserver.cli.showing import print_table

    with asking(server) as client:
        points = client.curve(_find(client, job).id).points
    names = metric_names(points)
    rows = [
        (
            point.get("epoch", ""),
            *(_shown(point.get(key)) for key in ("loss", "learning_rate")),
            *(_shown(point.get("metrics", {}).get(name)) for name in names),
        )
        for point in points
    ]
    print_table("Curve", ("epoch", "loss", "learning rate", *names), rows, "No epoch has ended yet.")


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""


@cli.command("watch", hidden=True)
@cli.command("follow")
def follow_job(
    job: Annotated[str, typer.Argument(metavar="JOB", help="Its id; default: the one that runs.")] = "",
    server: ServerOption = DEFAULT_URL,
) -> None:
    """Follow a job's progress until it ends."""
    from labelserver.cli.following import ended_in_words, watch

    with asking(server) as client:
        found = _find(client, job)
        ended = found if found.state.is_final else watch(client, found)
    if ended.reason is not None:
        raise CommandFailed(ended_in_words(ended))
    typer.echo(f"{ended.task}: {ended.state.value}. {said_about(ended)}".rstrip())


def _find(client: LabelServerClient, job_id: str) -> Job:
    """The job with this id or the only one that begins so; without an id the running one, else the last."""
    known = client.jobs()
    if not job_id:
        running = [job for job in known if not job.state.is_final] or known
        if not running:
            raise CommandFailed("No job was started yet.")
        return running[-1]
    matching = [job for job in known if job.id.startswith(job_id)]
    if len(matching) != 1:
        found = "several jobs begin" if matching else "no job begins"
        raise CommandFailed(f"There is no such job: {found} with {job_id!r}. List them with: labelserver jobs list")
    return matching[0]
