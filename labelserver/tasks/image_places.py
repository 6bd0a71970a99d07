"""Which image of a store a call works on, so that what is made of it can lie where the store keeps such things.

Tasks get a path; whoever looked the path up says with `kept_as` what image it is. Without that nothing is kept on disk:
what is made of an image has to go when the image is erased, so it needs to lie in that image's folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from labelserver.contracts.datastore import Datastore
from labelserver.contracts.splits import CacheStore


@dataclass(frozen=True, slots=True)
class ImagePlace:
    """The image at work."""

    image_id: str
    home: str  #: the store's ``cache/``
    in_a_hurry: bool  #: somebody waits for an answer


_place: ContextVar[ImagePlace | None] = ContextVar("image_place", default=None)


@contextmanager
def kept_as(image_id: str, home: str, *, in_a_hurry: bool = True) -> Iterator[None]:
    """Say that inside the block the image is `image_id` of the store whose cache lies in `home`; "": of none."""
    token = _place.set(ImagePlace(image_id, home, in_a_hurry) if image_id and home else None)
    try:
        yield
    finally:
        _place.reset(token)


def current_place() -> ImagePlace | None:
    """Of the image at work in this call."""
    return _place.get()


def cache_home_of(datastore: Datastore) -> str:
    """Where the store lets things lie that can be made again; "": nowhere."""
    return datastore.cache_home() if isinstance(datastore, CacheStore) else ""
