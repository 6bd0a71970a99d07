"""Tokens, slots and clocks of leases, and what is left of one that rested."""

import json

import numpy as np
import pytest

from labelserver.domain.errors import LeaseLost, SessionNotFound, SlotsTaken
from labelserver.domain.paths import Root, Roots
from labelserver.domain.prompts import Prompt, PromptKind
from labelserver.interaction import leases
from labelserver.interaction.array_session import ArraySession, mount_of
from labelserver.interaction.described import described_task
from labelserver.interaction.leases import LeaseBook
from labelserver.interaction.service import Interactions
from tests.fakes.fake_engine import FakeEngine
from tests.support.ball_app import ball, ball_app

pytestmark = pytest.mark.anyio

SHAPE = (9, 14, 11)
MOUNT = "/nni/ball"


@pytest.fixture
def anyio_backend():
    return "asyncio"


class House:
    """Leases over a fake engine, whose clock the test holds."""

    def __init__(self, folder):
        self.roots = Roots(folder / "app", folder / "studies", folder / "studies" / ".labelserver")
        (self.roots.state / "spool").mkdir(parents=True)
        self.engine = FakeEngine(self.roots, ball_app())
        self.now = 5000.0
        self.start()

    def start(self):
        """As at the start of a server: nothing in memory."""
        self.engine.sessions.forget()
        self.sessions = Interactions(self.engine, lambda: None, self.roots, keep_days=2.0)
        self.book = LeaseBook(
            self.sessions,
            self.roots.state / "leases",
            slots=2,
            idle_s=600.0,
            liveness_s=60.0,
            clock=lambda: self.now,
        )

    async def opened(self):
        """A lease with an image, kept on disk."""
        lease = self.book.claim(MOUNT, "ann")
        path = self.roots.state / "spool" / f"{lease.token}.npy"
        np.save(path, np.zeros(SHAPE, np.int16))
        image = self.roots.relative(path, Root.STATE)
        lease.session = await ArraySession.opened(self.sessions, self.mount, "ann", image)
        await self.book.keep(lease)
        return lease

    @property
    def mount(self):
        return mount_of(described_task(self.engine.description(), "ball"), None)

    def records(self):
        return sorted((self.roots.state / "leases").glob("*.json"))


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


def point(*ijk):
    return Prompt(PromptKind.POINT, "liver", True, np.array([ijk], dtype=float))


async def test_a_slot_is_free_again_after_release_and_after_a_rest(house):
    first, second = house.book.claim(MOUNT, "ann"), house.book.claim(MOUNT, "bob")
    with pytest.raises(SlotsTaken, match="2 sessions"):
        house.book.claim(MOUNT, "cleo")
    await house.book.release(first.token)
    third = house.book.claim(MOUNT, "cleo")
    assert len({first.token, second.token, third.token}) == 3
    house.now += 61
    house.book.claim(MOUNT, "dan")


async def test_tokens_cannot_be_guessed_and_are_good_for_one_mount(house):
    lease = house.book.claim(MOUNT, "ann")
    assert len(lease.token) == 32
    for token, mount in ((lease.token, "/nni/points"), (lease.token[::-1], MOUNT), ("", MOUNT), ("../x", MOUNT)):
        with pytest.raises(LeaseLost, match="expired or unknown"):
            await house.book.find(token, mount, active=True)


async def test_a_sign_of_life_postpones_liveness_alone(house):
    lease = house.book.claim(MOUNT, "ann")
    for seconds in range(50, 600, 50):
        house.now += 50
        await house.book.rest()
        await house.book.find(lease.token, MOUNT, active=False)
        assert house.book.remaining_s(lease) == 600 - seconds
    house.now += 51
    await house.book.rest()
    with pytest.raises(LeaseLost):  # no action for longer than 600 s, and nothing to come back to
        await house.book.find(lease.token, MOUNT, active=True)


async def test_an_action_postpones_both(house):
    lease = house.book.claim(MOUNT, "ann")
    house.now += 59
    await house.book.find(lease.token, MOUNT, active=True)
    assert house.book.remaining_s(lease) == 600
    house.now += 30
    house.book.finished(lease)
    house.now += 59
    await house.book.rest()
    assert await house.book.find(lease.token, MOUNT, active=True) is lease


async def test_a_look_touches_no_clock(house):
    lease = house.book.claim(MOUNT, "ann")
    house.now += 50
    await house.book.find(lease.token, MOUNT, active=False, seen=False)
    house.now += 11
    await house.book.rest()
    with pytest.raises(LeaseLost):
        await house.book.find(lease.token, MOUNT, active=True)


