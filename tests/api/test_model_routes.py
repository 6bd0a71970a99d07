"""``/model`` and ``/api/v1/models``: weights out, weights in, versions and which one is in use."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save as safetensors

from labelserver.api.adopting import adopt_weights
from labelserver.bootstrap import Server
from labelserver.contracts.model_store import Candidate
from tests.api.conftest import World


def pt_bytes() -> bytes:
    """The shape of what torch.save writes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("archive/version", b"3\n")
    return packed.getvalue()


def tensors() -> bytes:
    data: bytes = safetensors({"weight": np.ones((2, 3), np.float32)})
    return data


@pytest.fixture
def target(world: World) -> Path:
    """The file that the app's model reads; the lead says so."""
    path = world.roots.app / "model" / "segmentation.pt"

    def model_file(params: dict[str, object]) -> str | None:
        return str(path) if path.exists() or not params["validate"] else None

    world.engine.lead["model_file"] = model_file  # type: ignore[assignment]
    return path


def add(world: World, data: bytes, target: Path | None = None) -> int:
    file = world.server.spool / "model.pt"
    file.write_bytes(data)
    return world.server.model_store.add(Candidate("segmentation", (file,), publish_path=target))


@pytest.mark.parametrize("data", [pt_bytes(), tensors()])
def test_uploaded_weights_become_a_version_in_use(world: World, target: Path, data: bytes) -> None:
    answer = world.http.put(
        "/model/segmentation", files={"file": ("best.pt", data)}, headers={"X-Labelserver-Person": "Dr. K"}
    )
    assert answer.status_code == 200, answer.text
    checksum = "SHA256:" + hashlib.sha256(data).hexdigest()
    assert answer.json()["checksum"] == checksum
    assert target.read_bytes() == data
    assert world.http.get("/model/info/segmentation").json()["checksum"] == checksum
    download = world.http.get("/model/segmentation")
    assert download.content == data
    assert download.headers["content-disposition"] == 'attachment; filename="segmentation.pt"'
    (version,) = world.http.get("/api/v1/models/segmentation/versions").json()["versions"]
    assert (version["number"], version["current"], version["verdict"]) == (1, True, "published")
    assert "Dr. K" in version["reason"]
    assert world.spool_is_empty()


@pytest.mark.parametrize("kind", ["noise", "pickle", "cut", "zip", "empty", "header"])
def test_weights_that_cannot_be_read_are_refused(world: World, target: Path, kind: str) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.txt", b"x")
    data = {
        "noise": b"noise" * 100,
        "pickle": b"\x80\x02}q\x00.",
        "cut": tensors()[:-4],
        "zip": packed.getvalue(),
        "empty": b"",
        "header": (2**60).to_bytes(8, "little") + b"{}",
    }[kind]
    answer = world.http.put("/model/segmentation", files={"file": ("best.pt", data)})
    assert answer.status_code == 422
    assert isinstance(answer.json()["detail"], str)
    assert not target.exists()
    assert world.http.get("/api/v1/models").json() == {"models": []}
    assert world.spool_is_empty()


def test_a_model_without_weights_is_404(world: World, target: Path) -> None:
    for url in ("/model/segmentation", "/model/info/segmentation", "/model/none"):
        answer = world.http.get(url)
        assert answer.status_code == 404
        assert "Model File NOT Found" in answer.json()["detail"]
    assert world.http.delete("/model/segmentation").status_code == 404


def test_a_model_that_reads_no_file_takes_no_upload(world: World) -> None:
    world.engine.lead["model_file"] = lambda params: None
    answer = world.http.put("/model/segmentation", files={"file": ("a.pt", pt_bytes())})
    assert answer.status_code == 404
    assert "NOT configured" in answer.json()["detail"]


def test_weights_outside_the_app_are_not_replaced(world: World, tmp_path: Path) -> None:
    world.engine.lead["model_file"] = lambda params: str(tmp_path / "elsewhere.pt")
    assert world.http.put("/model/segmentation", files={"file": ("a.pt", pt_bytes())}).status_code == 404


