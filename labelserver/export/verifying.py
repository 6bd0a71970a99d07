"""Run each format of an export in a process of its own and compare with the server's own answer.

Under the settings of the export, on a machine of the same kind, label maps must be identical. Otherwise (another
processor or library, or MONAI's transforms in place of the server's) a voxel may differ where its two best scores lie
within 1e-4 of each other, and at most one voxel in 100 000 may. Scores of the network must lie within 1e-4.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from labelserver.domain.errors import StoredDataInvalid, TaskFailed
from labelserver.export import standalone
from labelserver.export.contents import ExportContents, RunSettings
from labelserver.export.exporting import TORCHSCRIPT
from labelserver.export.selftest import LOGITS, label_map

#: scores; within it two of them count as equal
SCORE_TOLERANCE = 1e-4
#: share of voxels that may differ
MOST_DIFFERING = 1e-5
#: seconds for one format; it answers a single small case
TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """One comparison. `differing` of `voxels` have another label, of these `ties` lie between two equal scores."""

    what: str
    passed: bool
    sentence: str
    voxels: int = 0
    differing: int = 0
    ties: int = 0
    largest_score_difference: float = 0.0


def verify(output: Path, tell: Callable[[str], None] = lambda line: None) -> list[Verdict]:
    """Verify everything that was exported into `output`.

    Raises:
        StoredDataInvalid: the export is not whole.
        TaskFailed: a format does not run at all; says what it printed.
    """
    folder = output.absolute() / TORCHSCRIPT
    contents = ExportContents.read(folder)
    settings = RunSettings.read(contents.selftest_settings)
    found: list[Verdict] = []
    with tempfile.TemporaryDirectory() as work:
        answer = _alone(contents, settings, Path(work) / "answer.npz")
        for run in (_torchscript, _bundles, _applications):
            for verdict in run(output.absolute(), contents, settings, answer):
                tell(verdict.sentence)
                found.append(verdict)
    return found


def same_machine(settings: RunSettings) -> bool:
    """Whether numbers must be the same to the last bit here: processor, instruction set and library versions."""
    here = {"torch": torch.__version__, "monai": monai.__version__, "numpy": np.__version__}
    known = all(settings.versions.get(name) == text for name, text in here.items())
    cpu = torch.backends.cpu.get_cpu_capability()
    return known and settings.cpu_capability == cpu and settings.processor.startswith(f"{platform.machine()},")


_Arrays = dict[str, NDArray[Any]]  #: what `standalone` writes


def _torchscript(output: Path, contents: ExportContents, settings: RunSettings, answer: _Arrays) -> Iterator[Verdict]:
    yield _labels("torchscript", contents, answer["labels"], answer, strict=same_machine(settings))
    yield from _scores(contents, answer)
    if contents.scripts is not None and not contents.needs_scripts:
        with tempfile.TemporaryDirectory() as work:
            other = _alone(contents, settings, Path(work) / "other.npz", "--without-scripts")
        yield _labels("torchscript with MONAI's transforms alone", contents, other["labels"], answer, strict=False)


def _alone(contents: ExportContents, settings: RunSettings, target: Path, *options: str) -> _Arrays:
    words = [sys.executable, standalone.__file__, str(contents.folder), str(contents.selftest_input), str(target)]
    _run([*words, *options], target.parent, settings, "torchscript")
    with np.load(target) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _bundles(output: Path, contents: ExportContents, settings: RunSettings, answer: _Arrays) -> Iterator[Verdict]:
    for bundle in sorted(path for path in (output / "bundle").glob("*") if (path / "configs").is_dir()):
        with tempfile.TemporaryDirectory() as work:
            words = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
            words += ["--bundle_root", str(bundle), "--output_dir", work]
            _run(words, bundle, settings, "bundle")
            files = sorted(path for path in Path(work).iterdir() if path.name.startswith("input"))
            if not files:
                raise TaskFailed("The bundle ran and wrote no answer.")
            yield _labels("bundle", contents, label_map(files[0]), answer, strict=same_machine(settings))


#: runs a package's folder as `labelserver map run` does
_PACKAGE = "import sys, pathlib as p; from labelserver.export.map.running import run_folder; "
_PACKAGE += "sys.exit(run_folder(*map(p.Path, sys.argv[1:4]), sys.argv[4:]))"


def _applications(output: Path, contents: ExportContents, settings: RunSettings, answer: _Arrays) -> Iterator[Verdict]:
    """The application, and the package around it, each with its own way in."""
    starts = {"app": [str(output / "app")], "map": ["-c", _PACKAGE, str(output / "map")]}
    for name, start in starts.items():
        if not (output / name).is_dir():
            continue
        with tempfile.TemporaryDirectory() as work:
            words = [sys.executable, *start, str(contents.selftest_input), work]
            _run([*words, "--device", "cpu", "--threads", str(settings.threads)], output, settings, name)
            found = label_map(Path(work) / "labels.nii.gz")
        yield _labels(name, contents, found, answer, strict=same_machine(settings))


def _run(words: Sequence[str], folder: Path, settings: RunSettings, what: str) -> None:
    """Raises `TaskFailed`."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(settings.threads),
        "MKL_NUM_THREADS": str(settings.threads),
        "PYTHONDONTWRITEBYTECODE": "1",
        "CUDA_VISIBLE_DEVICES": "",  # the answer that it is compared with was made on the processor
    }
    try:
        done = subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise TaskFailed(f"The {what} did not answer its self-test within {TIMEOUT_S:.0f} s.") from error
    if done.returncode != 0:
        last = [line for line in done.stderr.strip().splitlines() if line.strip()][-3:]
        raise TaskFailed(f"The {what} ended with status {done.returncode}: {' / '.join(last)}")


