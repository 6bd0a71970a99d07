"""``/api/v1/images/<id>/labels/<tag>``: labels with their whole history.

Voxel values are the schema's (`GET /api/v1/schema`). An image's id may hold "/", so the fixed words come after it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from labelserver.api.answers import file_answer, json_answer
from labelserver.api.blind import sees_label
from labelserver.api.context import ServerOf, ensure_image
from labelserver.api.flat_views import annotated_copy, flat_copy
from labelserver.api.forms import Form, use_form
from labelserver.api.identity import person_of
from labelserver.api.label_saving import annotated_part, expected_of, said_by_app, save_upload, saver_of
from labelserver.api.openapi import form_body
from labelserver.bootstrap import Server
from labelserver.contracts.datastore import RevisionStore
from labelserver.contracts.labels import RevisionHistory
from labelserver.domain.errors import LabelNotFound, NotThereYet
from labelserver.domain.ids import ImageId, Tag, parse_image_id, parse_tag
from labelserver.domain.labels import LabelSource, Numbering, Provenance, Revision
from labelserver.imaging.formats import is_picture, split_ext
from labelserver.wire.labels import LabelRevision, RevisionDiff, RevisionList

router = APIRouter(
    prefix="/api/v1/images/{image_id:path}/labels/{tag}", tags=["Labels"], dependencies=[Depends(sees_label)]
)

FromNumber = Annotated[int | None, Query(alias="from", ge=1, description="Default: the parent of `to`.")]
MaskWanted = Annotated[
    Literal["mask"] | None, Query(description="mask: instead of the label, 1 where it was annotated.")
]
ToNumber = Annotated[int | None, Query(alias="to", ge=1, description="Default: the current revision.")]


@router.get("", summary="The current label's file")
def get_label(
    request: Request,
    server: ServerOf,
    image_id: str,
    tag: str,
    flat: Annotated[bool, Query(description="Overlapping segments as one NIfTI map; later labels win.")] = False,
    annotated: MaskWanted = None,
) -> Response:
    history = history_of(server)
    revision, path = history.label_file(parse_image_id(image_id), parse_tag(tag))
    if annotated is not None:
        return _annotated(server, revision)
    if not flat or revision.ext.lower() != ".seg.nrrd":
        return _file(request, revision, path)
    copy, overlapping = flat_copy(revision, path, server.spool)
    answer = file_answer(copy, _name(revision, ".nii.gz"), etag=f"{revision.sha256}-flat", delete=True)
    answer.headers["X-Labelserver-Overlapping-Voxels"] = str(overlapping)
    return answer


@router.put(
    "",
    summary="Save a label; If-Match names the one it was made from, If-None-Match: * says that there was none",
    openapi_extra=form_body(("label", "annotated_mask"), ("params", "annotated")),
    response_model=LabelRevision,
)
async def put_label(request: Request, server: ServerOf, image_id: str, tag: str) -> Response:
    checked, checked_tag = parse_image_id(image_id), parse_tag(tag)

    def save(form: Form) -> tuple[str, Revision | None]:
        history_of(server)
        saver = replace(saver_of(request, form, Numbering.SCHEMA), annotated=annotated_part(form))
        return save_upload(server, form, checked, checked_tag, saver)

    label_id, revision = await use_form(request, server.spool, server.settings.max_upload_bytes, save)
    await said_by_app(server, checked, label_id)
    if revision is None:
        raise NotThereYet(_NO_HISTORY)
    return _described(revision, current=True)


@router.get("/revisions", summary="All revisions, oldest first", response_model=RevisionList)
def list_revisions(server: ServerOf, image_id: str, tag: str) -> Response:
    store, checked, checked_tag = _store(server), parse_image_id(image_id), parse_tag(tag)
    ensure_image(server, checked)
    current = _current(store, checked, checked_tag)
    found = [LabelRevision.from_domain(r, current=r.number == current) for r in store.revisions(checked, checked_tag)]
    return json_answer(RevisionList(revisions=found).model_dump(mode="json"))


@router.get("/revisions/{number}", summary="One revision", response_model=LabelRevision)
def get_revision(server: ServerOf, image_id: str, tag: str, number: int) -> Response:
    store, checked, checked_tag = _store(server), parse_image_id(image_id), parse_tag(tag)
    revision = _revision(store, checked, checked_tag, number)
    return _described(revision, current=number == _current(store, checked, checked_tag))


@router.get("/revisions/{number}/file", summary="The file of any revision")
def get_revision_file(
    request: Request, server: ServerOf, image_id: str, tag: str, number: int, annotated: MaskWanted = None
) -> Response:
    checked, checked_tag = parse_image_id(image_id), parse_tag(tag)
    revision = _revision(_store(server), checked, checked_tag, number)
    if annotated is not None:
        return _annotated(server, revision)
    return _file(request, revision, history_of(server).revision_file(checked, checked_tag, number))


@router.post(
    "/revisions/{number}/restore",
    summary="Make the content of an older revision current again, as a new revision",
    response_model=LabelRevision,
)
def restore_revision(request: Request, server: ServerOf, image_id: str, tag: str, number: int) -> Response:
    provenance = Provenance(
        person=person_of(request), client=request.headers.get("user-agent", "")[:200], source=LabelSource.RESTORE
    )
    checked, checked_tag = parse_image_id(image_id), parse_tag(tag)
    expected = expected_of(request.headers)
    revision = history_of(server).restore_revision(checked, checked_tag, number, provenance, expected=expected)
    return _described(revision, current=True)


@router.get("/diff", summary="What changed between two revisions", response_model=RevisionDiff)
def diff_revisions(
    server: ServerOf, image_id: str, tag: str, before: FromNumber = None, after: ToNumber = None
) -> Response:
    store, checked, checked_tag = _store(server), parse_image_id(image_id), parse_tag(tag)
    second = after if after is not None else store.current_revision(checked, checked_tag).number
    first = before if before is not None else _revision(store, checked, checked_tag, second).parent
    if first is None:
        raise LabelNotFound(f"Revision {second} has no parent to compare it with. Name one with from=.")
    diff = history_of(server).diff_revisions(checked, checked_tag, first, second)
    return json_answer(RevisionDiff.from_domain(diff).model_dump(mode="json"))


_NO_HISTORY = "The app keeps its labels in a store of its own, which has no revisions."


def _store(server: Server) -> RevisionStore:
    store = server.datastore
    if not isinstance(store, RevisionStore):
        raise NotThereYet(_NO_HISTORY)
    return store


def history_of(server: Server) -> RevisionHistory:
    """The store, if it keeps revisions. Raises `NotThereYet`."""
    store = server.datastore
    if not isinstance(store, RevisionHistory):
        raise NotThereYet(_NO_HISTORY)
    return store


def _current(store: RevisionStore, image_id: ImageId, tag: Tag) -> int | None:
    try:
        return store.current_revision(image_id, tag).number
    except LabelNotFound:
        return None


def _revision(store: RevisionStore, image_id: ImageId, tag: Tag, number: int) -> Revision:
    found = next((r for r in store.revisions(image_id, tag) if r.number == number), None)
    if found is None:
        raise LabelNotFound(f"The label {tag!r} of {image_id!r} has no revision {number}.")
    return found


def revision_of(server: Server, image_id: ImageId, tag: Tag, number: int) -> Revision:
    """Raises `LabelNotFound`."""
    return _revision(_store(server), image_id, tag, number)


def _described(revision: Revision, *, current: bool) -> Response:
    answer = json_answer(LabelRevision.from_domain(revision, current=current).model_dump(mode="json"))
    answer.headers["ETag"] = f'"{revision.sha256}"'
    return answer


def _file(request: Request, revision: Revision, path: Path) -> Response:
    if not path.is_file():
        raise LabelNotFound(f"The file of revision {revision.number} is gone. labelserver doctor says more.")
    known = ",".join(request.headers.getlist("if-none-match"))
    if f'"{revision.sha256}"' in known or known.strip() == "*":
        return Response(status_code=304, headers={"ETag": f'"{revision.sha256}"'})
    return file_answer(path, _name(revision, revision.ext), etag=revision.sha256)


def _annotated(server: Server, revision: Revision) -> Response:
    mask, grid = history_of(server).annotated_mask(revision.image_id, revision.tag, revision.number)
    copy = annotated_copy(mask, grid, server.spool, picture=is_picture(revision.ext))
    ext = split_ext(copy.name)[1]
    return file_answer(copy, _name(revision, f".annotated{ext}"), etag=f"{revision.sha256}-annotated", delete=True)


def _name(revision: Revision, ext: str) -> str:
    return f"{revision.image_id.rpartition('/')[2]}{ext}"
