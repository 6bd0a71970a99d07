"""What the lead worker says about the app it loaded; kept on disk so that the next start can list models at once."""

from __future__ import annotations

from dataclasses import dataclass, field

from labelserver.domain.json_types import JsonObject


@dataclass(frozen=True, slots=True)
class AppDescription:
    """The app as the server knows it.

    `info` is the peer's ``/info/`` document without ``datastore`` and ``train_stats`` (those are live).
    `code_hash` covers main.py, lib/, the configuration and this package's version: another hash, another description.
    """

    info: JsonObject
    code_hash: str
    overridden_hooks: frozenset[str] = frozenset()  #: of next_sample, infer, on_save_label, on_init_complete, ...
    ready_made_strategies: dict[str, str] = field(default_factory=dict)  #: registered name -> class name known here
    local_store: JsonObject | None = field(default_factory=dict)  #: its LocalDatastore's arguments; None: other
    trainer_models: dict[str, str] = field(default_factory=dict)  #: trainer -> model lineage it publishes into

    def to_json(self) -> JsonObject:
        return {
            "info": self.info,
            "code_hash": self.code_hash,
            "overridden_hooks": sorted(self.overridden_hooks),
            "ready_made_strategies": dict(self.ready_made_strategies),
            "local_store": self.local_store,
            "trainer_models": dict(self.trainer_models),
        }

    @classmethod
    def from_json(cls, document: JsonObject) -> AppDescription:
        def table(key: str) -> JsonObject:
            value = document.get(key)
            return value if isinstance(value, dict) else {}

        hooks = document.get("overridden_hooks")
        store = document.get("local_store")
        return cls(
            info=table("info"),
            code_hash=str(document.get("code_hash", "")),
            overridden_hooks=frozenset(str(h) for h in hooks) if isinstance(hooks, list) else frozenset(),
            ready_made_strategies={k: str(v) for k, v in table("ready_made_strategies").items()},
            local_store=store if isinstance(store, dict) else None,
            trainer_models={k: str(v) for k, v in table("trainer_models").items()},
        )
