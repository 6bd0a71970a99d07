"""How long an exported application takes to its first voxel, beside what torch and the weights take anyway."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from labelserver.export.application import write_application
from tests.bench.report import Section
from tests.support.dicom_studies import write_series
from tests.support.exported_model import prepare

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

ROUNDS = 7

#: torch and the weights, as any program must load them
BARE = "import sys, time, torch; torch.jit.load(sys.argv[1], map_location='cpu'); "
BARE += "print(time.monotonic(), time.process_time())"

#: `python app IN OUT`, then when the first window went into the network
APPLICATION = """
import runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0])
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as ended:
    assert not ended.code, ended.code
from runner.predicting import began
print(*began[0])
"""


def measured(code: str, *words: str, plain: bool = False) -> tuple[float, float]:
    """Seconds from the start of the process to the moment it prints, on the clock and of the processor."""
    environment = {
        **os.environ,
        "PYTHONWARNINGS": "ignore",
        **({"LABELSERVER_APP_PLAIN_IMPORTS": "1"} if plain else {}),
    }
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    wall, processor = (float(text) for text in done.stdout.split()[-2:])
    return wall - begun, processor


def test_the_first_voxel_comes_soon_after_torch_and_the_weights(tmp_path: Path) -> None:
    contents = prepare(tmp_path / "model", spacing=True)
    application = write_application(contents, tmp_path / "app")
    voxels = np.random.default_rng(0).integers(-200, 900, (64, 64, 24)).astype(np.int32)
    write_series(tmp_path / "in", voxels, PixelRepresentation=1)
    model = str(contents.torchscript)
    bare, ours, plain = [], [], []
    for number in range(ROUNDS + 1):
        one = measured(BARE, model)
        two = measured(APPLICATION, str(application), str(tmp_path / "in"), str(tmp_path / f"out{number}"))
        if number == 0:
            continue  # files come into the machine's cache, byte code is written
        bare.append(one)
        ours.append(two)
        if number <= 2:
            words = (str(application), str(tmp_path / "in"), str(tmp_path / f"plain{number}"))
            plain.append(measured(APPLICATION, *words, plain=True))
    walls = [two[0] - one[0] for one, two in zip(bare, ours, strict=True)]
    with Section(
        "Start of an exported application",
        "From `python app IN OUT` (24 DICOM slices) to the first voxel of inference: what it takes beyond "
        f"`import torch` and loading the weights, {ROUNDS} starts of each in turn.",
    ) as section:
        detail = f"application {statistics.median(w for w, _ in ours):.2f} s, "
        detail += f"torch and weights {statistics.median(w for w, _ in bare):.2f} s"
        section.at_most("overhead on the clock, median", statistics.median(walls), 0.5, "s", detail)
        processor = statistics.median(p for _, p in ours) - statistics.median(p for _, p in bare)
        section.note("overhead of the processor, median", f"{processor:.2f} s")
        slow = statistics.median(w for w, _ in plain) - statistics.median(w for w, _ in bare)
        section.note("the same with MONAI imported as a whole", f"{slow:.2f} s")
