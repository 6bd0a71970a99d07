"""A Python client for programs and notebooks; it needs httpx alone, no torch."""

from labelserver.client.answers import InferResult, ModelInfo, Sample, ServerInfo, Upload
from labelserver.client.calling import DEFAULT_URL
from labelserver.client.client import LabelServerClient
from labelserver.client.errors import (
    AnswerUnclear,
    ClientError,
    Conflict,
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
from labelserver.client.history import NO_LABEL, FetchedLabel
from labelserver.domain.jobs import JobKind, JobState
from labelserver.wire.jobs import Job
from labelserver.wire.models import Model, Version, VersionComparison
from labelserver.wire.proof import BenefitList, CurveShown, PieceShown
from labelserver.wire.queue import GivenImage, NoImage, WorkRules
from labelserver.wire.review import Decision

__all__ = [
    "DEFAULT_URL",
    "NO_LABEL",
    "AnswerUnclear",
    "BenefitList",
    "ClientError",
    "Conflict",
    "CurveShown",
    "Decision",
    "FetchedLabel",
    "GivenImage",
    "InferResult",
    "Job",
    "JobFailed",
    "JobKind",
    "JobState",
    "LabelServerClient",
    "Model",
    "ModelInfo",
    "NoImage",
    "NotAllowedHere",
    "NotBuilt",
    "NothingThere",
    "PieceShown",
    "Refused",
    "RequestFailed",
    "Sample",
    "ServerBusy",
    "ServerFailed",
    "ServerInfo",
    "ServerUnreachable",
    "Upload",
    "Version",
    "VersionComparison",
    "WorkRules",
]
