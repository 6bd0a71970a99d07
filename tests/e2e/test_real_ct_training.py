"""The whole loop on a real CT: submit, train, publish, infer; the same model on another patient's DICOM series.

Then half of that patient's slices are labeled, and the next training shows what this brought on the other half.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.real_ct import learn_from_two_patients

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_train_on_a_real_ct_publish_and_infer(
    tmp_path: Path, real_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = learn_from_two_patients(tmp_path, real_data)
    with capsys.disabled():
        print(f"\nDice on the CT that was trained on: {outcome.trained_on} ({outcome.seconds:.0f} s of training)")
        print(f"Dice on another patient, never seen, in another contrast phase: {outcome.other_patient}")
        print(f"  on the half that stays without label, before: {outcome.unseen_before}")
        print(f"  there, after half of the slices were labeled:  {outcome.unseen_after}")
    assert min(outcome.trained_on[organ] for organ in ("liver", "spleen", "kidneys")) >= 0.85, outcome
    assert outcome.unseen_after["liver"] > outcome.unseen_before["liver"], outcome
