"""Everything that may go wrong, as one tree.

    LabelServerError
      NotFound          the thing named does not exist
        ImageNotFound LabelNotFound TaskNotFound ModelNotFound JobNotFound UploadNotFound SessionNotFound
        LeaseLost LeaseNotFound
      Refused           the request cannot be carried out as it stands
        InvalidId InvalidPrompt InvalidParams GridsDiffer UnsupportedFormat UnreadableFile InvalidSetting NoImageGiven
        UnknownLabelName
      Conflict          right now something else stands in the way
        VersionTaken IllegalTransition FolderInUse RequestCancelled LabelChanged SessionNotHeld
      NotAllowed        the caller, host or origin may not do this
        KeyRefused BlindReading NotYourRole
      TooLarge          more bytes than this server takes
      Busy              try again later
        QueueFull WorkerNotReady SlotsTaken
      Absent            a part that this server does not have
        NotThereYet UploadsOff
      AppFailed         the user's app raised, hung or died
        AppLoadFailed TaskFailed WorkerDied TookTooLong
      StorageFailed     the disk or what lies on it
        StoredDataInvalid DiskFull DeviceMemoryFull

Each message is a sentence for the person who asked: what was wrong, what is allowed, what to do.
`api/problem_responses.py` alone turns these into HTTP status codes; `code` names the error across processes.
"""

from __future__ import annotations

from typing import ClassVar

from labelserver.domain.json_types import JsonObject


class LabelServerError(Exception):
    """Root of the tree. `code` is the class name; `fields` are ids worth logging or returning."""

    registry: ClassVar[dict[str, type[LabelServerError]]] = {}

    def __init__(self, message: str, /, **fields: str | int | float | bool | None) -> None:
        super().__init__(message)
        self.message = message
        self.fields: dict[str, str | int | float | bool | None] = fields

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__ == __name__:  # an error class of elsewhere is unknown to the process that would rebuild it
            LabelServerError.registry[cls.__name__] = cls

    @property
    def code(self) -> str:
        """The class name, which travels between processes."""
        return type(self).__name__

    def to_json(self) -> JsonObject:
        """As sent in a frame; `error_from_json` is its inverse."""
        return {"code": self.code, "message": self.message, "fields": dict(self.fields)}


def error_from_json(document: JsonObject) -> LabelServerError:
    """Rebuild an error that crossed a process boundary. An unknown code becomes `AppFailed`."""
    cls = LabelServerError.registry.get(str(document.get("code", "")), AppFailed)
    fields = document.get("fields")
    known = fields if isinstance(fields, dict) else {}
    plain = {str(k): v for k, v in known.items() if v is None or isinstance(v, str | int | float | bool)}
    return cls(str(document.get("message", "The task failed without a message.")), **plain)


class NotFound(LabelServerError):
    """The thing named does not exist."""


class ImageNotFound(NotFound):
    """No image of this id."""


class LabelNotFound(NotFound):
    """The image has no label under this tag."""


class TaskNotFound(NotFound):
    """The app registers no infer task, trainer, strategy or scoring method of this name."""


class ModelNotFound(NotFound):
    """No weights or no version of this model."""


class JobNotFound(NotFound):
    """No job of this id or kind."""


class UploadNotFound(NotFound):
    """No upload (the peer's session) of this id, or it has expired."""


class SessionNotFound(NotFound):
    """No interactive session of this id for this person, or it has expired."""


class LeaseLost(NotFound):
    """A client's lease on a session was never given, has ended, or is for another model; or an image is another's."""


class LeaseNotFound(NotFound):
    """Nobody, or somebody else, was given an image under this lease."""


class Refused(LabelServerError):
    """The request cannot be carried out as it stands; nothing was changed."""


class InvalidId(Refused):
    """An id, tag or name with characters that are not allowed."""


class InvalidPrompt(Refused):
    """A click, box or scribble that does not fit the image or the task."""


class InvalidParams(Refused):
    """Parameters that are not a JSON object, or that name a reserved key."""


class GridsDiffer(Refused):
    """A label whose shape or position is not its image's."""


class UnsupportedFormat(Refused):
    """A file type that cannot be read or written here."""


class UnreadableFile(Refused):
    """A file that claims to be of a known type and is not, or is cut short."""


class InvalidSetting(Refused):
    """A flag or environment variable with a value that makes no sense."""


class NoImageGiven(Refused):
    """An inference without image id, upload or session."""


class UnknownLabelName(Refused):
    """A segment whose name the project's strict schema does not know."""


class Conflict(LabelServerError):
    """Right now something else stands in the way."""


class VersionTaken(Conflict):
    """A model version of this number exists."""


class IllegalTransition(Conflict):
    """A job cannot go from its state to the one asked for."""


class FolderInUse(Conflict):
    """Another server owns this app or studies folder."""


class RequestCancelled(Conflict):
    """Whoever asked no longer wants the answer; the task ended between two steps."""


class LabelChanged(Conflict):
    """Somebody saved this label since the caller last saw it (If-Match); nothing was stored."""


class SessionNotHeld(Conflict):
    """A worker does not hold this interactive session; the server asks again with its log."""


class NotAllowed(LabelServerError):
    """The caller, host or origin may not do this."""


class KeyRefused(NotAllowed):
    """The key that this server asks for was not sent, or is another one."""


class BlindReading(NotAllowed):
    """Another reader's label of an image that the caller has yet to read."""


class NotYourRole(NotAllowed):
    """The project's rules give this to other people."""


class TooLarge(LabelServerError):
    """More bytes than this server takes."""


class Busy(LabelServerError):
    """Try again later."""


class QueueFull(Busy):
    """Too many requests or jobs of this kind are waiting or running."""


class WorkerNotReady(Busy):
    """The app is still loading."""


class SlotsTaken(Busy):
    """As many clients as are allowed hold a lease."""


class Absent(LabelServerError):
    """A part that this server does not have."""


class NotThereYet(Absent):
    """Planned, and not built."""


class UploadsOff(Absent):
    """This server takes no uploads for one-off inference (the peer's sessions)."""


class AppFailed(LabelServerError):
    """The user's app raised, hung or died."""


class AppLoadFailed(AppFailed):
    """The app folder could not be loaded."""


class TaskFailed(AppFailed):
    """An infer task, trainer, strategy or scoring method raised."""


class WorkerDied(AppFailed):
    """The worker process ended while it held this request."""


class TookTooLong(AppFailed):
    """The answer was not there when the client would have given up; the work was ended."""


class StorageFailed(LabelServerError):
    """The disk, or what lies on it."""


class StoredDataInvalid(StorageFailed):
    """A file of ours that cannot be understood."""


class DiskFull(StorageFailed):
    """No space left."""


class DeviceMemoryFull(StorageFailed):
    """The device ran out of memory for this request."""
