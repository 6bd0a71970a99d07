"""What happens to labels and images becomes events, whoever did it: this server, a worker, a command, another program.

The store's audit log is the source, so nothing that it tells of is missed, also from before this server's start. Images
whose files simply appear or vanish are not in that log; of them the number is told.
"""

from __future__ import annotations

from labelserver.datastore.audit import Entry
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.json_types import JsonObject
from labelserver.engine.event_hub import EventHub, Wanted

#: Action in the audit log -> kind of the event.
KINDS = {
    "save": "label.saved",
    "return": "label.restored",
    "withdraw": "label.removed",
    "add_image": "image.added",
    "remove_image": "image.removed",
    "restore_image": "image.restored",
    "erase": "image.erased",
    "schema": "schema.changed",
    "workflow": "rules.changed",
    "review": "label.reviewed",
    "flag": "image.flagged",
    "unflag": "image.unflagged",
    "skip": "image.skipped",
    "model_publish": "version.published",
    "model_roll_back": "version.published",
    "model_reject": "version.rejected",
    "model_pin": "version.pinned",
    "model_unpin": "version.unpinned",
    "model_delete": "version.deleted",
}
#: Events that name images or persons: forgotten when somebody's images are erased.
PERSONAL = Wanted(kinds=("label", "image", "job"))
#: entries told of at most, if a very long time has passed.
MAX_ENTRIES = 2000


class StoreNews:
    """Publishes what is new in the store in use. `look` may block; one thread at a time."""

    def __init__(self, hub: EventHub) -> None:
        self._hub = hub
        self._told = _told_before(hub)
        self._total: int | None = None

    def look(self, store: LocalDatastore) -> None:
        newest = store.audit_log(1)
        last = newest[-1].number if newest else 0
        if self._told is None or last < self._told:  # the first look ever, or another store
            self._told = last
        for entry in store.audit_log(min(last - self._told, MAX_ENTRIES)) if last > self._told else ():
            self._tell(entry)
        self._told = last
        status = store.status()
        if self._total is not None and status["total"] != self._total:
            self._hub.publish("image.list", {"total": status["total"], "completed": status["completed"]})
        self._total = status["total"]

    def _tell(self, entry: Entry) -> None:
        act = entry.act
        kind = KINDS.get(act.action)
        if kind is None:
            return
        if kind == "image.erased":
            self._hub.forget(PERSONAL)
        data: JsonObject = {"entry": entry.number, "person": act.person}
        if act.image_id:
            data["image"] = act.image_id
        if act.tag:
            data |= {"tag": act.tag, "revision": act.revision}
        for key in ("source", "model", "version", "reason", "verdict"):
            if key in act.detail:
                data[key] = act.detail[key]
        self._hub.publish(kind, data, ts=entry.created_ts)


def _told_before(hub: EventHub) -> int | None:
    """The newest entry that an earlier server told of."""
    numbers = [entry for event in hub.kept() if isinstance(entry := event.data.get("entry"), int)]
    return max(numbers) if numbers else None
