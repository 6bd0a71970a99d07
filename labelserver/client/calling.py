"""The connection to a server, and how each call is made over it: errors, JSON, files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from labelserver.client.errors import AnswerUnclear, ServerUnreachable, failure_of
from labelserver.client.transfer import OnBytes, save_stream
from labelserver.domain.json_types import JsonObject, JsonValue

DEFAULT_URL = "http://127.0.0.1:8000"

Wire = TypeVar("Wire", bound=BaseModel)


class Caller:
    """What the calls of a client have in common."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        person: str = "",
        timeout_s: float = 630.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.person = person
        headers = {"X-Labelserver-Person": person} if person else {}
        self._http = httpx.Client(
            base_url=self.url, headers=headers, timeout=httpx.Timeout(timeout_s, connect=10), transport=transport
        )
        self._exit = ExitStack()
        self._exit.callback(self._http.close)
        self._downloads: Path | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection and delete files that were downloaded without naming a folder."""
        self._exit.close()

    def __repr__(self) -> str:
        return f"LabelServerClient({self.url!r}, person={self.person!r})"

    def _signed(self, params: JsonObject | None) -> JsonObject:
        return {"client_id": self.person or None, **(params or {})}

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            raise ServerUnreachable(
                f"No answer from {self.url} ({error or type(error).__name__}). Is the server running? "
                "Start it with `labelserver start_server`."
            ) from error

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """`options` are those of httpx; their types are its own."""
        with self._reaching():
            answer = self._http.request(method, path, **options)
        if not answer.is_success:
            raise failure_of(answer)
        return answer

    def _json(self, method: str, path: str, **options: Any) -> JsonValue:
        answer = self._request(method, path, **options)
        try:
            document: JsonValue = answer.json()
        except ValueError as error:
            raise AnswerUnclear(f"{self.url}{path} did not answer JSON. Is this a label server?") from error
        return document

    def _parsed(self, shape: type[Wire], document: JsonValue) -> Wire:
        try:
            return shape.model_validate(document)
        except ValidationError as error:
            raise AnswerUnclear(f"The server's answer is not a {shape.__name__}: is it of another version?") from error

    def _download(
        self, path: str, query: dict[str, str], folder: Path | None, default: str, on_bytes: OnBytes | None
    ) -> Path:
        return self._fetch(path, query, folder, default, on_bytes)[0]

    def _fetch(
        self, path: str, query: dict[str, str], folder: Path | None, default: str, on_bytes: OnBytes | None = None
    ) -> tuple[Path, str]:
        """The file and its ETag."""
        target = folder or self._download_folder()
        with self._reaching(), self._http.stream("GET", path, params=query) as answer:
            saved = save_stream(answer, target, default.rsplit("/", 1)[-1], on_bytes)
            return saved, str(answer.headers.get("etag", ""))

    def _download_folder(self) -> Path:
        """A new folder for each file, so that equal names do not meet."""
        if self._downloads is None:
            self._downloads = Path(self._exit.enter_context(tempfile.TemporaryDirectory(prefix="labelserver-")))
        return Path(tempfile.mkdtemp(dir=self._downloads))
