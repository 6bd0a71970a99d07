"""A process that saves labels into a studies folder, started by tests: ``python -m tests.support.saving_process``.

Arguments: studies, number of saves, first value, image ids. Each save is printed as ``<image> <number> <value>`` once
it was accepted, so that a test knows what was promised when it kills the process.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from labelserver.datastore.local import LocalDatastore
from labelserver.domain.ids import FINAL, ImageId
from labelserver.domain.labels import Provenance
from tests.support.study_folder import marked


def main(studies: str, count: str, first: str, *image_ids: str) -> None:
    store = LocalDatastore(studies)
    print("ready", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(int(count)):
            value = int(first) + number
            file = marked(Path(folder) / "l.nii.gz", value)
            image_id = ImageId(image_ids[number % len(image_ids)])
            revision = store.accept_label(image_id, file, ".nii.gz", FINAL, Provenance(), {"value": value})
            print(image_id, revision.number, value, flush=True)
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
