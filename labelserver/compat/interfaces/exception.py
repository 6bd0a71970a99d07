"""The exceptions of MONAI Label as members of our error tree, so that clients get a status and a sentence."""

from __future__ import annotations

from enum import StrEnum

from labelserver.domain.errors import AppFailed


class MONAILabelError(StrEnum):
    """What went wrong, as its apps name it."""

    SERVER_ERROR = "SERVER_ERROR"
    UNKNOWN_ERROR = "UNKNOWN_ERROR"
    CLASS_INIT_ERROR = "CLASS_INIT_ERROR"
    MODEL_IMPORT_ERROR = "MODEL_IMPORT_ERROR"
    INFERENCE_ERROR = "INFERENCE_ERROR"
    TRANSFORM_ERROR = "TRANSFORM_ERROR"
    INVALID_INPUT = "INVALID_INPUT"
    APP_INIT_ERROR = "APP_INIT_ERROR"
    APP_INFERENCE_FAILED = "APP_INFERENCE_FAILED"
    APP_TRAIN_FAILED = "APP_TRAIN_FAILED"
    APP_ERROR = "APP_ERROR"


class MONAILabelException(AppFailed):
    """Raised by apps with an error and a message."""

    #: the error of our tree that other processes rebuild, which do not know this class
    known_as = "TaskFailed"

    def __init__(self, error: MONAILabelError, msg: str = "") -> None:
        super().__init__(msg, error=str(error))
        self.error = error
        self.msg = msg

    @property
    def code(self) -> str:
        return "InvalidParams" if self.error is MONAILabelError.INVALID_INPUT else self.known_as


class ImageNotFoundException(MONAILabelException):
    """No such image."""

    known_as = "ImageNotFound"

    def __init__(self, msg: str) -> None:
        super().__init__(MONAILabelError.APP_ERROR, msg)


class LabelNotFoundException(MONAILabelException):
    """No such label."""

    known_as = "LabelNotFound"

    def __init__(self, msg: str) -> None:
        super().__init__(MONAILabelError.APP_ERROR, msg)
