"""The rule by which an export counts as equal: strict on the same machine, ties and a small share elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from labelserver.domain.errors import StoredDataInvalid
from labelserver.domain.exports import ExportFormat
from labelserver.export.exporting import export_version
from labelserver.export.preparing import ExportSource
from labelserver.export.recording import recorded
from labelserver.export.selftest import write_settings
from labelserver.export.verifying import compared, ensure_passed, same_machine, verify
from labelserver.imaging.volumes import read_volume, write_volume
from tests.unit.export.test_preparing import KINDS, segmentation

SHAPE = (100, 100, 100)


def with_changes(count: int) -> tuple[np.ndarray, np.ndarray]:
    expected = np.ones(SHAPE, np.uint8)
    found = expected.copy()
    found.reshape(-1)[:count] = 2
    return expected, found


@pytest.mark.parametrize(
    ("count", "gap", "strict", "passes"),
    [
        (0, 0.0, True, True),
        (1, 0.0, True, False),  # the same machine: not even a tie
        (10, 5e-5, False, True),  # 1 in 100 000, all ties
        (11, 5e-5, False, False),  # one more
        (1, 2e-4, False, False),  # no tie
        (1, float("nan"), False, False),  # not known to be one
    ],
)
def test_what_may_differ(count: int, gap: float, strict: bool, passes: bool) -> None:
    expected, found = with_changes(count)
    verdict = compared("bundle", expected, found, np.full(count, gap), strict=strict)
    assert verdict.passed is passes
    assert verdict.differing == count
    if count:
        assert f"{count} of 1000000 voxels differ" in verdict.sentence
    assert ("FAILED" in verdict.sentence) is not passes


def test_another_processor_or_library_is_another_machine(tmp_path: Path) -> None:
    from labelserver.export.inference_config import TaskConfig

    (tmp_path / "selftest").mkdir()
    settings = write_settings(tmp_path, TaskConfig({}, None, {}), torch.nn.Conv3d(1, 1, 1))
    assert same_machine(settings)
    assert not same_machine(replace(settings, cpu_capability="NO SUCH"))
    assert not same_machine(replace(settings, versions={**settings.versions, "torch": "1.0"}))


@pytest.mark.slow
def test_a_changed_answer_and_changed_weights_are_found(tmp_path: Path) -> None:
    """The whole check in processes of its own: passes as exported, fails once something is not as it was."""
    with recorded() as recording:
        task = segmentation(tmp_path)
    source = ExportSource(tmp_path, "Test app", "model", task, recording)
    written = export_version(source, (ExportFormat.TORCHSCRIPT,), tmp_path / "out")
    verdicts = verify(written.folder)
    ensure_passed(verdicts)
    assert [v.what for v in verdicts] == [
        "torchscript",
        "model.onnx",
        "model.pt2",
        "model.ts",
        "torchscript with MONAI's transforms alone",
    ]
    assert verdicts[0].differing == 0
    assert verdicts[0].voxels > 10_000
    assert max(v.largest_score_difference for v in verdicts) < 1e-4
    expected = written.contents.selftest_expected
    volume = read_volume(expected)
    changed = volume.voxels.copy()
    changed[3, 4, 5] += 1
    write_volume(expected, changed, volume.grid.affine, compress=True)
    with pytest.raises(StoredDataInvalid, match=r"1 of [0-9]+ voxels differ"):
        ensure_passed(verify(written.folder))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["peer", "picture"])
def test_bundles_of_other_kinds_answer_alike_in_a_process_of_their_own(kind: str, tmp_path: Path) -> None:
    with recorded() as recording:
        task = KINDS[kind](tmp_path)
    source = ExportSource(tmp_path, "Test app", "model", task, recording)
    written = export_version(source, (ExportFormat.BUNDLE,), tmp_path / "out")
    verdicts = {verdict.what: verdict for verdict in verify(written.folder)}
    ensure_passed(list(verdicts.values()))
    assert verdicts["bundle"].differing == verdicts["torchscript"].differing == 0
