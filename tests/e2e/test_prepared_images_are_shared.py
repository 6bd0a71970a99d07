"""Server, workers and jobs prepare an image once among them, also when they come at the same moment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from labelserver.imaging.volumes import write_volume
from tests.support.live_server import LiveServer, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

APP = Path(__file__).parents[1] / "apps" / "scoring_app"
IMAGES = 6

#: In every process that loads the app: small images are worth keeping, young files too; who decodes is written down.
COUNTED = """
from labelserver.tasks import case_cache, kept_heads
from labelserver.tasks.transforms import LoadVolumed

kept_heads.is_worth_reading = lambda made_s, size_bytes: True
kept_heads._SETTLED_S = case_cache._SETTLED_S = -1.0
_load = LoadVolumed.__call__


def _counted(self, data):
    with (Path(__file__).parent / "decoded").open("a") as stream:
        stream.write(Path(data["image"]).name + "\\n")
    return _load(self, data)


LoadVolumed.__call__ = _counted
"""

#: A process of its own that asks for every image in turn and says what it got.
ASKING = """
import hashlib, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import main
import numpy as np
from labelserver.tasks import kept_heads
app = main.App(sys.argv[1], sys.argv[2], {})
(Path(sys.argv[3]) / str(os.getpid())).touch()
while len(list(Path(sys.argv[3]).iterdir())) < 2:
    pass
for image in sorted(app.datastore().list_images()):
    answer = app.infer({"model": "seg", "image": image, "result_write_to_file": False})
    print(image, hashlib.sha256(np.ascontiguousarray(answer["array"]).tobytes()).hexdigest())
kept_heads.settle()
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    shutil.copytree(APP, folder, ignore=shutil.ignore_patterns("__pycache__"))
    main = folder / "main.py"
    main.write_text(main.read_text() + COUNTED)
    studies = tmp_path / "studies"
    studies.mkdir()
    for number in range(IMAGES):
        voxels = np.random.default_rng(number).integers(0, 255, (20, 18, 16)).astype(np.int16)
        write_volume(studies / f"i{number}.nii.gz", voxels, np.diag([-1.5, -1.5, 2.0, 1.0]), compress=True)
    return folder


def decoded(app: Path) -> Counter[str]:
    notes = app / "decoded"
    return Counter(notes.read_text().split() if notes.exists() else [])


def entries(app: Path) -> list[Path]:
    return list((app.parent / "studies" / ".labelserver" / "cache" / "cases").glob("*/*.safetensors"))


def test_scoring_takes_what_inference_made_and_inference_what_scoring_made(app: Path) -> None:
    with LiveServer(app, app.parent / "studies", LABELSERVER_AUTO_UPDATE_SCORING="false") as server:
        for number in range(3):
            assert server.http.post(f"/infer/seg?image=i{number}&output=image").status_code == 200
        wait_until("three images on the disk", lambda: len(entries(app)) == 3)
        assert decoded(app) == Counter({f"i{number}.nii.gz": 1 for number in range(3)})
        assert server.http.post("/scoring/looks?run_sync=true").status_code == 200
        everyone = Counter({f"i{number}.nii.gz": 1 for number in range(IMAGES)})
        assert decoded(app) == everyone, "the job decoded what nobody had asked for, and nothing else"
        server.stop()
        server.start()
        for number in range(IMAGES):
            assert server.http.post(f"/infer/seg?image=i{number}&output=image").status_code == 200
        assert decoded(app) == everyone, "a new worker finds what the job before it made"


def test_two_processes_at_once_answer_the_same_and_no_reader_sees_half_a_file(app: Path) -> None:
    together = app.parent / "together"
    together.mkdir()
    command = [sys.executable, "-c", ASKING, str(app), str(app.parent / "studies"), str(together)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, env=env, text=True) for _ in range(2)]
    whole: set[Path] = set()

    def ended() -> bool:
        for file in entries(app):
            if file.name.startswith(".tmp-") or file in whole:
                continue
            with safe_open(str(file), framework="np") as stored:
                assert all(stored.get_tensor(name) is not None for name in stored.keys())  # noqa: SIM118
            whole.add(file)
        return all(process.poll() is not None for process in both)

    wait_until("the end of both", ended, 200)
    answers = [process.communicate()[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert answers[0] == answers[1]
    assert len(answers[0]) == 2 * IMAGES
    before = decoded(app)
    assert max(before.values()) <= 2
    (together / "third").touch()
    third = subprocess.run(command, stdout=subprocess.PIPE, env=env, text=True, check=True)
    assert third.stdout.split() == answers[0]
    assert decoded(app) == before, "what the two made serves the third"
