"""A Python client for programs and notebooks; it needs httpx alone, no torch."""

from labelserver.client.answers import InferResult, ModelInfo, Sample, ServerInfo, Upload
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
from labelserver.domain.jobs import JobKind, JobState
from labelserver.wire.jobs import Job
from labelserver.wire.models import Model, Version

__all__ = [
    "DEFAULT_URL",
    "AnswerUnclear",
    "ClientError",
    "InferResult",
    "Job",
    "JobFailed",
    "JobKind",
    "JobState",
    "LabelServerClient",
    "Model",
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
    "Upload",
    "Version",
]
