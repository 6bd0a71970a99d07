"""The names of bundle training can be imported and subclassed; making such a task says what to do instead."""

from __future__ import annotations

import pytest

from labelserver.domain.errors import NotThereYet
from labelserver.tasks.bundle_train import BundleConstants, BundleTrainTask


def test_a_bundle_trainer_refuses_with_advice() -> None:
    class Mine(BundleTrainTask):
        pass

    with pytest.raises(NotThereYet, match=r"spleen.*subclass BasicTrainTask"):
        Mine("model/spleen", {})


def test_constants_name_the_standard_bundle() -> None:
    const = BundleConstants()
    assert const.configs() == ["train.json", "train.yaml"]
    assert const.key_train_dataset_data() == "train#dataset#data"
    names = [name for name in dir(const) if not name.startswith("_")]
    assert all(isinstance(getattr(const, name)(), str | list) for name in names)
