"""What a store offers on which several people work at once. `LocalDatastore` does.

Ready-made strategies choose inside the transaction that leases; those of an app run elsewhere and are checked after.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from labelserver.contracts.datastore import Datastore
from labelserver.domain.json_types import JsonObject


@runtime_checkable
class OfferingStore(Protocol):
    """Images that others have can be hidden."""

    def offered_to(self, person: str) -> Datastore:
        """The same store, in which images that are leased to others, flagged or done do not exist."""

    def asked_part(self, image_id: str, person: str) -> JsonObject | None:
        """The region of the image that this person was asked for; None: all of it, or nobody asked him."""
