"""Save an uploaded label, for the old route and the new one: who, from what, and whether the caller saw the newest.

``If-Match`` names the label that the caller started from, by the ``ETag`` of its download; ``If-None-Match: *`` says
that there was none. Without them every save is accepted: each is a revision of its own, so nothing is discarded.
"""

from __future__ import annotations

import logging
import re
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

from fastapi import Request
from starlette.datastructures import Headers

from labelserver.api.context import ensure_image
from labelserver.api.forms import Form
from labelserver.api.identity import person_of
from labelserver.api.raw_labels import RAW_EXTENSION, raw_to_nifti
from labelserver.bootstrap import Server
from labelserver.contracts.datastore import RevisionStore
from labelserver.contracts.work import OfferingStore
from labelserver.domain.annotation import AnnotatedPart, annotation_from_json, region_from_json
from labelserver.domain.errors import InvalidParams, LabelServerError
from labelserver.domain.ids import ImageId, Tag
from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.domain.labels import ANY_LABEL, Expected, LabelSource, Numbering, Provenance, Revision
from labelserver.imaging.formats import LABEL_EXTENSIONS, split_ext

logger = logging.getLogger(__name__)

#: What a client may say about where its voxels came from; the other sources are ours to tell.
_SOURCES_OF_CLIENTS = (LabelSource.HAND, LabelSource.MODEL, LabelSource.PROMPTS)

_ENTITY_TAG = re.compile(r'(W/)?"([^"]*)"|(\*)')


@dataclass(frozen=True, slots=True)
class Saver:
    """Who saves, with which program, and what he takes for granted."""

    person: str
    client: str
    expected: Expected
    numbering: Numbering
    annotated: AnnotatedPart | None = None
    silent: bool = False  #: nothing was said about which part was looked at


def saver_of(request: Request, form: Form, numbering: Numbering) -> Saver:
    """As the request says."""
    person = person_of(request, form.params().get("client_id"))
    client, expected = request.headers.get("user-agent", "")[:200], expected_of(request.headers)
    silent = not form.texts.get("annotated") and form.file("annotated_mask") is None
    return Saver(person, client, expected, numbering, silent=silent)


def annotated_part(form: Form) -> AnnotatedPart:
    """What the form's ``annotated`` (JSON) and ``annotated_mask`` (a volume) say; voxels of 255 count as well.

    With ``"adds": true`` it is said in addition to what the label of ``If-Match`` says; voxels of 255 have no meaning.

    Raises:
        InvalidParams: they say nothing that can be understood.
    """
    document = form.params("annotated")
    adds = document.pop("adds", False)
    if not isinstance(adds, bool):
        raise InvalidParams("annotated.adds is true or false.")
    told = annotation_from_json(document)
    mask = form.file("annotated_mask")
    part = AnnotatedPart(told.labels, told.region, mask.path if mask is not None else None)
    return replace(part, voxels_255=not adds, adds=adds)


def expected_of(headers: Headers) -> Expected:
    """The SHA-256 of labels that ``If-Match`` allows; empty for ``If-None-Match: *``; None without a condition."""
    match = ",".join(headers.getlist("if-match"))
    if "if-match" in headers:  # an empty one allows nothing: a caller that lost its tag must not overwrite
        found = _ENTITY_TAG.findall(match)
        return frozenset(ANY_LABEL if star else text.partition("-")[0] for weak, text, star in found if not weak) | {""}
    return frozenset() if headers.get("if-none-match", "").strip() == "*" else None


def refuse_condition(expected: Expected) -> None:
    """For stores that keep no revisions. Raises `InvalidParams` if there is a condition."""
    if expected is not None:
        raise InvalidParams("The app's own datastore keeps no revisions, so If-Match cannot be honoured. Leave it out.")


def save_upload(server: Server, form: Form, image_id: ImageId, tag: Tag, saver: Saver) -> tuple[str, Revision | None]:
    """Store the form's ``label`` with its ``params`` as info. Blocks.

    Returns:
        The label's id, and its revision where the store keeps them.
    """
    upload = form.required_file("label")
    info = form.params()
    check_label_info(info.get("label_info"))
    ext = split_ext(upload.path.name)[1]
    if ext.lower() not in LABEL_EXTENSIONS:
        ensure_image(server, image_id)
        known = ", ".join(sorted(LABEL_EXTENSIONS))
        raise InvalidParams(f"The label's file name ends with {ext or 'no extension'}; known are {known}.")
    if ext.lower() != RAW_EXTENSION:
        return accept_file(server, image_id, upload.path, ext, tag, saver, info)
    ensure_image(server, image_id)
    converted = server.spool / f"label-{uuid.uuid4().hex}.nii.gz"
    try:
        raw_to_nifti(upload.path, Path(server.datastore.get_image_uri(image_id)), converted)
        return accept_file(server, image_id, converted, ".nii.gz", tag, saver, info)
    finally:
        converted.unlink(missing_ok=True)


