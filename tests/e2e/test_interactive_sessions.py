"""Interactive sessions with a real server and real workers: clicks, restarts, several persons, old clients."""

import asyncio
import json
import os
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from websockets.sync.client import connect

from labelserver.client import LabelServerClient
from labelserver.client.errors import NothingThere, ServerFailed
from labelserver.imaging.volumes import read_volume, write_volume
from labelserver.wire.mask_box import decode_box
from tests.support.live_server import LiveServer, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
APP = Path(__file__).parents[1] / "apps" / "clicks_app"
SHAPE = (40, 36, 30)
RADIUS = 4
AFFINE = np.array([[0, -2.0, 0.3, 5], [1.5, 0.2, 0, -3], [0, 0.1, 3.0, 1], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clicks")
    shutil.copytree(APP, folder / "clicks_app", ignore=shutil.ignore_patterns("__pycache__"))
    studies = folder / "studies"
    studies.mkdir()
    for name in ("ct_1", "ct_2"):
        write_volume(studies / f"{name}.nii.gz", np.zeros(SHAPE, np.int16), AFFINE, compress=True)
    with LiveServer(
        folder / "clicks_app", studies, LABELSERVER_AUTO_UPDATE_SCORING="false", LABELSERVER_CLICK_TIMEOUT="5"
    ) as server:
        yield server


@pytest.fixture
def ann(server):
    with LabelServerClient(server.url, person="ann") as client:
        yield client


def balls(*centers):
    grid = np.indices(SHAPE)
    mask = np.zeros(SHAPE, np.uint8)
    for center in centers:
        away = sum((axis - c) ** 2 for axis, c in zip(grid, center, strict=True))
        mask[away <= RADIUS**2] = 1
    return mask


def notes(server):
    return (server.app / "notes").read_text().split()


def worker_pid(server):
    (pid,) = server.processes("labelserver.worker serve")
    return pid


def test_twenty_clicks_decode_the_image_once_and_write_no_temporary_file(server, ann):
    session = ann.open_session("ball", "ct_1")
    before = notes(server).count("decode")
    spool = server.studies / ".labelserver" / "spool"
    stamps = {path: path.stat().st_mtime_ns for path in (spool, *spool.iterdir()) if path.is_dir()}
    centers = [(8 + number, 10 + number, 12) for number in range(20)]
    for center in centers:
        assert session.click(center).ran
    assert (session.mask == balls(*centers)).all()
    assert notes(server).count("decode") == before <= 1
    now = {path: path.stat().st_mtime_ns for path in (spool, *spool.iterdir()) if path.is_dir()}
    assert now == stamps, "no file was made or removed there"
    with LabelServerClient(server.url, person="bob") as bob:
        bob.open_session("ball", "ct_1").click((9, 9, 9))
    assert notes(server).count("decode") == before <= 1, "another person's session shares the image"
    assert notes(server).count("prepare") == 1


def test_a_session_survives_the_death_of_its_worker(server, ann):
    session = ann.open_session("ball", "ct_2")
    session.click((10, 10, 10))
    session.click((20, 20, 20))
    os.kill(worker_pid(server), signal.SIGKILL)
    session.undo()
    assert (session.mask == balls((10, 10, 10))).all()
    assert (ann.resume_session(session.id).mask == session.mask).all()
    session.redo()
    assert (session.mask == balls((10, 10, 10), (20, 20, 20))).all()


def test_a_session_survives_a_killed_server(server, ann):
    session = ann.open_session("ball", "ct_2")
    session.click((10, 10, 10))
    session.click((20, 20, 20))
    session.undo()
    server.kill()
    wait_until("the end of the worker", lambda: not server.processes("labelserver.worker serve"))
    server.start()
    with LabelServerClient(server.url, person="ann") as again:
        resumed = again.resume_session(session.id)
        assert (resumed.mask == balls((10, 10, 10))).all()
        assert resumed.redo().ran
        assert (resumed.mask == balls((10, 10, 10), (20, 20, 20))).all()
        resumed.click((30, 20, 10))
        revision = resumed.accept()
        assert (revision.source, revision.author, revision.model) == ("prompts", "ann", "ball")
        label = again.fetch_label("ct_2").file
        assert (read_volume(label).voxels == resumed.mask).all()


def test_two_persons_click_in_the_same_image_without_seeing_each_other(server):
    with LabelServerClient(server.url, person="ann") as ann, LabelServerClient(server.url, person="bob") as bob:
        mine, theirs = ann.open_session("ball", "ct_1"), bob.open_session("ball", "ct_1")
        ends = []

        def click(session, centers):
            for center in centers:
                session.click(center)
            ends.append(session)

        ann_centers = [(8 + n, 10, 12) for n in range(8)]
        bob_centers = [(30 - n, 20, 15) for n in range(8)]
        threads = [
            threading.Thread(target=click, args=(mine, ann_centers)),
            threading.Thread(target=click, args=(theirs, bob_centers)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(ends) == 2
        assert (mine.mask == balls(*ann_centers)).all()
        assert (theirs.mask == balls(*bob_centers)).all()
        with pytest.raises(NothingThere):
            bob.resume_session(mine.id)


def test_a_click_is_answered_while_an_inference_runs_that_never_yields(server, ann):
    session = ann.open_session("ball", "ct_1")
    ended = threading.Event()

    def long():
        server.infer("long", "ct_1", {"seconds": 4, "deaf": True}, output="json")
        ended.set()

    thread = threading.Thread(target=long)
    thread.start()
    answered = 0
    while not ended.is_set() and answered < 5:
        session.click((10 + answered, 10, 10))
        answered += 1
    assert not ended.is_set()
    thread.join(60)


def test_a_click_that_hangs_is_one_error_and_others_go_on(server, ann):
    hung, fine = ann.open_session("slow", "ct_1"), ann.open_session("ball", "ct_1")
    fine.click((10, 10, 10))
    hung.click((20, 20, 20))
    old = worker_pid(server)
    errors = []

    def hang():
        try:
            hung.click((10, 10, 10), label="other")
        except ServerFailed as error:
            errors.append(error)

    thread = threading.Thread(target=hang)
    thread.start()
    wait_until("a click that waits or was answered", lambda: fine.click((20, 20, 20)).ran)
    thread.join(60)
    assert "longer than 5 s" in errors[0].sentence
    wait_until("another worker", lambda: server.processes("labelserver.worker serve") not in ([], [old]))
    assert (fine.click((30, 20, 20)).ran, hung.click((25, 20, 20)).ran) == (True, True)
    assert (fine.mask == balls((10, 10, 10), (20, 20, 20), (30, 20, 20))).all()
    assert (hung.mask == balls((20, 20, 20), (25, 20, 20))).all()


def test_a_stream_shows_the_coarse_mask_first_over_http_and_a_websocket(server, ann):
    session = ann.open_session("ball", "ct_1")
    shown = []
    point = {"kind": "point", "points": [[20, 20, 20]], "frame": "voxel"}
    session.prompt([point], on_coarse=shown.append)
    assert shown[0].sum() == (2 * RADIUS + 1) ** 3
    assert (session.mask == balls((20, 20, 20))).all()
    url = f"{server.url.replace('http', 'ws')}/api/v1/sessions/{session.id}/stream?codec=zstd"
    with connect(url, additional_headers={"X-Labelserver-Person": "ann"}) as socket:
        socket.send(json.dumps({"verb": "prompt", "prompts": [{**point, "points": [[30, 20, 20]]}], "id": 1}))
        coarse, final = decode_box(socket.recv(30)), decode_box(socket.recv(30))
        assert (coarse.params["final"], final.params["final"]) == (False, True)
        final.paste_into(session.mask)
        assert (session.mask == balls((20, 20, 20), (30, 20, 20))).all()
        socket.send(json.dumps({"verb": "undo"}))
        decode_box(socket.recv(30)).paste_into(session.mask)
        assert (session.mask == balls((20, 20, 20))).all()


def test_a_caller_who_leaves_cancels_the_click(server, ann):
    session = ann.open_session("ball", "ct_1")
    session.click((10, 10, 10))

    async def leave():
        host, port = "127.0.0.1", server.port
        body = json.dumps({"prompts": [{"kind": "point", "points": [[20, 20, 20]], "frame": "voxel"}]})
        for _ in range(5):
            _, writer = await asyncio.open_connection(host, port)
            writer.write(
                f"POST /api/v1/sessions/{session.id}/prompts HTTP/1.1\r\nHost: {host}:{port}\r\n"
                f"X-Labelserver-Person: ann\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                f"{body}".encode()
            )
            await writer.drain()
            writer.close()

    asyncio.run(leave())
    session.click((30, 10, 10))
    kept = ann.resume_session(session.id)
    assert kept.mask[10, 10, 10]
    assert kept.mask[30, 10, 10]


def test_an_old_client_drives_an_interactive_task_through_infer(server, ann):
    models = server.http.get("/info/").json()["models"]
    assert models["ball"]["type"] == "deepgrow"
    assert models["ball"]["interactive"]["prompt_kinds"] == ["box", "point", "scribble"]
    params = {"foreground": [[20, 20, 20], [26, 20, 20]], "background": [[20, 24, 20]], "result_extension": ".nrrd"}
    path = server.app / "old.nrrd"
    path.write_bytes(server.infer("ball", "ct_1", params))
    volume = read_volume(path)
    expected = balls((20, 20, 20), (26, 20, 20))
    expected[balls((20, 24, 20)) > 0] = 0
    assert (volume.voxels == expected).all()
    assert np.allclose(volume.grid.affine, AFFINE, atol=1e-4)
    per_label = server.infer("ball", "ct_1", {"other": [[10, 10, 10]], "label": "other", "result_extension": ".nrrd"})
    path.write_bytes(per_label)
    assert (read_volume(path).voxels == 2 * balls((10, 10, 10))).all()
    refused = server.http.post(
        "/infer/ball", params={"image": "ct_1"}, data={"params": json.dumps({"foreground": [[99, 0, 0]]})}
    )
    assert refused.status_code == 422
    assert "outside" in refused.text


def test_an_old_style_task_works_in_a_session(server, ann):
    models = {model.name: model for model in ann.prompt_models()}
    assert set(models) == {"ball", "slow", "local", "busy", "old"}
    assert "box" in models["old"].conversions
    with ann.open_session("old", "ct_1") as session:
        session.click((20, 20, 20))
        session.click((26, 20, 20))
        session.click((20, 24, 20), positive=False)
        expected = balls((20, 20, 20), (26, 20, 20))
        expected[balls((20, 24, 20)) > 0] = 0
        assert (session.mask == expected).all()
        session.undo()
        assert (session.mask == balls((20, 20, 20), (26, 20, 20))).all()