async def test_a_lease_in_use_is_not_put_to_rest(house):
    lease = house.book.claim(MOUNT, "ann")
    lease.uses += 1
    house.now += 10_000
    await house.book.rest()
    assert await house.book.find(lease.token, MOUNT, active=True) is lease


async def test_a_lease_that_rested_goes_on_where_it_was(house):
    lease = await house.opened()
    await lease.session.add(point(4, 7, 5), predict=True)
    house.now += 10_000
    await house.book.rest()
    assert (await house.book.find(lease.token, MOUNT, active=False)) is not lease
    again = await house.book.find(lease.token, MOUNT, active=True)
    assert again is not lease
    session = await ArraySession.woken(house.sessions, house.mount, again.record)
    np.testing.assert_array_equal(session.mask, ball(SHAPE, (4, 7, 5)))


async def test_a_sign_of_life_of_a_lease_that_rests_takes_no_slot(house):
    lease = await house.opened()
    house.now += 10_000
    await house.book.rest()
    resting = await house.book.find(lease.token, MOUNT, active=False)
    assert house.book.remaining_s(resting) == 0
    house.book.claim(MOUNT, "bob")
    house.book.claim(MOUNT, "cleo")


async def test_a_lease_survives_the_server(house):
    lease = await house.opened()
    answer = await lease.session.add(point(4, 7, 5), predict=True)
    lease.session.delivered(answer)
    house.start()
    again = await house.book.find(lease.token, MOUNT, active=True)
    session = await ArraySession.woken(house.sessions, house.mount, again.record)
    assert (again.person, session.shape) == ("ann", SHAPE)
    undone = await session.undo()
    assert undone.ran
    assert undone.box.shape == SHAPE  # nobody knows what the client has, so it is told everything once
    assert not session.mask.any()


async def test_release_forgets_the_session_and_its_files(house):
    lease = await house.opened()
    folders = list((house.roots.state / "sessions").iterdir())
    assert len(folders) == len(house.records()) == 1
    await house.book.release(lease.token)
    await house.book.release(lease.token)
    await house.book.release("nobody's")
    assert house.records() == []
    assert not folders[0].exists()
    with pytest.raises(LeaseLost):
        await house.book.find(lease.token, MOUNT, active=True)


async def test_a_lease_that_rests_can_be_released(house):
    lease = await house.opened()
    house.now += 10_000
    await house.book.rest()
    await house.book.release(lease.token)
    assert house.records() == []
    assert list((house.roots.state / "sessions").iterdir()) == []


async def test_the_oldest_resting_leases_end_with_their_sessions(house, monkeypatch):
    monkeypatch.setattr(leases, "MAX_RESTING", 1)
    first, second = await house.opened(), await house.opened()
    house.now += 10_000
    await house.book.rest()
    with pytest.raises(LeaseLost):
        await house.book.find(first.token, MOUNT, active=True)
    again = await house.book.find(second.token, MOUNT, active=True)
    assert again.record is not None
    assert len(list((house.roots.state / "sessions").iterdir())) == 1


async def test_a_damaged_record_is_a_lost_lease(house):
    lease = await house.opened()
    house.start()
    for damage in (b"{", b"[]", json.dumps({"mount": MOUNT}).encode()):
        house.records()[0].write_bytes(damage)
        house.start()
        try:
            found = await house.book.find(lease.token, MOUNT, active=True)
        except LeaseLost:
            continue
        assert found.record is None


async def test_a_session_that_expired_meanwhile_is_gone(house):
    lease = await house.opened()
    house.start()
    again = await house.book.find(lease.token, MOUNT, active=True)
    await house.sessions.close(again.record["session"], "ann")
    with pytest.raises(SessionNotFound):
        await ArraySession.woken(house.sessions, house.mount, again.record)


async def test_callers_without_tokens_are_told_apart_and_take_no_slot(house):
    one = await house.book.of_caller("10.0.0.1", "/nni-slicer/ball", "ann")
    other = await house.book.of_caller("10.0.0.2", "/nni-slicer/ball", "bob")
    elsewhere = await house.book.of_caller("10.0.0.1", "/nni-slicer/points", "ann")
    assert len({one.token, other.token, elsewhere.token}) == 3
    assert await house.book.of_caller("10.0.0.1", "/nni-slicer/ball", "ann") is one
    with pytest.raises(LeaseLost):  # such a token can be computed, so it opens nothing at a mount of the other protocol
        await house.book.find(one.token, MOUNT, active=True)
    house.now += 61
    await house.book.rest()
    assert await house.book.of_caller("10.0.0.1", "/nni-slicer/ball", "ann") is one
    for person in ("a", "b"):
        house.book.claim(MOUNT, person)
