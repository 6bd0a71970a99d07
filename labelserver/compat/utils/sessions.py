"""Uploads for one-off inference, by the names of MONAI Label's sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labelserver.datastore.uploads import Upload, UploadStore

SessionInfo = Upload

#: bytes; no limit of its own, as in the peer
_NO_LIMIT = 2**62


class Sessions:
    """A folder of uploads."""

    def __init__(self, store_path: str = "", expiry: int = 3600) -> None:
        home = Path(store_path or Path.home() / ".cache" / "labelserver" / "uploads")
        self._uploads = UploadStore(home, expiry, _NO_LIMIT)

    def add_session(self, data_file: str, expiry: int = 0, uncompress: bool = False) -> tuple[str, dict[str, Any]]:
        """Move a file in. Returns its id and document."""
        file = Path(data_file)
        upload = self._uploads.add([(file, file.name)], expiry_s=expiry, uncompress=uncompress)
        return upload.upload_id, dict(upload.to_json())

    def get_session(self, session_id: str, update_ts: bool = True) -> Upload:
        """The upload of this id. Raises `UploadNotFound`."""
        return self._uploads.get(session_id, use=update_ts)

    def remove_session(self, session_id: str) -> None:
        """Remove the upload and its files."""
        self._uploads.remove(session_id)

    def remove_expired(self) -> None:
        """Remove uploads that nobody used for long."""
        self._uploads.remove_expired()
