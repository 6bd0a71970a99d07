"""``labelserver start_server``: settings, a wired server, and uvicorn around it.

Option names are the peer's; each also takes dashes for underscores.
"""

from __future__ import annotations

import gc
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelserver.cli.failing import CommandFailed
from labelserver.cli.pairs import split_pairs

if TYPE_CHECKING:
    from labelserver.settings import Settings

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


def start_server(
    app: Annotated[
        Path | None,
        typer.Option("--app", "-a", help="App folder with a main.py; without: images and labels alone."),
    ] = None,
    studies: Annotated[
        str | None, typer.Option("--studies", "-s", help="Folder with the images.", show_default=False)
    ] = None,
    conf: Annotated[
        list[str] | None, typer.Option("--conf", "-c", metavar="KEY VALUE", help="Option of the app; repeatable.")
    ] = None,
    host: Annotated[str | None, typer.Option("--host", "-i", help="Bind address [default: 127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option("--port", "-p", help="Bind port; 0: a free one [default: 8000].")] = None,
    cors_origins: Annotated[
        str | None, typer.Option("--cors-origins", "--cors_origins", help="Further allowed origins, comma-separated.")
    ] = None,
    allowed_hosts: Annotated[
        str | None, typer.Option("--allowed-hosts", "--allowed_hosts", help="Further Host names, comma-separated.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond this machine though nobody checks callers.")
    ] = False,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", "--behind_proxy", help="A proxy in front checks callers.")
    ] = False,
    leave_jobs: Annotated[
        bool, typer.Option("--leave-jobs", "--leave_jobs", help="Let jobs run on when the server stops.")
    ] = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Replace a server that is gone and left a network folder locked.")
    ] = False,
    root_path: Annotated[
        str | None, typer.Option("--root_path", "--root-path", help="Prefix that a reverse proxy strips.")
    ] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option("--ssl_keyfile", "--ssl-keyfile", help="TLS key.")] = None,
    ssl_certfile: Annotated[
        Path | None, typer.Option("--ssl_certfile", "--ssl-certfile", help="TLS certificate.")
    ] = None,
    ssl_keyfile_password: Annotated[
        str | None,
        typer.Option(
            "--ssl_keyfile_password", "--ssl-keyfile-password", help="Password of the key.", show_default=False
        ),
    ] = None,
    ssl_ca_certs: Annotated[
        Path | None, typer.Option("--ssl_ca_certs", "--ssl-ca-certs", help="CAs that client certificates need.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Only 1: the app's workers are another thing.")
    ] = None,
    limit_concurrency: Annotated[
        int | None, typer.Option("--limit_concurrency", "--limit-concurrency", help="Most connections at a time.")
    ] = None,
    access_log: Annotated[bool, typer.Option("--access_log", "--access-log", help="Log every request.")] = False,
    log_level: Annotated[str, typer.Option("--log_level", "--log-level", help="Level of the HTTP server.")] = "info",
    log_config: Annotated[
        Path | None, typer.Option("--log_config", "--log-config", "-l", help="Logging configuration, JSON.")
    ] = None,
    verbose: Annotated[
        str | None, typer.Option("--verbose", "-v", help="Level of the log, also on the console: DEBUG, INFO, ...")
    ] = None,
    dryrun: Annotated[bool, typer.Option("--dryrun", help="Write the settings to .env, do not serve.")] = False,
    uvicorn_app: Annotated[str | None, typer.Option("--uvicorn_app", "--uvicorn-app", hidden=True)] = None,
) -> None:
    """Serve a folder of images, with an app's models if one is named."""
    _check(workers, uvicorn_app, log_level, verbose)
    from labelserver.settings import Settings, install

    settings = Settings.from_environment(
        app_dir=app,
        studies=studies,
        conf=split_pairs(conf) if conf else None,
        host=host,
        port=port,
        cors_origins=_listed(cors_origins),
        allowed_hosts=_listed(allowed_hosts),
        insecure=insecure or None,
        behind_proxy=behind_proxy or None,
        leave_jobs=leave_jobs or None,
        take_over=take_over or None,
        root_path=root_path,
    )
    _check_folders(settings)
    install(settings)
    if dryrun:
        _write_environment(settings)
        return
    gc.disable()  # what is imported lives as long as the process; looking for garbage costs a tenth of the start
    from labelserver.cli.serving import serve

    gc.enable()
    gc.freeze()
    options = {
        "ssl_keyfile": ssl_keyfile,
        "ssl_certfile": ssl_certfile,
        "ssl_keyfile_password": ssl_keyfile_password,
        "ssl_ca_certs": str(ssl_ca_certs) if ssl_ca_certs else None,
        "limit_concurrency": limit_concurrency,
        "access_log": access_log,
        "log_level": log_level.lower(),
    }
    serve(settings, options, verbose.upper() if verbose else None, log_config)


def _check(workers: int | None, uvicorn_app: str | None, log_level: str, verbose: str | None) -> None:
    if workers is not None and workers != 1:
        raise CommandFailed(
            f"--workers {workers} would start {workers} servers that know nothing of each other. One is enough: "
            "networks run in processes of their own; for more of those, set LABELSERVER_WORKERS_PER_DEVICE."
        )
    if uvicorn_app is not None:
        raise CommandFailed("--uvicorn_app is not offered: this command serves labelserver alone.")
    if verbose is not None and verbose.upper() not in LEVELS:
        raise CommandFailed(f"--verbose is one of {', '.join(LEVELS)}, not {verbose!r}.")
    if log_level.lower() not in ("critical", "error", "warning", "info", "debug", "trace"):
        raise CommandFailed(f"--log_level is one of critical, error, warning, info, debug, trace, not {log_level!r}.")


def _check_folders(settings: Settings) -> None:
    if not settings.studies:
        raise CommandFailed("No studies were named. Say --studies FOLDER, the folder with the images.")
    if settings.has_app and not (settings.app_dir / "main.py").is_file():
        raise CommandFailed(f"{settings.app_dir} is not an app: it has no main.py. List apps with `labelserver apps`.")


def _listed(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _write_environment(settings: Settings) -> None:
    """`.env` in this folder, readable by its owner alone because an app's options may hold a password."""
    if settings.has_app:
        (settings.app_dir / "logs").mkdir(parents=True, exist_ok=True)
    Path(settings.studies).mkdir(parents=True, exist_ok=True)
    lines = [f"export {name}={shlex.quote(value)}" for name, value in settings.to_environment().items()]
    target = Path(".env")
    target.touch(mode=0o600)
    target.chmod(0o600)
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    typer.echo(f"The settings are in {target.absolute()}; nothing was started.")
