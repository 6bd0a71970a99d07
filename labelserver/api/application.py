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
    nni_official,
    nni_slicer,
    not_there_yet,
    pages,
    problem_responses,
    samples,
    scoring,
    session_stream,
    sessions,
    train,
    v1_agreement,
    v1_drafts,
    v1_events,
    v1_exports,
    v1_grid_drafts,
    v1_grid_labels,
    v1_grid_sessions,
    v1_images,
    v1_jobs,
    v1_labels,
    v1_models,
    v1_predictions,
    v1_proof,
    v1_quality,
    v1_queue,
    v1_restoring,
    v1_review,
    v1_schema,
    v1_scores,
    v1_sessions,
    v1_triggers,
    v1_volumes,
    web_page,
    weights,
)
from labelserver.api.access import Access, AccessMiddleware
from labelserver.api.actions import ActionsMiddleware
from labelserver.api.activity import ActivityMiddleware
from labelserver.api.background import BACKGROUND
from labelserver.api.nni_default import DefaultMount
from labelserver.api.slashes import EitherSlash
from labelserver.api.training_background import TRAINING_BACKGROUND
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
    web_page.info_router,
    v1_volumes.router,
    v1_predictions.router,
    v1_grid_labels.router,
    v1_grid_drafts.router,
    v1_grid_drafts.list_router,
    v1_review.router,
    v1_agreement.router,
    v1_proof.router,
    v1_labels.router,
    v1_drafts.router,
    v1_queue.router,
    v1_quality.router,
    v1_scores.router,
    v1_schema.router,
    v1_grid_sessions.router,
    v1_sessions.router,
    session_stream.router,
    v1_images.router,
    v1_jobs.router,
    v1_events.router,
    v1_triggers.router,
    v1_models.router,
    v1_exports.router,
    v1_restoring.router,
    v1_images.record_router,
)


def create_app(server: Server) -> FastAPI:
    """The application of `server`. Its lifespan starts and stops engine, watcher and clean-up."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await server.engine.start()
        running = [asyncio.create_task(work(server)) for work in (*BACKGROUND, *TRAINING_BACKGROUND)]
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
    app.include_router(web_page.router)
    app.include_router(pages.router, prefix=settings.api_prefix)
    for router in PEER_ROUTERS:
        app.include_router(router, prefix=settings.api_prefix)
    for router in V1_ROUTERS:
        app.include_router(router)
    for prefix in nni_official.PREFIXES:
        app.include_router(nni_official.router, prefix=prefix, include_in_schema=prefix in nni_official.SHOWN)
    for prefix in nni_slicer.PREFIXES:
        app.include_router(nni_slicer.router, prefix=prefix, include_in_schema=prefix in nni_slicer.SHOWN)
    if settings.api_prefix:
        app.include_router(pages.status_router, prefix=settings.api_prefix)
        app.include_router(pages.router)
    problem_responses.install(app)
    app.add_middleware(EitherSlash, prefix=settings.api_prefix)
    app.add_middleware(ActivityMiddleware, server=server, prefix=settings.api_prefix)
    app.add_middleware(ActionsMiddleware, note=server.triggers.note_action, prefix=settings.api_prefix)
    if settings.nni_model:
        app.add_middleware(DefaultMount, port=settings.nni_port, mount=settings.nni_model)
    app.add_middleware(problem_responses.LastHandler)
    app.add_middleware(AccessMiddleware, access=Access.from_settings(settings))
    return app


def serve_app() -> FastAPI:
    """The application of the settings that a door installed, else of the environment."""
    return create_app(build_server(current()))
