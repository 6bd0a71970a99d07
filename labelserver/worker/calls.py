"""What a worker can be asked: one function for each method, from JSON to JSON, around the app's own methods.

Errors are not handled here; see `serving`.
"""

from __future__ import annotations

import inspect
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelserver.contracts.datastore import Datastore
from labelserver.domain.errors import InvalidParams, TaskFailed
from labelserver.domain.infer import InferAnswer, InferRequest
from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.domain.paths import Root, RootedPath, Roots
from labelserver.wire.mask_box import EncodedBox
from labelserver.worker.hosted import HostedApp
from labelserver.worker.plain import plain, plain_object
from labelserver.worker.sessions import Sessions

#: Extensions of which the last part alone says too little.
_DOUBLE_EXTENSIONS = (".nii.gz", ".seg.nrrd", ".tar.gz", ".ome.tif", ".ome.tiff")
#: What may be called on an app's datastore: what the contract lists, and nothing that an author added.
_DATASTORE_METHODS = frozenset(
    name for name, member in inspect.getmembers(Datastore, inspect.isfunction) if not name.startswith("_")
)


@dataclass(frozen=True, slots=True)
class Host:
    """The app and where it works."""

    app: HostedApp
    roots: Roots
    sessions: Sessions


Answer = tuple[JsonValue, tuple[bytes, ...]]  #: JSON, and raw bytes beside it


def infer(host: Host, params: JsonObject) -> Answer:
    """Run an infer task. `params` is an `InferRequest`; the answer is an `InferAnswer` whose file lies in the spool.

    A mask that was asked for as a box is the one buffer beside it.
    """
    request = InferRequest.from_json(params)
    result = host.app.infer(_app_request(host.roots, request))
    if not isinstance(result, Mapping):
        raise TaskFailed(f"The model {request.model} returned {type(result).__name__} instead of a result.")
    raw_params = result.get("params")
    answer_params = plain_object(raw_params) if isinstance(raw_params, Mapping) else {}
    file, label, tag = result.get("file"), result.get("label"), result.get("tag")
    saved = request.image_id is not None and bool(label) and isinstance(label, str) and label != str(file or "")
    moved = _into_spool(host.roots, Path(file)) if isinstance(file, str | Path) and str(file) else None
    box = result.get("array")
    answer = InferAnswer(
        params=answer_params,
        file=moved,
        ext=_extension(moved.path) if moved else "",
        saved_label=(str(label), str(tag or "")) if saved and _wants_saving(request) else None,
        model_version=str(result.get("model_version") or answer_params.get("model_version") or ""),
    )
    return answer.to_json(), ((bytes(box),) if isinstance(box, EncodedBox) else ())


def _app_request(roots: Roots, request: InferRequest) -> dict[str, Any]:
    """The request as apps know it: the caller's options, and over them what only the route may say."""
    built: dict[str, Any] = {**request.params, "model": request.model}
    if request.image_file is not None:
        built["image"] = str(roots.resolve(request.image_file))
    else:
        built["image"] = request.image_id
    if request.label_file is not None:
        built["label"] = str(roots.resolve(request.label_file))
    if request.session is not None:
        built["session"] = request.session
    return built


def _wants_saving(request: InferRequest) -> bool:
    wish = request.params.get("save_label")
    return wish.lower() in ("true", "1", "yes", "on") if isinstance(wish, str) else bool(wish)


def _into_spool(roots: Roots, file: Path) -> RootedPath | None:
    """Give `file` to the server under a name of its own: moved if it is a temporary one, else copied."""
    if not file.is_file():
        return None
    spool = roots.state / "spool"
    target = spool / f"{uuid.uuid4().hex}{_extension(file.name)}"
    temporary = os.path.realpath(tempfile.gettempdir())
    if os.path.realpath(file).startswith(temporary + os.sep):
        shutil.move(file, target)
    else:
        shutil.copyfile(file, target)
    return roots.relative(target, Root.STATE)


def _extension(name: str) -> str:
    lower = name.lower()
    double = next((ext for ext in _DOUBLE_EXTENSIONS if lower.endswith(ext)), None)
    return name[-len(double) :] if double else Path(name).suffix


def _next_sample(host: Host, params: JsonObject) -> JsonValue:
    return plain(host.app.next_sample(_table(params, "request")))


def _on_init_complete(host: Host, params: JsonObject) -> JsonValue:
    return plain(host.app.on_init_complete())


def _on_save_label(host: Host, params: JsonObject) -> JsonValue:
    return plain(host.app.on_save_label(str(params["image_id"]), str(params["label_id"])))


def _batch_images(host: Host, params: JsonObject) -> JsonValue:
    request = _table(params, "params")
    chooser = host.app._batch_infer  # the name that apps know; its `get_images` is theirs to override
    images = sorted({str(image) for image in chooser.get_images(request, host.app.datastore())})
    limit = int(request.get("max_batch_size") or 0)
    return images[:limit] if limit > 0 else images


def _model_file(host: Host, params: JsonObject) -> JsonValue:
    """Below the app folder where it lies there, else absolute: joined to the app folder, it is the file either way."""
    model = str(params["model"])
    path = host.app.model_file(model) if params.get("validate", True) else host.app.model_file(model, validate=False)
    if not path:
        return None
    absolute = host.roots.app / str(path)
    if absolute.is_relative_to(host.roots.app):
        return absolute.relative_to(host.roots.app).as_posix()
    return str(absolute)


def _model_info(host: Host, params: JsonObject) -> JsonValue:
    return plain(host.app.model_info(str(params["model"])))


def _datastore(host: Host, method: str, params: JsonObject) -> JsonValue:
    if method not in _DATASTORE_METHODS:
        raise InvalidParams(f"A datastore has no method {method!r}.")
    args, kwargs = params.get("args"), params.get("kwargs")
    result = getattr(host.app.datastore(), method)(
        *(args if isinstance(args, list) else ()), **(kwargs if isinstance(kwargs, dict) else {})
    )
    return plain(result)


def _table(params: JsonObject, key: str) -> dict[str, Any]:
    value = params.get(key)
    return dict(value) if isinstance(value, Mapping) else {}


_METHODS: dict[str, Callable[[Host, JsonObject], JsonValue]] = {
    "next_sample": _next_sample,
    "on_init_complete": _on_init_complete,
    "on_save_label": _on_save_label,
    "batch_images": _batch_images,
    "model_file": _model_file,
    "model_info": _model_info,
}


def call(host: Host, method: str, params: JsonObject) -> Answer:
    """Run `method`. Raises whatever the app raises, and `InvalidParams` for an unknown method."""
    if method == "infer":
        return infer(host, params)
    if method.startswith("datastore."):
        return _datastore(host, method.removeprefix("datastore."), params), ()
    if method not in _METHODS:
        raise InvalidParams(f"A worker has no method {method!r}.")
    return _METHODS[method](host, params), ()


def speaker(method: str, params: JsonObject) -> str:
    """Who acts in a call, to begin a sentence about its failure."""
    if method in ("infer", "session"):
        return f"The model {params.get('model') or params.get('task')}"
    if method == "next_sample":
        return f"The strategy {_table(params, 'request').get('strategy', 'random')}"
    return f"The app's {method}"
