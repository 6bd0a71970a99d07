"""Whatever an app returns travels as JSON, or is refused with advice."""

import datetime
import json
from enum import Enum
from pathlib import Path

import numpy as np
import pytest

from labelserver.domain.errors import TaskFailed
from labelserver.worker.plain import MAX_ARRAY_VALUES, plain, plain_object


class Organ(Enum):
    LIVER = "liver"


class Tensor:
    """As much of a tensor as is asked for."""

    def __init__(self, values):
        self._values = np.asarray(values)

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return self._values


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (np.bool_(True), True),
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        (np.float64("nan"), None),
        (float("inf"), None),
        (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        (np.array(3.0), 3.0),
        (np.array([1.0, np.nan]), [1.0, None]),
        (Tensor([[1, 2]]), [[1, 2]]),
        ((1, {2}), [1, [2]]),
        ({1: np.int8(2), Organ.LIVER: Path("a/b")}, {"1": 2, "liver": "a/b"}),
        (b"text", "text"),
        (datetime.date(2025, 1, 2), "2025-01-02"),
        (Organ.LIVER, "liver"),
    ],
)
def test_values_become_plain(value, expected):
    found = plain(value)
    assert found == expected
    assert type(found) is type(expected)
    json.dumps(found, allow_nan=False)


def test_a_mask_is_not_sent_as_a_list():
    with pytest.raises(TaskFailed, match="write it to a file"):
        plain_object({"pred": np.zeros(MAX_ARRAY_VALUES + 1, np.uint8)})