def accept_file(
    server: Server, image_id: ImageId, file: Path, ext: str, tag: Tag, saver: Saver, info: JsonObject
) -> tuple[str, Revision | None]:
    """Through the revision store where there is one, so that who saved it is kept. `file` may be moved away."""
    store = server.datastore
    if not isinstance(store, RevisionStore):
        refuse_condition(saver.expected)
        ensure_image(server, image_id)
        return store.save_label(image_id, str(file), tag, info), None
    roi = store.asked_part(image_id, saver.person) if saver.silent and isinstance(store, OfferingStore) else None
    if roi is not None:  # he was asked for a part of the image, so nothing is known about the rest
        asked = replace(saver.annotated or AnnotatedPart(), region=region_from_json(roi), adds=bool(saver.expected))
        try:
            revision = _accept(store, image_id, file, ext, tag, replace(saver, annotated=asked), info)
        except InvalidParams as error:  # the strategy's mistake must not cost the person his label
            logger.warning("a strategy asked for no part of the image", extra={"reason": error.message})
        else:
            return revision.image_id, revision
    if saver.annotated is not None and saver.annotated.adds and saver.expected is None:
        raise InvalidParams("annotated.adds needs If-Match: the ETag of the label that yours was made from.")
    if saver.silent and saver.expected:  # made from a label that may be annotated in part, and is still
        saver = replace(saver, annotated=replace(saver.annotated or AnnotatedPart(), labels=(), adds=True))
    revision = _accept(store, image_id, file, ext, tag, saver, info)
    return revision.image_id, revision


def _accept(
    store: RevisionStore, image_id: ImageId, file: Path, ext: str, tag: Tag, saver: Saver, info: JsonObject
) -> Revision:
    return store.accept_label(
        image_id,
        file,
        ext,
        tag,
        _provenance(saver, info),
        info,
        expected=saver.expected,
        numbering=saver.numbering,
        floats=False,
        annotated=saver.annotated,
        take=True,
    )


def _provenance(saver: Saver, info: JsonObject) -> Provenance:
    told = info.get("source")
    source = next((s for s in _SOURCES_OF_CLIENTS if s.value == told), LabelSource.HAND)
    return Provenance(
        person=saver.person,
        client=saver.client,
        source=source,
        model=_text(info.get("model")),
        model_version=_text(info.get("model_version")),
    )


def _text(value: JsonValue) -> str:
    return str(value)[:200] if isinstance(value, str | int) and not isinstance(value, bool) else ""


def check_label_info(label_info: JsonValue) -> None:
    """Raises `InvalidParams` unless it is a list of objects, or nothing."""
    if label_info is None:
        return
    if not isinstance(label_info, list) or not all(isinstance(entry, dict) for entry in label_info):
        raise InvalidParams('params.label_info must be a list of objects such as [{"name": "liver", "idx": 1}].')
    for entry in label_info:
        name = entry.get("name") if isinstance(entry, dict) else None
        if name is not None and (isinstance(name, bool) or not isinstance(name, str | int)):
            raise InvalidParams(f"A label's name in params.label_info must be text, not {str(name)[:80]!r}.")


async def said_by_app(server: Server, image_id: str, label_id: str) -> JsonObject:
    """What the app's save hook wants in the answer. Its failure does not undo the save, and is told."""
    description = server.engine.description()
    if description is None or "on_save_label" not in description.overridden_hooks:
        return {}
    try:
        said = await server.engine.call_lead("on_save_label", {"image_id": image_id, "label_id": label_id})
    except LabelServerError as error:
        logger.warning("save hook failed", extra={"image_id": image_id, "code": error.code}, exc_info=error)
        return {"hook_problem": f"The label is saved, but the app's on_save_label failed: {error.message}"}
    return dict(said) if isinstance(said, dict) else {}
