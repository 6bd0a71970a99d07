"""The Python client's interactive sessions, against the real routes."""

import httpx
import numpy as np
import pytest

from labelserver.client import LabelServerClient
from labelserver.client.errors import NothingThere, Refused
from labelserver.imaging.volumes import read_volume, write_volume

SHAPE = (14, 12, 10)


class _Portal(httpx.BaseTransport):
    """From a blocking client to the application in this process."""

    def __init__(self, http):
        self._http = http

    def handle_request(self, request):
        answer = self._http.request(
            request.method, str(request.url.raw_path, "ascii"), content=request.read(), headers=dict(request.headers)
        )
        kept = {k: v for k, v in answer.headers.items() if k not in ("content-encoding", "content-length")}
        return httpx.Response(answer.status_code, headers=kept, content=answer.content)


@pytest.fixture
def client(world):
    write_volume(world.roots.studies / "ct_big.nii.gz", np.zeros(SHAPE, np.int16), np.eye(4), compress=True)
    world.server.datastore.refresh()
    with LabelServerClient("http://127.0.0.1:8000", person="ann", transport=_Portal(world.http)) as client:
        yield client


def test_the_mask_on_this_side_follows_the_one_on_the_server(client, world):
    assert [model.name for model in client.prompt_models()] == ["deepedit"]
    session = client.open_session("deepedit", "ct_big")
    assert session.labels == {"liver": 1}
    assert session.click((5, 6, 4)).ran
    session.scribble([(9, 6, 4), (9, 7, 4)])
    session.box((1, 1, 1), (3, 3, 3))
    assert session.mask[5, 6, 4]
    session.undo()
    session.redo()
    session.click((5, 6, 4), positive=False)
    assert not session.mask[5, 6, 4]
    whole = read_volume(session.download_mask()).voxels
    assert (session.mask == whole).all()
    again = client.resume_session(session.id)
    assert (again.mask == whole).all()
    session.reset()
    assert not session.mask.any()
    assert session.refresh().undoable == 5


def test_a_mask_can_be_drawn_and_accepted(client):
    session = client.open_session("deepedit", "ct_big")
    drawn = np.zeros(SHAPE, bool)
    drawn[2:4, 3:5, 6] = True
    assert not session.draw(drawn).ran
    assert (session.mask == drawn).all()
    revision = session.accept(info={"note": "by hand"})
    assert (revision.source, revision.author) == ("prompts", "ann")
    assert [s.id for s in client.open_sessions("ct_big")] == [session.id]
    session.close()
    session.close()
    assert client.open_sessions() == []
    with pytest.raises(NothingThere):
        session.undo()


def test_coarse_answers_are_shown(client, world):
    world.engine.sessions.partials = True
    with client.open_session("deepedit", "ct_big") as session:
        seen = []
        answer = session.prompt([{"kind": "point", "points": [[5, 6, 4]], "frame": "voxel"}], on_coarse=seen.append)
        assert answer.final
        assert len(seen) == 1
        assert seen[0][5, 6, 4] == 1
        with pytest.raises(Refused):
            session.prompt([{"kind": "point", "points": [[99, 6, 4]], "frame": "voxel"}], on_coarse=seen.append)


def test_the_servers_sentence_reaches_the_caller(client):
    with client.open_session("deepedit", "ct_big") as session:
        with pytest.raises(Refused, match="outside the image"):
            session.click((99, 0, 0))
        with pytest.raises(Refused, match="empty"):
            session.draw(np.zeros(SHAPE), "scribble")
        with pytest.raises(ValueError, match="mm"):
            session.click((1, 1, 1), frame="mm")
