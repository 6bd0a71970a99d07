"""An annotator, started by tests: ``python -m tests.support.annotating_process URL PERSON LABEL PROTOCOL``.

Takes the next image, submits the label, and so on until nothing is left. Prints ``got <image>`` and ``done <image>``,
so that a test knows what was promised when it kills the process. PROTOCOL is ``queue`` or ``old`` (a client that knows
no leases).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import httpx

#: seconds before an annotator asks again who was told that others have what is left
_PAUSE_S = 0.2


def main(url: str, person: str, label: str, protocol: str) -> None:
    data = Path(label).read_bytes()
    with httpx.Client(base_url=url, timeout=120, headers={"X-Labelserver-Person": person}) as http:
        while True:
            image = _next(http, person, protocol)
            if not image:
                return
            print("got", image, flush=True)
            answer = http.put(
                "/datastore/label",
                params={"image": image, "tag": "final", "client_id": person},
                files={"label": ("label.nii.gz", data)},
            )
            answer.raise_for_status()
            print("done", image, flush=True)


def _next(http: httpx.Client, person: str, protocol: str) -> str:
    while True:
        if protocol == "old":
            answer = http.post("/activelearning/random", json={"client_id": person})
            answer.raise_for_status()
            if answer.json():
                return str(answer.json()["id"])
        answer = http.post("/api/v1/queue/next", json={"strategy": "random"})
        answer.raise_for_status()
        given = answer.json()
        if given["status"] == "image":
            return str(given["image"]["id"])
        if given["status"] != "all_leased":
            return ""
        time.sleep(_PAUSE_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
