"""The HTTP door: routes, middleware, and what runs beside them while the server lives.

`create_app` takes a wired `Server`; `serve_app` is the factory that an ASGI server calls after a door has installed the
settings. No route waits for a worker inside the event loop: what may block runs in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI

from labelserver import __version__
from labelserver.api import (
    batch,
    health,
    images,
    index,
    infer,
    info,
    labels,
    logs,
    not_there_yet,
    pages,
    problem_responses,
    samples,
    scoring,
    sessions,
    train,
    v1_drafts,
    v1_images,
    v1_jobs,
    v1_labels,
    v1_models,
    v1_restoring,
    v1_schema,
    weights,
)
from labelserver.api.access import Access, AccessMiddleware
from labelserver.api.background import BACKGROUND
from labelserver.api.slashes import EitherSlash
from labelserver.bootstrap import Server, build_server
from labelserver.settings import current

#: In the order in which they are matched: fixed paths before paths with a name in them.
PEER_ROUTERS = (
    info.router,
    not_there_yet.router,
    infer.router,
    samples.router,
    train.router,
    scoring.router,
    batch.router,
    index.router,
    images.router,
    labels.router,
    sessions.router,
    weights.router,
    logs.router,
)

#: Routes with words after an image's id first, because an id may hold "/" and so any words itself.
V1_ROUTERS = (
    health.router,
    v1_labels.router,
    v1_drafts.router,
    v1_schema.router,
    v1_images.router,
    v1_jobs.router,
    v1_models.router,
    v1_restoring.router,
)


def create_app(server: Server) -> FastAPI:
    """The application of `server`. Its lifespan starts and stops engine, watcher and clean-up."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await server.engine.start()
        running = [asyncio.create_task(work(server)) for work in BACKGROUND]
        try:
            yield
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await server.engine.stop(leave_jobs=server.settings.leave_jobs)
            server.close()

    settings = server.settings
    app = FastAPI(
        title=settings.project_name,
        version=__version__,
        root_path=settings.root_path,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        strict_content_type=False,
    )
    app.state.server = server
    app.include_router(pages.router, prefix=settings.api_prefix)
    for router in PEER_ROUTERS:
        app.include_router(router, prefix=settings.api_prefix)
    for router in V1_ROUTERS:
        app.include_router(router)
    if settings.api_prefix:
        app.include_router(pages.router)
    problem_responses.install(app)
    app.add_middleware(EitherSlash, prefix=settings.api_prefix)
    app.add_middleware(problem_responses.LastHandler)
    app.add_middleware(AccessMiddleware, access=Access.from_settings(settings))
    return app


def serve_app() -> FastAPI:
    """The application of the settings that a door installed, else of the environment."""
    return create_app(build_server(current()))
