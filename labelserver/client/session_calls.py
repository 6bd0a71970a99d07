"""Calls that open interactive sessions. What a session does is in `sessions`, which needs numpy and is loaded then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labelserver.client.calling import Caller
from labelserver.domain.json_types import JsonObject
from labelserver.domain.late import LateModule

if TYPE_CHECKING:
    from labelserver.client import sessions
    from labelserver.client.sessions import InteractiveSession
    from labelserver.wire.sessions import PromptModel, SessionDocument
else:
    sessions = LateModule("labelserver.client.sessions")


class SessionCalls(Caller):
    """Interactive sessions of this client's person."""

    def prompt_models(self) -> list[PromptModel]:
        """Models that take prompts, and which."""
        return sessions.prompt_models(self)

    def open_session(
        self, task: str, image_id: str = "", *, upload_id: str = "", params: JsonObject | None = None
    ) -> InteractiveSession:
        """Open an image of the datastore, or an upload, for prompts."""
        return sessions.open_session(self, task, image_id, upload_id, params or {})

    def open_sessions(self, image_id: str = "") -> list[SessionDocument]:
        """Those that are open, the latest used first."""
        return sessions.open_sessions(self, image_id)

    def resume_session(self, session_id: str) -> InteractiveSession:
        """A session that was opened before, with its mask as it is."""
        return sessions.resume_session(self, session_id)
