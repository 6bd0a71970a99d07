"""The local folder."""

from labelserver.datastore.local import LocalDatastore

__all__ = ["LocalDatastore"]
