"""``GET /``: the labeling page and its files; without a built page, a short one that says how to build it.

The page runs no code and loads nothing from elsewhere: its Content-Security-Policy names this server alone. Its files
carry a hash of their content in their names, so they are kept for ever; the page itself is asked for each time.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response

import labelserver
from labelserver import __version__
from labelserver.api.answers import json_answer
from labelserver.api.context import ServerOf
from labelserver.api.identity import named, person_of
from labelserver.api.pages import status_page
from labelserver.api.v1_volumes import FOR_EVER, takes_gzip
from labelserver.domain.errors import NotFound
from labelserver.wire.pages import PageInfo

router = APIRouter(include_in_schema=False)
info_router = APIRouter(prefix="/api/v1", tags=["Page"])

#: Where the build leaves the page; replaced in tests.
WEB_DIST = Path(labelserver.__file__).parent / "web_dist"

POLICY = "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
_SAFE = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}

HOW_TO_BUILD = """<p><strong>The labeling page is not built.</strong> It is made from <code>web/</code> when labelserver
is installed, with Node 20.19 or later, or with what pip fetches for it. To make it now, in the clone:</p>
<pre><code>python hatch_build.py</code></pre><p>and reload. Viewers and the API work without it.</p>"""


@router.get("/")
@router.head("/")
async def root(request: Request, server: ServerOf) -> Response:
    found = _file(WEB_DIST / "index.html")
    if found is None:
        return status_page(request, server, HOW_TO_BUILD)
    return _answered(request, found, "no-cache")


@router.get("/assets/{name:path}")
@router.head("/assets/{name:path}")
async def asset(request: Request, name: str) -> Response:
    found = _file(WEB_DIST / "assets" / name) if name in _names(WEB_DIST / "assets") else None
    if found is None:
        raise NotFound(f"The page has no file {name[:100]!r}. Reload the page: it may be a newer one.")
    return _answered(request, found, FOR_EVER)


@router.get("/favicon.ico")
async def icon(request: Request) -> Response:
    found = _file(WEB_DIST / "favicon.svg")
    return Response(status_code=204) if found is None else _answered(request, found, "no-cache")


@info_router.get(
    "/page", summary="What the page needs to begin: version, project, who is calling", response_model=PageInfo
)
async def page_info(request: Request, server: ServerOf) -> Response:
    told = PageInfo(
        version=__version__,
        project=server.settings.project_name,
        person=person_of(request),
        anonymous=not named(request),
        peer_prefix=server.settings.api_prefix,
    )
    return json_answer(told.model_dump(mode="json"))


@dataclass(frozen=True, slots=True)
class _File:
    """A file of the page, whole."""

    data: bytes
    packed: bytes
    media_type: str
    etag: str


def _file(path: Path) -> _File | None:
    """Small files, read once for each time that they change."""
    try:
        status = path.stat()
    except OSError:
        return None
    return _read(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=128)
def _read(path: Path, mtime_ns: int, size_bytes: int) -> _File | None:
    try:
        data = path.read_bytes()
    except OSError:  # a folder, or gone
        return None
    media = {".js": "text/javascript", ".svg": "image/svg+xml"}.get(path.suffix) or mimetypes.guess_type(path.name)[0]
    return _File(
        data,
        gzip.compress(data, 9, mtime=0),
        media or "application/octet-stream",
        hashlib.sha256(data).hexdigest()[:32],
    )


def _names(folder: Path) -> frozenset[str]:
    """What a request may name: the files that are there, so that no path is ever built from its text."""
    if not folder.is_dir():
        return frozenset()
    return frozenset(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def _answered(request: Request, file: _File, cache: str) -> Response:
    packed = takes_gzip(request)
    etag = f'"{file.etag}{"-gz" if packed else ""}"'
    headers = {**_SAFE, "ETag": etag, "Cache-Control": cache, "Vary": "Accept-Encoding"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if packed:
        headers["Content-Encoding"] = "gzip"
    return Response(file.packed if packed else file.data, media_type=file.media_type, headers=headers)
