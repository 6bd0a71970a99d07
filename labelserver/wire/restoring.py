"""What the new routes answer about images that come back."""

from __future__ import annotations

from pydantic import BaseModel


class RestoredImage(BaseModel):
    """An image that was removed and is back, with the tags of the labels that it has again."""

    image: str
    tags: list[str]
