"""Carts, cache, limiter and positions by Redis Sentinel and on a Redis Cluster, by the setting alone."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from functools import partial
from time import monotonic
from typing import Any

import pytest

from ephemeral.cache import Cache, Kept, Name, Stamp
from ephemeral.carts import CartKey, Carts, SessionUnmarkedError
from ephemeral.client import EphemeralUnavailable
from ephemeral.limiter import Limit, Limiter, Policy
from ephemeral.positions import Recalled, RememberedPositions
from ephemeral.round_trip import RoundTrips
from ephemeral.scripts import Command
from ephemeral.sentinels import SOLE_SECONDS
from tests.redis_fleets import Fleet, owner, running_redis_cluster, running_sentinels
from tests.shard_servers import until

ONE = 7
EPOCH, START = 5, (1, 100)
# One for each primary of the cluster.
TAGS = ("{positions}", "{limits}", "{a}")


@pytest.fixture(scope="module", params=[running_sentinels, running_redis_cluster])
def running(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    with request.param() as fleet:
        yield fleet


@pytest.fixture
def fleet(running: Fleet) -> Fleet:
    running.empty()
    return running


@pytest.fixture
def trips(fleet: Fleet) -> Iterator[RoundTrips]:
    trips = started(fleet)
    yield trips
    trips.close()


def started(fleet: Fleet) -> RoundTrips:
    """It knows whom to ask."""
    trips = RoundTrips.to(fleet.url, 1.0)
    trips.start(30.0)
    return trips


def spread(count: int = 8) -> list[uuid.UUID]:
    """Enough for every node of a cluster to have some."""
    return [uuid.uuid4() for _ in range(count)]


def values(trips: RoundTrips, *commands: Any) -> list[Any]:
    return [reply.value for reply in trips.ask(*commands)]


def test_carts(trips: RoundTrips) -> None:
    carts = Carts(trips, 60)
    for store in spread():
        key = CartKey(store, uuid.uuid4(), uuid.uuid4())
        with pytest.raises(SessionUnmarkedError):
            carts.read(key)
        carts.mark(key)
        product = uuid.uuid4()
        cart = carts.put(key, product, 3, only_present=False)
        assert carts.read(key) == cart
        assert cart.quantities == {str(product): 3}
        carts.clear(key, cart.version)
        assert carts.read(key).quantities == {}
        carts.sign_out(key)
        with pytest.raises(SessionUnmarkedError):
            carts.read(key)


def test_cache(trips: RoundTrips, fleet: Fleet) -> None:
    cache = Cache(trips, 60.0, 1 << 40)
    for store in spread():
        name, product = Name(store, "page"), uuid.uuid4()
        kept = Kept(b"{}", "tag", low=product, high=product)
        look, _ = cache.look(name, EPOCH, START)
        assert look.lease is not None
        assert cache.fill(name, look.lease, Stamp(ONE, *START, START[1]), kept) == "stored"
        assert cache.look(name, EPOCH, START)[0].kept == kept
        cache.change(store, EPOCH, (1, 200), [("C", product)])
        assert cache.look(name, EPOCH, START)[0].outcome == "lease"


def test_where_one_server_is_too_full_nothing_is_filled_in(trips: RoundTrips, fleet: Fleet) -> None:
    for number, tag in enumerate(TAGS, 1):  # each in its turn holds the most
        used = max(int(server.admin.info("memory")["used_memory"]) for server in fleet.primaries())
        cache = Cache(trips, 60.0, used + (4 << 20))
        cache.weigh()
        assert not cache.full
        command = ("SET", tag, b"x" * (number * 8 << 20))
        until(
            partial(answers, trips, command)
        )  # so much may take a busy machine longer than a request is patient
        until(partial(full_by_now, cache))


def full_by_now(cache: Cache) -> bool:
    cache.weigh()
    return cache.full


def answers(trips: RoundTrips, command: Command) -> bool:
    try:
        return bool(trips.ask(command)[0].value)
    except EphemeralUnavailable:
        return False


def test_limiter(trips: RoundTrips) -> None:
    limiter = Limiter(trips, workers=2)
    ada, store = Limit(Policy("session", 2, 60), "ada"), Limit(Policy("store", 3, 60), "corner-shop")
    decided = [limiter.decide([ada, store]) for _ in range(3)]
    assert [each.admitted for each in decided] == [True, True, False]
    assert all(each.shared for each in decided)
    assert decided[-1].standings[1].remaining == 1


def test_positions(trips: RoundTrips, fleet: Fleet) -> None:
    began_at = monotonic()
    elsewhere = started(fleet)
    here, there = (
        RememberedPositions(each, 120, lambda _moment: {ONE: (1, 9)}) for each in (trips, elsewhere)
    )
    until(lambda: all(each.recall("st_of-a-shopper")[0] is not None for each in (here, there)))
    # Only then nobody takes the one before it for the primary any more.
    assert len(fleet.primaries()) > 1 or monotonic() - began_at >= SOLE_SECONDS
    assert here.remember("st_of-a-shopper", {ONE: (1, 50)})
    assert there.recall("st_of-a-shopper")[0] == Recalled({ONE: (1, 50)}, {ONE: (1, 9)})
    elsewhere.close()


def test_scripts_that_every_server_has_forgotten_are_sent_again(trips: RoundTrips, fleet: Fleet) -> None:
    limiter, positions = Limiter(trips, 1), RememberedPositions(trips, 120, lambda _moment: {})
    ada = Limit(Policy("session", 9, 60), "ada")
    for remaining in (8, 7):
        for server in fleet.servers:
            server.admin.script_flush()
        asked = trips.ask(("SET", f"x{TAGS[2]}", 1), limiter.question([ada]), ("GET", f"x{TAGS[2]}"))
        assert [asked[0].value, asked[2].value] == [b"OK", b"1"]
        decided = limiter.hear([ada], asked[1])
        assert (decided.shared, decided.standings[0].remaining) == (True, remaining)
        positions.remember("st_of-a-shopper", {ONE: (1, 50)})
    assert values(trips, ("EXISTS", "position-marker:{positions}")) == [0]


def test_replies_come_in_the_order_of_their_commands_from_who_has_the_key(
    trips: RoundTrips, fleet: Fleet
) -> None:
    commands: list[Command] = [("SET", f"{number}{tag}", number) for number in range(3) for tag in TAGS]
    commands += [("GET", f"{number}{tag}") for number in range(3) for tag in TAGS]
    replies = trips.ask(*commands)
    assert [reply.value for reply in replies] == [b"OK"] * 9 + [b"0"] * 3 + [b"1"] * 3 + [b"2"] * 3
    primaries = {str(server.admin.info("server")["run_id"]) for server in fleet.primaries()}
    assert {reply.server.run_id.partition("-")[0] for reply in replies} == primaries
    by_key = dict(zip((command[1] for command in commands), replies, strict=True))
    for key, reply in by_key.items():
        where = owner(fleet, str(key)) if len(primaries) > 1 else fleet.primaries()[0]
        assert reply.server.run_id.startswith(str(where.admin.info("server")["run_id"]))


def test_all_commands_of_one_server_are_one_packet(trips: RoundTrips, fleet: Fleet) -> None:
    """A server reads once what was sent at once; it counts how often it read."""
    trips.ask(*(("GET", tag) for tag in TAGS))
    commands = [("GET", f"{number}{tag}") for number in range(20) for tag in TAGS]
    admins = [server.admin for server in fleet.primaries()]

    def reads() -> list[int]:
        return [int(admin.info("stats")["total_reads_processed"]) for admin in admins]

    def read_meanwhile() -> list[int]:
        before = reads()
        trips.ask(*commands)
        return [after - earlier for earlier, after in zip(before, reads(), strict=True)]

    # The packet, and the question how many. Now and then also what replicas and sentinels send.
    assert min(max(read_meanwhile()) for _ in range(5)) == 2