def test_deleted_weights_are_only_put_aside(world: World, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(b"weights")
    assert world.http.delete("/model/segmentation").json() == {}
    assert not target.exists()
    (aside,) = target.parent.glob("segmentation.pt.*.deleted")
    assert aside.read_bytes() == b"weights"


def test_versions_are_listed_and_any_of_them_can_be_made_current(world: World) -> None:
    target = world.roots.app / "model" / "segmentation.pt"
    for data in (b"one", b"two"):
        world.server.model_store.decide("segmentation", add(world, data, target))
    assert world.http.get("/api/v1/models").json() == {
        "models": [{"model": "segmentation", "current": 2, "versions": 2}]
    }
    answer = world.http.post("/api/v1/models/segmentation/versions/1/publish", json={"reason": "two is worse"})
    assert answer.status_code == 200
    assert answer.json()["current"] is True
    assert answer.json()["reason"].startswith("two is worse")
    assert target.read_bytes() == b"one"
    assert [v["current"] for v in _versions(world)] == [True, False]
    assert world.http.post("/api/v1/models/segmentation/versions/2/publish").status_code == 200
    assert [v["current"] for v in _versions(world)] == [False, True]


def measured(world: World, dice: dict[str, float], before: dict[str, float] | None = None) -> int:
    """A decided version of the model "tiny" that was measured on these cases."""
    key = "val_mean_dice"
    file = world.server.spool / "weights.safetensors"
    file.write_bytes(repr(dice).encode())
    current = world.server.model_store.current("tiny")
    number = world.server.model_store.add(
        Candidate(
            "tiny",
            (file,),
            key_metric=key,
            metrics={key: sum(dice.values()) / len(dice)} if dice else {},
            cases={case: {key: value, "val_liver_mean_dice": value / 2} for case, value in dice.items()},
            baseline_version=current.number if current is not None and before is not None else None,
            baseline_cases={case: {key: value} for case, value in (before or {}).items()},
            held_out=tuple(dice),
            held_out_labels=dict.fromkeys(dice, "ab" * 32),
            labels={"ct_2": "cd" * 32},
            revisions={"ct_2": 3},
        )
    )
    world.server.model_store.decide("tiny", number)
    return number


def test_a_version_tells_every_case_and_the_numbers_of_its_decision(world: World) -> None:
    measured(world, {"ct_1": 0.8})
    measured(world, {"ct_1": 0.7}, {"ct_1": 0.8})
    version = world.http.get("/api/v1/models/tiny/versions/2").json()
    assert version["cases"]["ct_1"]["val_mean_dice"] == 0.7
    assert (version["labels"], version["revisions"]) == ({"ct_2": "cd" * 32}, {"ct_2": 3})
    assert (version["verdict"], version["decided_by"]) == ("rejected", "")
    assert version["numbers"] == {
        "rule": "mean",
        "margin": 0.005,
        "against": 1,
        "before": 0.8,
        "after": 0.7,
        "cases": {"ct_1": [0.8, 0.7]},
    }


def test_two_versions_are_compared_by_label_and_by_case(world: World) -> None:
    measured(world, {"ct_1": 0.6, "ct_2": 0.5})
    measured(world, {"ct_1": 0.75, "ct_3": 0.9})
    answer = world.http.get("/api/v1/models/tiny/compare", params={"first": 1, "second": 2}).json()
    assert list(answer["cases"]) == ["ct_1"]
    assert answer["metrics"]["val_mean_dice"] == {"first": 0.6, "second": 0.75, "difference": pytest.approx(0.15)}
    assert answer["cases"]["ct_1"]["val_liver_mean_dice"]["first"] == 0.3
    none = world.http.get("/api/v1/models/tiny/compare", params={"first": 1, "second": 9})
    assert none.status_code == 404


def test_what_somebody_does_to_a_version_is_told_under_their_name(world: World) -> None:
    by_ada = {"X-Labelserver-Person": "ada"}
    for dice in (0.6, 0.7, 0.8):
        measured(world, {"ct_1": dice})
    base = "/api/v1/models/tiny"
    assert world.http.post(f"{base}/rollback", json={"reason": "misses"}, headers=by_ada).json()["number"] == 2
    assert world.http.post(f"{base}/versions/3/reject", headers=by_ada).json()["verdict"] == "rejected"
    assert world.http.post(f"{base}/versions/1/pin", headers=by_ada).json()["pinned"] is True
    assert world.http.delete(f"{base}/versions/1", headers=by_ada).status_code == 409
    assert world.http.delete(f"{base}/versions/1/pin", headers=by_ada).json()["pinned"] is False
    assert world.http.delete(f"{base}/versions/1", headers=by_ada).json() == {}
    told = [entry for entry in world.store.audit_log(100) if entry.act.action.startswith("model_")]
    assert [(e.act.action, e.act.person, e.act.detail["version"]) for e in told] == [
        ("model_roll_back", "ada", 2),
        ("model_reject", "ada", 3),
        ("model_pin", "ada", 1),
        ("model_unpin", "ada", 1),
        ("model_delete", "ada", 1),
    ]
    assert told[0].act.detail["reason"] == "misses"
    assert world.store.upkeep.verify().findings == []


def test_the_version_in_use_is_neither_deleted_nor_rejected(world: World) -> None:
    measured(world, {"ct_1": 0.6})
    for method, url in (("DELETE", "/versions/1"), ("POST", "/versions/1/reject"), ("POST", "/rollback")):
        answer = world.http.request(method, f"/api/v1/models/tiny{url}")
        assert answer.status_code == 409, url
        assert answer.json()["detail"].endswith(".")
    assert world.http.get("/api/v1/models/tiny/versions/1").json()["current"] is True


def test_a_pinned_version_is_not_pruned_and_not_replaced(world: World) -> None:
    measured(world, {"ct_1": 0.6})
    world.http.post("/api/v1/models/tiny/versions/1/pin")
    measured(world, {"ct_1": 0.9}, {"ct_1": 0.6})
    assert world.http.get("/api/v1/models").json()["models"] == [{"model": "tiny", "current": 1, "versions": 2}]
    assert "pinned" in world.http.get("/api/v1/models/tiny/versions/2").json()["reason"]


def _versions(world: World) -> list[dict[str, object]]:
    answer = world.http.get("/api/v1/models/segmentation/versions")
    versions: list[dict[str, object]] = answer.json()["versions"]
    return versions


@pytest.mark.parametrize(
    ("method", "url", "body", "status"),
    [
        ("GET", "/api/v1/models/none/versions", None, 404),
        ("GET", "/api/v1/models/none/versions/1", None, 404),
        ("POST", "/api/v1/models/none/versions/1/publish", None, 404),
        ("POST", "/api/v1/models/none/versions/x/publish", None, 422),
        ("POST", "/api/v1/models/none/versions/1/publish", {"unknown": 1}, 422),
        ("GET", "/api/v1/models/..%2F..%2Fx/versions", None, 404),
    ],
)
def test_errors_are_problem_documents(world: World, method: str, url: str, body: object, status: int) -> None:
    content = None if body is None else json.dumps(body)
    answer = world.http.request(method, url, content=content)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]


