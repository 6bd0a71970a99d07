"""What 3D Slicer's older nnInteractive extension does with `requests`, for replays of its protocol."""

from __future__ import annotations

import gzip
import io

import numpy as np
import requests

SHAPE = (9, 14, 11)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


class Slicer:
    """What the extension does: multipart forms with a header that is not true, JSON, and masks of bits."""

    def __init__(self, url: str, shape: tuple[int, int, int] = SHAPE) -> None:
        self.url = url.rstrip("/")
        self.shape = shape
        self.http = requests.Session()

    def form(self, path: str, name: str, data: bytes, *, gzipped: bool, **fields: str) -> requests.Response:
        files = {"file": (name, io.BytesIO(data), "application/octet-stream")}
        made = requests.Request("POST", f"{self.url}{path}", files=files, data=fields).prepare()
        if gzipped:
            made.headers["Content-Encoding"] = "gzip"  # the body is not: only the file in it
        return self.http.send(made, timeout=60)

    def upload_image(self, array: np.ndarray | None = None) -> requests.Response:
        sent = np.zeros(self.shape, np.int16) if array is None else array
        return self.form("/upload_image", "volume.npy", npy(sent), gzipped=False)

    def upload_segment(self, mask: np.ndarray) -> requests.Response:
        return self.form("/upload_segment", "volume.npy.gz", gzip.compress(npy(mask)), gzipped=True)

    def draw(self, kind: str, mask: np.ndarray, positive: str = "True") -> requests.Response:
        data = gzip.compress(npy(mask))
        return self.form(f"/add_{kind}_interaction", "volume.npy.gz", data, gzipped=True, positive_click=positive)

    def point(self, kji: tuple[int, int, int], positive: bool = True) -> requests.Response:
        body = {"voxel_coord": list(kji), "positive_click": positive}
        return self.http.post(f"{self.url}/add_point_interaction", json=body, timeout=60)

    def box(self, one: tuple[int, ...], two: tuple[int, ...], positive: bool = True) -> requests.Response:
        body = {"outer_point_one": list(one), "outer_point_two": list(two), "positive_click": positive}
        return self.http.post(f"{self.url}/add_bbox_interaction", json=body, timeout=60)

    def mask(self, answer: requests.Response) -> np.ndarray:
        """As the client reads it: `requests` undoes the gzip, the bits are cut to the volume."""
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/octet-stream", answer.text
        bits = np.unpackbits(np.frombuffer(answer.content, dtype=np.uint8))
        return bits[: int(np.prod(self.shape))].reshape(self.shape)
