"""``/session``: uploads for one-off inference, which the peer calls sessions."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from labelserver.api.answers import file_answer, json_answer
from labelserver.api.context import ServerOf
from labelserver.api.forms import base_name, receive_form
from labelserver.api.openapi import form_body
from labelserver.bootstrap import Server
from labelserver.datastore.uploads import Upload
from labelserver.domain.errors import InvalidParams, UploadNotFound, UploadsOff
from labelserver.domain.json_types import JsonObject
from labelserver.imaging.formats import split_ext

router = APIRouter(tags=["Sessions"])

#: What an upload without a file name is taken for.
DEFAULT_NAME = "image.nii.gz"


@router.put(
    "/session/",
    summary="Upload an image for one-off inference",
    openapi_extra=form_body(("files",), ("client_id",), many=True),
)
async def put_session(
    request: Request,
    server: ServerOf,
    uncompress: Annotated[bool, Query(description="The single file is an archive of a series.")] = False,
    expiry: Annotated[int, Query(ge=0, description="Seconds; 0: the server's maximum.")] = 0,
) -> Response:
    ensure_on(server)
    async with receive_form(request, server.spool, server.settings.max_upload_bytes) as form:
        files = [(f.path, base_name(f.client_name) or DEFAULT_NAME) for f in form.files if f.field == "files"]
        if not files:
            raise InvalidParams("The form has no file part named 'files'. Send one, as in curl -F files=@FILE.")
        if any(f.size_bytes == 0 for f in form.files):
            raise InvalidParams("A file part is empty. Send the files' content.")

        def add() -> Upload:
            return server.uploads.add(files, expiry_s=expiry, uncompress=uncompress)

        upload = await to_thread.run_sync(add)
    return json_answer({"session_id": upload.upload_id, "session_info": upload.to_json()})


@router.get("/session/{session_id}", summary="What is known about the session, or its image")
def get_session(server: ServerOf, session_id: str, update_ts: bool = False, image: bool = False) -> Response:
    ensure_on(server)
    try:
        upload = server.uploads.get(session_id, use=update_ts)
    except UploadNotFound as error:
        if error.fields.get("expired") and not image:
            return json_answer({})
        raise
    if not image:
        return json_answer(upload.to_json())
    if not upload.image.is_file():
        raise UploadNotFound(f"Session ({session_id}) holds several files, not one image.")
    name = upload.names[0] if len(upload.names) == 1 else upload.image.name
    ext = split_ext(upload.image.name)[1]
    return file_answer(upload.image, name if name.lower().endswith(ext.lower()) else upload.image.name)


@router.delete("/session/{session_id}", summary="Remove the session")
def delete_session(server: ServerOf, session_id: str) -> Response:
    ensure_on(server)
    document: JsonObject = server.uploads.remove(session_id).to_json()
    return json_answer(document)


def ensure_on(server: Server) -> None:
    """Raise `UploadsOff` if the operator wants no uploads."""
    if not server.settings.sessions:
        raise UploadsOff("Session Feature is Not Enabled. Start the server with LABELSERVER_SESSIONS=true.")
