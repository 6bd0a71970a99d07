"""A Python client for programs and notebooks; it needs httpx alone, no torch."""

from labelserver.client.answers import InferResult, ModelInfo, Sample, ServerInfo, Task, Upload
from labelserver.client.client import DEFAULT_URL, LabelServerClient
from labelserver.client.errors import (
    AnswerUnclear,
    ClientError,
    JobFailed,
    NotAllowedHere,
    NotBuilt,
    NothingThere,
    Refused,
    RequestFailed,
    ServerBusy,
    ServerFailed,
    ServerUnreachable,
)

__all__ = [
    "DEFAULT_URL",
    "AnswerUnclear",
    "ClientError",
    "InferResult",
    "JobFailed",
    "LabelServerClient",
    "ModelInfo",
    "NotAllowedHere",
    "NotBuilt",
    "NothingThere",
    "Refused",
    "RequestFailed",
    "Sample",
    "ServerBusy",
    "ServerFailed",
    "ServerInfo",
    "ServerUnreachable",
    "Task",
    "Upload",
]
