"""Datastore and its tags."""

from labelserver.contracts.datastore import Datastore, DefaultLabelTag

__all__ = ["Datastore", "DefaultLabelTag"]
