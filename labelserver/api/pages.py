"""Pages that work without a network: where to go from the root of the old routes, and ``GET /docs``."""

from __future__ import annotations

import html
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from labelserver import __version__
from labelserver.api.context import ServerOf
from labelserver.bootstrap import Server

router = APIRouter(include_in_schema=False)
#: The root of the old routes, where that is not the server's own, which is the labeling page's.
status_router = APIRouter(include_in_schema=False)

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}
code{{background:#8882;padding:.1em .3em;border-radius:3px}}td{{vertical-align:top;padding:.2rem .8rem .2rem 0}}</style>
</head><body>{body}</body></html>"""


def status_page(request: Request, server: Server, note: str = "") -> Response:
    """How the server is and where to go. `note`: HTML that stands above."""
    base = request.scope.get("root_path", "") + server.settings.api_prefix
    ready = server.engine.readiness()
    state = "ready" if ready.ready else html.escape(ready.reason or "loading the app")
    body = f"""<h1>{html.escape(server.settings.project_name)}</h1>{note}
<p>labelserver {__version__} is running; its app is {state}.</p>
<ul><li><a href="{base}/info/">/info/</a>: models, trainers, strategies and progress</li>
<li><a href="{base}/docs">/docs</a>: every route (<a href="{base}/openapi.json">openapi.json</a>)</li>
<li><a href="{base}/logs/?lines=100">/logs/</a>: the server's log</li></ul>
<p>Point 3D Slicer's MONAI Label module at this address, or try
<code>curl {html.escape(str(request.base_url))}info/</code>.
The README that came with labelserver has a tour.</p>"""
    return HTMLResponse(_PAGE.format(title=html.escape(server.settings.project_name), body=body))


@status_router.get("/")
@status_router.head("/")
async def root(request: Request, server: ServerOf) -> Response:
    return status_page(request, server)


@router.get("/docs")
async def docs(request: Request) -> Response:
    schema = request.app.openapi()
    rows: dict[str, list[str]] = {}
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            rows.setdefault((operation.get("tags") or ["Other"])[0], []).append(_row(method, path, operation))
    tables = "".join(f"<h2>{html.escape(tag)}</h2><table>{''.join(found)}</table>" for tag, found in rows.items())
    head = f"<h1>{html.escape(schema['info']['title'])}</h1><p><a href='openapi.json'>openapi.json</a></p>"
    return HTMLResponse(_PAGE.format(title="Routes", body=head + tables))


def _row(method: str, path: str, operation: dict[str, Any]) -> str:
    names = [parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "query"]
    content = operation.get("requestBody", {}).get("content", {})
    parts = [name for kind in content.values() for name in kind.get("schema", {}).get("properties", {})]
    takes = ", ".join([f"?{name}" for name in names] + [f"form {name}" for name in parts])
    if "application/json" in content:
        takes = ", ".join(filter(None, [takes, "JSON body"]))
    call = f"<code>{method.upper()} {html.escape(path)}</code>"
    return f"<tr><td>{call}</td><td>{html.escape(operation.get('summary', ''))}<br><small>{takes}</small></td></tr>"
