"""Closed by default: Host names, origins, preflights, and binds beyond this machine."""

from __future__ import annotations

import pytest

from labelserver.bootstrap import check_bind
from labelserver.domain.errors import InvalidSetting
from labelserver.domain.hosts import is_loopback
from labelserver.settings import Settings
from tests.api.conftest import Make, World
from tests.support.in_process import InProcess


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:80", "[::1]:8000", "127.0.0.5"])
def test_loopback_names_are_always_ours(world: World, host: str) -> None:
    assert world.http.get("/info/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.168.1.5:8000", "", "a b"])
def test_a_foreign_host_header_is_refused_even_for_reading(world: World, host: str) -> None:
    answer = world.http.get("/info/", headers={"Host": host})
    assert answer.status_code == 403
    assert "--allowed-hosts" in answer.json()["detail"]


def test_allowed_hosts_and_the_bind_address_are_ours(make_world: Make) -> None:
    world = make_world(allowed_hosts=["label.clinic.example"], host="10.1.2.3", insecure=True)
    assert world.http.get("/info/", headers={"Host": "label.clinic.example:443"}).status_code == 200
    assert world.http.get("/info/", headers={"Host": "10.1.2.3:8000"}).status_code == 200
    assert world.http.get("/info/", headers={"Host": "10.1.2.4:8000"}).status_code == 403


def test_on_a_wildcard_bind_the_address_that_was_reached_is_ours(make_world: Make) -> None:
    world = make_world(host="0.0.0.0", insecure=True)
    assert world.http.get("http://10.9.8.7:8000/info/").status_code == 200
    assert world.http.get("http://10.9.8.7:8000/info/", headers={"Host": "evil.example"}).status_code == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://localhost.evil.example", "file://"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_a_change_with_a_foreign_origin_is_refused(world: World, origin: str, method: str) -> None:
    answer = world.http.request(method, "/train/segmentation", headers={"Origin": origin})
    assert answer.status_code == 403
    assert "--cors-origins" in answer.json()["detail"]
    assert not world.engine.jobs.list()


def test_a_cross_site_change_without_origin_is_refused(world: World) -> None:
    assert world.http.post("/train/segmentation", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403


@pytest.mark.parametrize("origin", ["http://127.0.0.1:3000", "http://localhost:3000", "https://[::1]"])
def test_loopback_origins_may_change_and_read(world: World, origin: str) -> None:
    answer = world.http.post("/train/segmentation", headers={"Origin": origin})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert "Origin" in answer.headers["vary"]


def test_an_origin_of_the_same_host_on_another_port_is_allowed(make_world: Make) -> None:
    world = make_world(host="10.1.2.3", insecure=True)
    headers = {"Host": "10.1.2.3:8000", "Origin": "http://10.1.2.3:3000"}
    assert world.http.post("/train/segmentation", headers=headers).status_code == 200


def test_named_origins_are_allowed_whatever_their_slash(make_world: Make) -> None:
    world = make_world(cors_origins=["https://viewer.example/"])
    headers = {"Origin": "https://viewer.example"}
    assert world.http.post("/train/segmentation", headers=headers).status_code == 200
    assert world.http.post("/train/segmentation", headers={"Origin": "https://viewer.example:8"}).status_code == 403


def test_a_foreign_page_reads_nothing(world: World) -> None:
    answer = world.http.get("/info/", headers={"Origin": "http://evil.example"})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


def test_a_preflight_is_answered_as_browsers_expect(world: World) -> None:
    headers = {
        "Origin": "http://localhost:3000",
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "x-labelserver-person,content-type",
    }
    answer = world.http.options("/datastore/label", headers=headers)
    assert (answer.status_code, answer.text) == (200, "OK")
    assert answer.headers["access-control-max-age"] == "600"
    assert "PUT" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == "x-labelserver-person,content-type"


def test_a_preflight_of_a_foreign_page_is_refused(world: World) -> None:
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "PUT"}
    assert world.http.options("/datastore/label", headers=headers).status_code == 403


def test_errors_carry_the_origin_headers_too(world: World) -> None:
    answer = world.http.post("/infer/none?image=ct_1", headers={"Origin": "http://localhost:3000"})
    assert answer.status_code == 404
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.9.1"])
def test_binding_to_loopback_needs_no_word(host: str) -> None:
    check_bind(Settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "label.example"])
def test_binding_beyond_loopback_stops_with_advice(host: str) -> None:
    with pytest.raises(InvalidSetting, match="--behind-proxy"):
        check_bind(Settings(host=host))
    check_bind(Settings(host=host, insecure=True))
    check_bind(Settings(host=host, behind_proxy=True))


def test_addresses_mapped_into_ipv6_are_seen_through() -> None:
    assert is_loopback("::ffff:127.0.0.1")
    assert not is_loopback("::ffff:10.0.0.1")


def test_the_person_is_a_claim_in_this_order(make_world: Make) -> None:
    world = make_world(address="10.0.0.9")
    everything = {"X-Labelserver-Person": "Dr. Header", "Cookie": "labelserver_person=Dr.%20K%C3%A4fer"}
    body = {"client_id": "slicer-user"}
    asked = [
        (everything, body, "Dr. Header"),
        ({"Cookie": everything["Cookie"]}, body, "Dr. Käfer"),
        ({}, body, "slicer-user"),
        ({}, {}, "anonymous@10.0.0.9"),
    ]
    for headers, params, person in asked:
        world.http.post("/train/segmentation?enqueue=true", json=params, headers=headers)
        assert world.engine.jobs.list()[-1].spec.person == person
    assert "does not check" in world.http.get("/info/").json()["identity"]


def test_a_person_has_no_control_characters_and_no_endless_name(world: World) -> None:
    world.http.post("/train/segmentation", headers={"X-Labelserver-Person": "a%00%0Ab" + "c" * 500})
    person = world.engine.jobs.list()[-1].spec.person
    assert person.startswith("abccc")
    assert len(person) == 120


def test_a_websocket_of_a_foreign_page_is_closed(world: World) -> None:
    sent: list[dict[str, object]] = []

    async def ask() -> None:
        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        async def receive() -> dict[str, object]:
            return {"type": "websocket.connect"}

        headers = [(b"host", b"127.0.0.1"), (b"origin", b"http://evil.example")]
        scope = {
            "type": "websocket",
            "path": "/",
            "headers": headers,
            "server": ("127.0.0.1", 8000),
            "query_string": b"",
        }
        await world.http._app(scope, receive, send)  # type: ignore[arg-type]

    assert isinstance(world.http, InProcess)
    world.http.portal.call(ask)
    assert sent[0]["type"] == "websocket.close"
