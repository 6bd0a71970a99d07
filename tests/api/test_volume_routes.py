"""``/api/v1/images/<id>/volume`` over HTTP: header, slabs, what may be cached, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from tests.api.conftest import SHAPE, World, nifti

URL = "/api/v1/images/ct_1/volume"
RAMP = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


def test_the_header_says_all_that_a_viewer_needs(world: World) -> None:
    answer = world.http.get(URL)
    told = answer.json()
    assert (told["kind"], told["dims"], told["dtype"], told["components"], told["frames"]) == (
        "volume",
        list(SHAPE),
        "int16",
        1,
        1,
    )
    assert told["spacing_mm"] == [1.0, 1.5, 2.0]
    assert np.array(told["affine"]).shape == (4, 4)
    assert (told["range"], told["slope"], told["intercept"], told["orientation"]) == ([0.0, 119.0], 1.0, 0.0, "RAS")
    assert told["windows"][0]["name"] == "auto"
    assert told["bytes"] == 2 * RAMP.size
    again = world.http.get(URL, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_slabs_are_the_voxels_x_fastest(world: World) -> None:
    content = world.http.get(URL).json()["content"]
    parts = [world.http.get(f"{URL}/slab?z0={z}&z1={z + 2}&content={content}").content for z in (0, 2)]
    voxels = np.frombuffer(b"".join(parts), "<i2").reshape(SHAPE, order="F")
    np.testing.assert_array_equal(voxels, RAMP)


def test_an_addressed_slab_may_be_kept_for_ever(world: World) -> None:
    content = world.http.get(URL).json()["content"]
    addressed = world.http.get(f"{URL}/slab?z0=0&z1=2&content={content}")
    assert "immutable" in addressed.headers["cache-control"]
    assert not addressed.headers["etag"].startswith("W/")
    assert "no-cache" in world.http.get(f"{URL}/slab?z0=0&z1=2").headers["cache-control"]
    again = world.http.get(f"{URL}/slab?z0=0&z1=2", headers={"If-None-Match": addressed.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    nifti(world.roots.studies / "ct_1.nii.gz", RAMP + 1)
    stale = world.http.get(f"{URL}/slab?z0=0&z1=2&content={content}")
    assert (stale.status_code, stale.json()["code"]) == (409, "Conflict")
    assert stale.json()["fields"]["content"] == world.http.get(URL).json()["content"]


@pytest.mark.parametrize(
    ("address", "query", "packed"),
    [
        ("127.0.0.1", "", False),
        ("10.1.2.3", "", True),
        ("10.1.2.3", "&encoding=raw", False),
        ("::1", "&encoding=gzip", True),
    ],
)
def test_slabs_are_packed_for_other_machines(make_world: object, address: str, query: str, packed: bool) -> None:
    world: World = make_world(address=address, insecure=True)  # type: ignore[operator]
    answer = world.http.get(f"{URL}/slab?z0=0&z1=4{query}", headers={"Accept-Encoding": "gzip, br"})
    assert ("content-encoding" in answer.headers) is packed
    np.testing.assert_array_equal(np.frombuffer(answer.content, "<i2").reshape(SHAPE, order="F"), RAMP)
    plain = world.http.get(f"{URL}/slab?z0=0&z1=4", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{URL}/slab?z0=0&z1=5", 422),
        (f"{URL}/slab?z0=3&z1=3", 422),
        (f"{URL}/slab?z0=-1&z1=3", 422),
        (f"{URL}/slab", 422),
        (f"{URL}?frame=1", 422),
        (f"{URL}/slab?z0=0&z1=1&encoding=br", 422),
        ("/api/v1/images/none/volume", 404),
        ("/api/v1/images/none/volume/slab?z0=0&z1=1", 404),
        ("/api/v1/images/../volume", 422),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_sentence(world: World, path: str, status: int) -> None:
    answer = world.http.get(path)
    assert answer.status_code in (status, 404)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]


def test_ids_with_folders_are_images_too(world: World) -> None:
    (world.roots.studies / "sub dir").mkdir()
    nifti(world.roots.studies / "sub dir" / "volume.nii.gz", RAMP)
    world.store.refresh()
    assert world.http.get("/api/v1/images/sub%20dir/volume/volume").json()["image"] == "sub dir/volume"


def test_a_damaged_image_is_an_error_of_the_image(world: World) -> None:
    file = world.roots.studies / "ct_1.nii.gz"
    file.write_bytes(file.read_bytes()[:-20])
    answer = world.http.get(URL)
    assert answer.status_code == 422
    assert "ct_1.nii.gz" in answer.json()["detail"]
