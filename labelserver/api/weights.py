"""``/model``: the weights that a model reads. An upload becomes a new version; nothing is overwritten."""

from __future__ import annotations

import json
import logging
import time
import zipfile
from pathlib import Path

from anyio import to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response

from labelserver.api.answers import file_answer, json_answer
from labelserver.api.context import ServerOf, table
from labelserver.api.forms import receive_form
from labelserver.api.identity import person_of
from labelserver.api.openapi import form_body
from labelserver.api.samples import file_digest
from labelserver.api.task_documents import train_stats
from labelserver.bootstrap import Server
from labelserver.contracts.model_store import Candidate
from labelserver.domain.errors import ModelNotFound, UnreadableFile
from labelserver.domain.jobs import JobKind
from labelserver.domain.json_types import JsonObject

logger = logging.getLogger(__name__)
router = APIRouter(tags=["Models"])

#: The name under which the model store publishes a version's weights.
WEIGHTS_NAME = "model.pt"
#: bytes; a safetensors header beyond this is refused by the format's own readers too.
MAX_SAFETENSORS_HEADER = 100_000_000


@router.get("/model/{model}", summary="The weights that the model reads now")
async def get_weights(server: ServerOf, model: str) -> Response:
    path = await _weights_of(server, model)
    return await to_thread.run_sync(lambda: file_answer(path, f"{model}{path.suffix}", "application/octet-stream"))


@router.get("/model/info/{model}", summary="Check sum and time of the weights")
async def get_weights_info(server: ServerOf, model: str) -> Response:
    path = await _weights_of(server, model)
    document = await to_thread.run_sync(_described, path)
    description = server.engine.description()
    if description is not None and model in table(description.info, "trainers"):
        stats = train_stats([model], server.engine.jobs.list(JobKind.TRAIN))[model]
        if stats:
            document["train_stats"] = stats
    return json_answer(document)


@router.put("/model/{model}", summary="Upload weights as a new version", openapi_extra=form_body(("file",)))
async def put_weights(request: Request, server: ServerOf, model: str) -> Response:
    person = person_of(request)
    target = await _publish_path(server, model)
    lineage = _lineage(server, model)
    async with receive_form(request, server.spool, server.settings.max_upload_bytes) as form:
        file = form.required_file("file")
        await to_thread.run_sync(check_weights, file.path)

        def publish() -> JsonObject:
            folder = server.spool / f"weights-{file.path.stem}"
            folder.mkdir()
            try:
                weights = file.path.rename(folder / WEIGHTS_NAME)
                extra: JsonObject = {"uploaded_by": person, "file_name": file.client_name[-200:]}
                candidate = Candidate(lineage, (weights,), publish_path=target, extra=extra)
                number = server.model_store.add(candidate)
            finally:
                (folder / WEIGHTS_NAME).unlink(missing_ok=True)
                folder.rmdir()
            server.model_store.publish(lineage, number, f"Uploaded by {person}.")
            return _described(target)

        return json_answer(await to_thread.run_sync(publish))


@router.delete("/model/{model}", summary="Put the weights aside")
async def delete_weights(server: ServerOf, model: str) -> Response:
    path = await _weights_of(server, model)
    aside = path.with_name(f"{path.name}.{int(time.time())}.deleted")
    await to_thread.run_sync(path.rename, aside)
    logger.warning("weights put aside", extra={"model": model, "file": aside.name})
    return json_answer({})


def check_weights(path: Path) -> None:
    """Refuse what is neither safetensors nor a zip-format ``.pt``; older pickles could run code when read.

    Raises:
        UnreadableFile: another format, or damaged.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            names = packed.namelist()
            broken = packed.testzip()
        if broken is None and any(name.endswith("/data.pkl") for name in names):
            return
        raise UnreadableFile("The weights file is damaged, or a zip that torch.save did not write. Save it again.")
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(length) if length <= min(MAX_SAFETENSORS_HEADER, path.stat().st_size) else b""
    try:
        parsed = json.loads(header)
        needed = max(int(entry["data_offsets"][1]) for name, entry in parsed.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UnreadableFile(
            "Weights must be a safetensors file, or a .pt written by torch.save (zip format)."
        ) from error
    if 8 + length + needed != path.stat().st_size:
        raise UnreadableFile("The safetensors file is cut short or damaged. Save it again.")


def _lineage(server: Server, model: str) -> str:
    """The model store's name for what `model` reads."""
    description = server.engine.description()
    return description.trainer_models.get(model, model) if description is not None else model


async def _lead_file(server: Server, model: str, *, validate: bool) -> str:
    """Absolute path of the file that the model's infer task reads; "" if it names none (or, valid, has none)."""
    answered = await server.engine.call_lead("model_file", {"model": model, "validate": validate})
    return str(server.roots.app / answered) if isinstance(answered, str) and answered else ""


async def _weights_of(server: Server, model: str) -> Path:
    """The file that the model's infer task reads, as the app says, else the current version's."""
    description = server.engine.description()
    if description is None or model in table(description.info, "models"):
        named = await _lead_file(server, model, validate=True)
        if named and Path(named).is_file():
            return Path(named)

    def from_store() -> Path | None:
        lineage = _lineage(server, model)
        current = server.model_store.current(lineage)
        return server.model_store.weights_file(lineage, current.number) if current is not None else None

    found = await to_thread.run_sync(from_store)
    if found is None:
        raise ModelNotFound(f"Model File NOT Found for {model[:100]}. Models are listed under GET /info/.")
    return found


async def _publish_path(server: Server, model: str) -> Path:
    """Where the model's infer task looks for new weights."""
    current = await to_thread.run_sync(server.model_store.current, _lineage(server, model))
    named = current.publish_path if current is not None and current.publish_path else ""
    named = named or await _lead_file(server, model, validate=False)
    if not named:
        raise ModelNotFound(f"Model File Name NOT configured for {model[:100]}: its infer task reads no weights file.")
    path = server.roots.app / named
    if not path.is_relative_to(server.roots.app):
        raise ModelNotFound(f"The model {model[:100]} reads its weights outside the app folder; replace them there.")
    return path


def _described(path: Path) -> JsonObject:
    stat = path.stat()
    checksum = file_digest(path, "sha256", stat.st_mtime_ns, stat.st_size)
    return {"checksum": f"SHA256:{checksum}", "modified_time": int(stat.st_mtime)}
