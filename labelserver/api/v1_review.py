"""Reviews of labels and flags of images: ``/api/v1/review``, ``/api/v1/images/<id>/labels/<tag>/review``, ``/flag``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from labelserver.api.answers import json_answer
from labelserver.api.blind import sees_label
from labelserver.api.context import ServerOf
from labelserver.api.giving import local_store
from labelserver.api.identity import person_of
from labelserver.api.v1_images import listed_image
from labelserver.domain.ids import parse_image_id, parse_tag
from labelserver.domain.work import Review, Stage
from labelserver.wire.images import Image
from labelserver.wire.queue import FlagAsked
from labelserver.wire.review import ReviewAsked, ReviewList, ReviewMade, Submission, SubmissionList

router = APIRouter(prefix="/api/v1", tags=["Review"])


class ReviewState(StrEnum):
    """States that a submitted label can be in."""

    SUBMITTED = "submitted"
    APPROVED = "approved"
    RETURNED = "returned"
    ALL = "all"


Limit = Annotated[int, Query(ge=1, le=1000)]


@router.get("/review", summary="Submitted labels in pages: what waits for a review", response_model=SubmissionList)
async def list_submissions(
    request: Request,
    server: ServerOf,
    state: ReviewState = ReviewState.SUBMITTED,
    person: Annotated[str, Query(description="Who drew it; empty: anybody.", max_length=120)] = "",
    after: Annotated[str, Query(max_length=2000)] = "",
    limit: Limit = 100,
) -> Response:
    store = await local_store(server)
    stage = None if state is ReviewState.ALL else Stage(state.value)
    items, more = await to_thread.run_sync(
        store.work.reviews.items, stage, person or None, person_of(request), after, limit
    )
    page = SubmissionList(items=[Submission.from_domain(item) for item in items], next=more or None)
    return json_answer(page.model_dump(mode="json"))


@router.post(
    "/images/{image_id:path}/labels/{tag}/review", summary="Approve a label, or return it", response_model=ReviewMade
)
async def review(request: Request, server: ServerOf, image_id: str, tag: str, asked: ReviewAsked) -> Response:
    checked, checked_tag, person = parse_image_id(image_id), parse_tag(tag), person_of(request)
    store = await local_store(server)

    def decide() -> Review:
        made = store.work.reviews.review(
            checked, checked_tag, asked.decision.verdict, asked.comment, person, asked.revision
        )
        store.keep_log()
        return made

    made = await to_thread.run_sync(decide)
    return json_answer(ReviewMade.from_domain(made).model_dump(mode="json"))


@router.get(
    "/images/{image_id:path}/labels/{tag}/reviews",
    summary="All reviews of a label",
    response_model=ReviewList,
    dependencies=[Depends(sees_label)],
)
async def list_reviews(server: ServerOf, image_id: str, tag: str) -> Response:
    checked, checked_tag = parse_image_id(image_id), parse_tag(tag)
    store = await local_store(server)
    found = await to_thread.run_sync(store.work.reviews.of_label, checked, checked_tag)
    return json_answer(ReviewList(reviews=[ReviewMade.from_domain(r) for r in found]).model_dump(mode="json"))


@router.post(
    "/images/{image_id:path}/flag", summary="Something is wrong with the image: give it to nobody", response_model=Image
)
async def flag(request: Request, server: ServerOf, image_id: str, asked: FlagAsked) -> Response:
    checked, person = parse_image_id(image_id), person_of(request)
    store = await local_store(server)

    def mark() -> Image:
        store.work.reviews.flag(checked, person, asked.reason)
        store.keep_log()
        return Image.from_domain(listed_image(store, checked))

    return json_answer((await to_thread.run_sync(mark)).model_dump(mode="json"))


@router.post("/images/{image_id:path}/unflag", summary="Give the image to people again", response_model=Image)
async def unflag(request: Request, server: ServerOf, image_id: str) -> Response:
    checked, person = parse_image_id(image_id), person_of(request)
    store = await local_store(server)

    def clear() -> Image:
        store.work.reviews.unflag(checked, person)
        store.keep_log()
        return Image.from_domain(listed_image(store, checked))

    return json_answer((await to_thread.run_sync(clear)).model_dump(mode="json"))
