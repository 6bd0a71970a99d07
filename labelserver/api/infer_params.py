"""The ``params`` of an inference or a training, checked at the door: what a caller may say, what the route says.

Model, image, session and files come from the route and its parts; a parameter that tries to replace one of them is
refused, so that nobody can make a model read another file of the server (S-3, S-4).
"""

from __future__ import annotations

import re

from labelserver.domain.errors import InvalidParams
from labelserver.domain.ids import parse_tag
from labelserver.domain.infer import Priority
from labelserver.domain.json_types import JsonObject, JsonValue

#: keys of an inference that only the route or the server may set.
INFER_RESERVED = frozenset(
    {
        "model",
        "image",
        "images",
        "image_id",
        "image_file",
        "image_path",
        "label_file",
        "session",
        "session_id",
        "person",
        "description",
        "bundle_path",
        "result_box",
        "memory_step",
    }
)

#: keys of a training, scoring or batch that only the route or the server may set.
JOB_RESERVED = frozenset({"bundle_path", "train_ds", "val_ds", "person"})

#: keys that name files or services: they may only repeat what the task offers in its configuration.
OFFERED_ONLY = frozenset({"model_filename", "tracking_uri", "network", "path", "pretrained_path"})

#: keys whose presence means that a person waits for the answer to a click.
CLICK_KEYS = frozenset({"foreground", "background", "points", "clicks", "roi", "label_prompt"})
CLICK_TYPES = frozenset({"deepgrow", "deepedit"})

MASK_DTYPES = frozenset(
    {"bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64"}
)

_EXTENSION = re.compile(r"^(\.?[A-Za-z0-9_-]{1,16}){1,3}$")
_FOLDER_NAME = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_. -]{0,99}$")


def checked_infer_params(params: JsonObject, model: str, image: str, offered: JsonObject) -> JsonObject:
    """`params` without reserved keys.

    Args:
        model, image: what the route says; repeating them is harmless.
        offered: the task's ``config`` in the app's description.

    Raises:
        InvalidParams: a reserved key with another value, or a value that makes no sense.
    """
    route: JsonObject = {"model": model, "image": image}
    result = _without_reserved(params, INFER_RESERVED, route)
    _refuse_not_offered(result, offered)
    label = result.get("label")
    if label is not None and not isinstance(label, str):
        raise InvalidParams(
            "params.label is the name of the active label, as text; send a mask as the file part 'label'."
        )
    if isinstance(label, str) and ("/" in label or "\\" in label):
        raise InvalidParams("params.label is a label's name, not a path; send a mask as the file part 'label'.")
    extension = result.get("result_extension")
    if extension is not None and not (isinstance(extension, str) and (not extension or _EXTENSION.match(extension))):
        raise InvalidParams("params.result_extension must be a file extension such as '.nrrd' or '.nii.gz'.")
    dtype = result.get("result_dtype")
    if dtype is not None and dtype not in MASK_DTYPES:
        raise InvalidParams(f"params.result_dtype must be one of {', '.join(sorted(MASK_DTYPES))}.")
    if "restore_label_idx" in result:
        result["restore_label_idx"] = False  # ids on the wire are 1..N, whatever the app's own are
    checked_label_tag(result)
    return result


def checked_job_params(params: JsonObject, task_key: str, task: str, offered: JsonObject) -> JsonObject:
    """The parameters of a training, scoring or batch without reserved keys. Raises `InvalidParams`."""
    result = _without_reserved(params, JOB_RESERVED | {task_key}, {task_key: task})
    _refuse_not_offered(result, offered)
    name = result.get("name")
    if name not in (None, "") and not (isinstance(name, str) and _FOLDER_NAME.match(name)):
        raise InvalidParams("params.name becomes a folder: use letters, digits, '_', '-', '.' and spaces.")
    checked_label_tag(result)
    return result


def checked_label_tag(params: JsonObject) -> None:
    """Raises `InvalidId` for a tag that is not a plain name, `InvalidParams` if it is not text."""
    tag = params.get("label_tag")
    if tag is None:
        return
    if not isinstance(tag, str):
        raise InvalidParams("params.label_tag must be text such as 'original'.")
    parse_tag(tag)


def priority_of(params: JsonObject, model_type: JsonValue) -> Priority:
    """How urgent: a click before everything else."""
    clicked = any(params.get(key) for key in CLICK_KEYS)
    return Priority.CLICK if clicked or model_type in CLICK_TYPES else Priority.OPEN_IMAGE


def _without_reserved(params: JsonObject, reserved: frozenset[str], route: JsonObject) -> JsonObject:
    for key in sorted(reserved & params.keys()):
        value = params[key]
        if value not in (None, "") and value != route.get(key):
            raise InvalidParams(
                f"params may not contain '{key}': it is taken from the request's path, query and files. Remove it."
            )
    return {key: value for key, value in params.items() if key not in reserved}


def _refuse_not_offered(params: JsonObject, offered: JsonObject) -> None:
    for key in sorted(OFFERED_ONLY & params.keys()):
        choices = offered.get(key)
        allowed = choices if isinstance(choices, list | tuple) else [choices]
        if params[key] not in (None, "", "None") and params[key] not in allowed:
            raise InvalidParams(f"params.{key} may only be a value that /info/ offers in the task's config.")
