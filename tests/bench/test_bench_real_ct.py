"""Liver, spleen, kidneys and stomach learned from one real CT; another patient in another contrast phase is measured.

The first training sees one CT (MONAI's patches and augmentation, 3 mm); its network then meets a DICOM series of
somebody else. Half of the slices of that series are accepted as a label of a part, and a second training of 10 epochs
follows; the other half stays without label and is what is measured before and after. Dice, one run.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.report import Section
from tests.support.real_ct import learn_from_two_patients

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]


def test_what_a_partial_label_brings_on_another_patient(tmp_path: Path, real_data: Path) -> None:
    outcome = learn_from_two_patients(tmp_path, real_data)
    with Section("Real data: from one patient to another", __doc__.split("\n\n")[1]) as section:
        section.at_most("the first training", outcome.seconds, 600, "s", detail="from the request to DONE")
        for organ in ("liver", "spleen", "kidneys"):
            section.at_least(f"{organ}, on the CT that was trained on", outcome.trained_on[organ], 0.85, "Dice")
        section.note("stomach, on the CT that was trained on", f"{outcome.trained_on['stomach']:.3g} Dice")
        for organ, value in outcome.other_patient.items():
            section.note(f"{organ}, on another patient never seen", f"{value:.3g} Dice")
        for organ, before in outcome.unseen_before.items():
            after = outcome.unseen_after[organ]
            what, detail = f"{organ}, on the half that stays without label", f"{before:.3g} before, {after:.3g} after"
            if organ == "liver":
                section.at_least(f"{what}: gained", after - before, 0.0, "Dice", detail=detail)
            else:
                section.note(f"{what}: gained", f"{after - before:.3g} Dice", detail)
        section.note("the second training", f"{outcome.seconds_again:.3g} s", "from the request to DONE")
