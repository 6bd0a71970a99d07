"""``/logs`` and ``/reload``: what an operator looks at and presses."""

from __future__ import annotations

import html as html_text
import os
import shutil
import subprocess
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from labelserver.api.answers import json_answer
from labelserver.api.context import ServerOf
from labelserver.domain.errors import Absent, NotFound

router = APIRouter(tags=["Operation"])

LOG_NAME = "labelserver.log"
#: bytes read from the end of the log at most; a page of more is of no use to anybody.
MAX_TAIL_BYTES = 8 * 2**20
MIN_REFRESH_S = 3
GPU_TIMEOUT_S = 10

_PAGE = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Log</title>{refresh}</head>
<body><pre>{text}</pre></body></html>"""


@router.get("/logs/", summary="The end of the server's log")
def get_logs(
    server: ServerOf,
    lines: Annotated[int, Query(description="So many last lines; 0: all that is kept in one file.")] = 300,
    html: bool = True,
    text: bool = False,
    refresh: Annotated[int, Query(ge=0, description="Seconds between reloads of the page.")] = 0,
) -> Response:
    tail = _tail(server.roots.app / "logs" / LOG_NAME, lines)
    if text or not html:
        return PlainTextResponse(tail)
    reload = f'<meta http-equiv="refresh" content="{max(MIN_REFRESH_S, refresh)}">' if refresh else ""
    return HTMLResponse(_PAGE.format(refresh=reload, text=html_text.escape(tail)))


@router.get("/logs/gpu", summary="What nvidia-smi says")
def get_gpu() -> Response:
    command = shutil.which("nvidia-smi")
    if command is None:
        raise Absent("There is no nvidia-smi on this machine, so it has no NVIDIA GPU or no driver for one.")
    try:
        ran = subprocess.run([command], capture_output=True, text=True, timeout=GPU_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise Absent(f"nvidia-smi did not answer within {GPU_TIMEOUT_S} s; the driver may hang.") from error
    return PlainTextResponse(ran.stdout or ran.stderr)


@router.post("/reload", summary="Load the app anew in every worker, each as soon as it is idle")
async def reload(server: ServerOf) -> Response:
    server.engine.restart_workers()
    return json_answer({})


def _tail(path: Path, lines: int) -> str:
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - MAX_TAIL_BYTES))
            text = stream.read().decode("utf-8", "replace")
    except FileNotFoundError as error:
        raise NotFound(f"Log File {path.name} NOT Found. The server was started without a log file.") from error
    kept = text.splitlines()
    return "\n".join(kept[-lines:] if lines > 0 else kept) + "\n"