@pytest.fixture
def with_weights(make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> World:
    """A server whose app came with pretrained weights and no versions."""

    async def later(server: Server) -> None:
        """The app is described before its files are there; the test adopts when it likes."""

    monkeypatch.setattr("labelserver.api.background.adopt_weights", later)
    world = make_world()
    (world.roots.app / "model").mkdir(exist_ok=True)
    (world.roots.app / "model" / "pretrained_segmentation.pt").write_bytes(b"weights of old")

    def model_file(params: dict[str, object]) -> str | None:
        if params["model"] != "segmentation":
            return None
        return "model/pretrained_segmentation.pt" if params["validate"] else "model/segmentation.pt"

    world.engine.lead["model_file"] = model_file  # type: ignore[assignment]
    return world


def test_weights_that_an_app_brings_are_version_0_and_stay_where_they_are(with_weights: World) -> None:
    world = with_weights
    for _ in range(2):
        world.http.portal.call(adopt_weights, world.server)
    (version,) = world.http.get("/api/v1/models/segmentation/versions").json()["versions"]
    assert (version["number"], version["current"], version["verdict"]) == (0, True, "unchecked")
    assert version["sha256"] == hashlib.sha256(b"weights of old").hexdigest()
    assert version["extra"]["adopted_from"] == "model/pretrained_segmentation.pt"
    assert (world.roots.app / "model" / "pretrained_segmentation.pt").read_bytes() == b"weights of old"
    assert world.spool_is_empty()


def test_one_can_go_back_to_the_weights_that_an_app_brought(with_weights: World) -> None:
    world = with_weights
    world.http.portal.call(adopt_weights, world.server)
    add(world, b"trained", world.roots.app / "model" / "segmentation.pt")
    world.http.post("/api/v1/models/segmentation/versions/1/publish")
    assert world.http.post("/api/v1/models/segmentation/rollback").json()["number"] == 0
    assert (world.roots.app / "model" / "segmentation.pt").read_bytes() == b"weights of old"


def test_weights_from_elsewhere_are_not_adopted(with_weights: World, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.pt").write_bytes(b"x")
    with_weights.engine.lead["model_file"] = lambda params: str(tmp_path / "elsewhere.pt")
    with_weights.http.portal.call(adopt_weights, with_weights.server)
    assert with_weights.http.get("/api/v1/models").json() == {"models": []}
