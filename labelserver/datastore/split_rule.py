"""``split.json``: the key and the share by which a project's images get their sides, written once."""

from __future__ import annotations

import json
import re
from pathlib import Path

from labelserver.datastore.layout import SPLIT_FILE
from labelserver.datastore.plain_json import load_object
from labelserver.domain.errors import InvalidSetting
from labelserver.domain.json_types import JsonObject
from labelserver.domain.splits import SplitRule
from labelserver.storage import atomic

FORMAT = 1


def rule_as_text(rule: SplitRule) -> str:
    """What the file says."""
    document: JsonObject = {
        "format": FORMAT,
        "key": rule.key.hex(),
        "share": rule.share,
        "patient_pattern": rule.patient_pattern,
    }
    return json.dumps(document)


def rule_from_text(text: str) -> SplitRule:
    """The inverse. Raises `InvalidSetting` for a broken pattern; else what damaged text makes of itself."""
    document = load_object(text)
    pattern = str(document.get("patient_pattern", ""))
    try:
        re.compile(pattern)
    except re.error as error:
        raise InvalidSetting(f"LABELSERVER_PATIENT_PATTERN is no regular expression: {error}.") from error
    return SplitRule(bytes.fromhex(str(document["key"])), float(str(document["share"])), pattern)


def fix_rule(state: Path, rule: SplitRule) -> None:
    """Give a project that nobody has opened yet its rule, which else is made by chance; `state`: its state folder."""
    atomic.write_bytes(state / SPLIT_FILE, rule_as_text(rule).encode())