def _labels(what: str, contents: ExportContents, found: NDArray[Any], answer: _Arrays, *, strict: bool) -> Verdict:
    """Compare label maps."""
    expected = label_map(contents.selftest_expected)
    found = found.reshape(expected.shape) if found.size == expected.size else found
    if found.shape != expected.shape:
        sentence = f"{what}: FAILED, the answer has shape {found.shape} instead of {expected.shape}."
        return Verdict(what, False, sentence, expected.size)
    return compared(what, expected, found, _gaps(contents, answer, np.argwhere(found != expected)), strict=strict)


def compared(
    what: str, expected: NDArray[Any], found: NDArray[Any], gaps: NDArray[np.float64], *, strict: bool
) -> Verdict:
    """The verdict on two label maps of one shape.

    Args:
        what: for people.
        expected: the server's.
        found: the export's.
        gaps: (n,) of the differing voxels: between the two best scores; NaN where not known.
        strict: no voxel may differ.
    """
    differing = int(np.count_nonzero(found != expected))
    ties = int(np.count_nonzero(gaps <= SCORE_TOLERANCE))
    voxels = int(expected.size)
    if not differing:
        return Verdict(what, True, f"{what}: identical in all {voxels} voxels.", voxels)
    passed = not strict and ties == differing and differing <= voxels * MOST_DIFFERING
    told = f"{differing} of {voxels} voxels differ, {ties} of them where the two best scores lie within 1e-4"
    return Verdict(what, passed, f"{what}: {'' if passed else 'FAILED, '}{told}.", voxels, differing, ties)


def _scores(contents: ExportContents, answer: _Arrays) -> Iterator[Verdict]:
    with np.load(contents.selftest / LOGITS) as arrays:
        expected = arrays["scores"]
    for name in sorted(part for part in answer if part.startswith("logits:")):
        found = answer[name]
        difference = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")
        passed = difference <= SCORE_TOLERANCE
        file = name.partition(":")[2]
        sentence = f"{file}: {'' if passed else 'FAILED, '}scores differ by at most {difference:.3g}."
        yield Verdict(file, passed, sentence, largest_score_difference=difference)


def _gaps(contents: ExportContents, answer: _Arrays, voxels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Between the two best scores at `voxels` (n, axes) of the image, interpolated linearly; NaN where not known."""
    scores, axes = answer["scores"], contents.dimension
    if not len(voxels) or scores.ndim != axes + 1:
        return np.full(len(voxels), np.nan)
    if axes == 3:
        to_grid = np.linalg.solve(answer["grid"].astype(np.float64), answer["affine"].astype(np.float64))
        places = voxels @ to_grid[:3, :3].T + to_grid[:3, 3]
    else:
        shape = label_map(contents.selftest_expected).shape
        places = (voxels + 0.5) * np.asarray(scores.shape[1:]) / np.asarray(shape) - 0.5
    at = [ndimage.map_coordinates(part, places.T, order=1, mode="nearest", output=np.float64) for part in scores]
    best = np.sort(np.stack(at if len(at) > 1 else [at[0], np.zeros_like(at[0])]), axis=0)
    gaps: NDArray[np.float64] = best[-1] - best[-2]
    return gaps


def ensure_passed(verdicts: Sequence[Verdict]) -> None:
    """Raises `StoredDataInvalid` with the sentences of those that failed."""
    failed = [verdict.sentence for verdict in verdicts if not verdict.passed]
    if failed:
        raise StoredDataInvalid("The export does not answer as the server does. " + " ".join(failed))
