"""``/datastore/``: the whole store as counts, as a list for training, as an index, and as an archive."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from labelserver.api.answers import attachment, file_answer, json_answer
from labelserver.api.blind import hidden_from, without_hidden
from labelserver.api.context import ServerOf, shares_files
from labelserver.api.contiguous_ids import contiguous_copy, contiguous_index
from labelserver.api.identity import person_of
from labelserver.contracts.labels import SchemaStore
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.errors import LabelNotFound
from labelserver.domain.ids import FINAL
from labelserver.domain.labels import Revision

router = APIRouter(tags=["Datastore"])


class View(StrEnum):
    """What ``GET /datastore/`` answers."""

    STATS = "stats"
    TRAIN = "train"
    ALL = "all"


@router.get("/datastore/", summary="Counts, training list or full index of the images and labels")
def get_datastore(request: Request, server: ServerOf, output: View = View.STATS) -> Response:
    store = server.datastore
    if output is View.ALL:
        document = without_hidden(store.json(), hidden_from(server, person_of(request)))
        return json_answer(contiguous_index(document, store.schema()) if isinstance(store, SchemaStore) else document)
    if output is View.STATS:
        return json_answer(store.status())
    shared, studies = shares_files(request), server.roots.studies
    return json_answer([{k: v if shared else _below(str(v), studies) for k, v in d.items()} for d in store.datalist()])


@router.get("/datastore/dataset", summary="A zip of the labeled images and their labels, with the ids 1..N of /info/")
def get_dataset(
    request: Request,
    server: ServerOf,
    limit_cases: Annotated[int | None, Query(ge=1, description="At most so many.")] = None,
) -> Response:
    if not server.datastore.get_labeled_images():
        raise LabelNotFound("No image has a final label yet, so there is nothing to pack. Save a label first.")
    store = server.datastore
    media = "application/octet-stream"
    if isinstance(store, LocalDatastore):
        headers = {"Content-Disposition": attachment("dataset.zip")}
        hidden = hidden_from(server, person_of(request))
        schema = store.schema()
        metadata = contiguous_index(without_hidden(store.json(), hidden), schema)
        left_out = frozenset(image_id for image_id, tag in hidden if tag == FINAL)

        def shown(revision: Revision, file: Path) -> Path | None:
            return contiguous_copy(revision, file, schema, server.spool)

        stream = store.stream_dataset(limit_cases, None if schema.is_contiguous else shown, metadata, left_out)
        return StreamingResponse(stream, media_type=media, headers=headers)
    return file_answer(Path(store.get_dataset_archive(limit_cases)), "dataset.zip", media, delete=True)


def _below(path: str, studies: Path) -> str:
    """Without the server's own folders, for callers on another machine (S-15)."""
    return Path(path).relative_to(studies).as_posix() if Path(path).is_relative_to(studies) else Path(path).name
