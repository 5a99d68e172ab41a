"""Redis Sentinel and a Redis Cluster hand over, move slots and freeze; carts, limiter and positions are in use."""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
from redis.crc import key_slot

from ephemeral.carts import CartKey, Carts
from ephemeral.client import EphemeralUnavailable
from ephemeral.limiter import Limit, Limiter, Policy
from ephemeral.positions import Place, Recalled, RememberedPositions
from ephemeral.round_trip import RoundTrips, UnansweredError
from tests.redis_fleets import (
    Fleet,
    is_primary,
    moving_slot,
    owner,
    running_redis_cluster,
    running_sentinels,
)
from tests.shard_servers import until
from tests.valkey_server import ValkeyServer

ROOT = Path(__file__).resolve().parents[2]
SESSION, ONE = "st_of-a-shopper", 7
FLOOR: dict[int, Place] = {ONE: (1, 100)}
ADA = Limit(Policy("session", 1000, 3600), "ada")


class Process:
    """One process's view. `samples` says whether its sampler reaches the primaries of PostgreSQL."""

    def __init__(self, fleet: Fleet) -> None:
        self.samples = True
        self.trips = RoundTrips.to(fleet.url)
        self.trips.start(30.0)
        self.carts, self.limiter = Carts(self.trips, 60), Limiter(self.trips, 1)
        self._positions = RememberedPositions(
            self.trips, 120, lambda _moment: FLOOR if self.samples else None
        )

    def remember(self, lsn: int) -> bool:
        return self._positions.remember(SESSION, {ONE: (1, lsn)})

    def recall(self) -> Recalled | None:
        return self._positions.recall(SESSION)[0]

    def settle(self) -> Process:
        until(lambda: self.recall() is not None and self.remember(1))
        return self

    def is_shared(self) -> bool:
        return self.limiter.decide([ADA]).shared

    def puts(self, key: CartKey) -> bool:
        """Whether a line can be put into this cart."""
        try:
            self.carts.mark(key)
            self.carts.put(key, uuid.uuid4(), 1, only_present=False)
        except EphemeralUnavailable:
            return False
        return True


def cart_of(fleet: Fleet, server: ValkeyServer) -> CartKey:
    """A cart that this node of a cluster has."""
    keys = (CartKey(uuid.uuid4(), uuid.uuid4(), uuid.uuid4()) for _ in count())
    return next(key for key in keys if owner(fleet, key.keys()[0]) is server)


@pytest.fixture
def sentinels() -> Iterator[Fleet]:
    with running_sentinels() as fleet:
        yield fleet


@pytest.fixture(scope="module")
def running() -> Iterator[Fleet]:
    with running_redis_cluster() as fleet:
        yield fleet


@pytest.fixture
def made(running: Fleet) -> Fleet:
    """The cluster. Who of the first node and its replica is the primary may change."""
    until(lambda: len(running.primaries()) == 3)
    running.empty()
    return running


# Sentinel


def test_a_primary_that_died_with_its_last_writes_is_followed_and_its_heir_not_trusted(
    sentinels: Fleet,
) -> None:
    """The heir has the marker, and not the position that was remembered last."""
    primary, replica = sentinels.servers
    process = Process(sentinels).settle()
    cart = CartKey(uuid.uuid4(), uuid.uuid4(), uuid.uuid4())
    assert process.puts(cart)
    assert process.remember(40)
    until(lambda: primary.admin.wait(1, 100) == 1)
    with replica.frozen():
        primary.admin.client_kill_filter(_type="replica")
        assert process.remember(50)
        process.samples = False
        primary.kill()
    assert not process.is_shared()
    assert not process.puts(cart)
    until(process.is_shared)
    assert is_primary(replica)
    assert process.puts(cart)
    until(lambda: process.remember(60))  # it counts as the only one
    assert [process.recall() for _ in range(3)] == [None] * 3
    process.samples = True
    assert process.recall() == Recalled({ONE: (1, 60)}, FLOOR)
    with sentinels.most_sentinels_frozen():
        until(lambda: not process.remember(70))  # another one may have been named meanwhile
        assert process.recall() is None
        assert process.is_shared()
        assert process.puts(cart)
    process.trips.close()


def test_a_worker_that_slept_through_the_failover_does_not_believe_the_old_primary(sentinels: Fleet) -> None:
    """That one slept as well, and takes itself for the primary until the sentinels come to tell it otherwise."""
    primary, replica = sentinels.servers
    sleeper = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.stopped_worker", sentinels.url],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )

    def said() -> str:
        assert sleeper.stdin is not None
        assert sleeper.stdout is not None
        sleeper.stdin.write("?\n")
        return sleeper.stdout.readline()

    process = Process(sentinels).settle()
    try:
        until(lambda: said().startswith("known"))
        sleeper.send_signal(signal.SIGSTOP)
        with primary.frozen():
            assert not process.is_shared()  # what it is told now it will hear when it goes on
            until(lambda: process.remember(60))
            assert is_primary(replica)
        assert is_primary(primary)
        sleeper.send_signal(signal.SIGCONT)
        first = said()
        assert is_primary(primary)
        assert first == "unknown\n"
    finally:
        sleeper.kill()
        sleeper.communicate()
        process.trips.close()


# Cluster


def test_a_node_that_is_frozen_costs_those_whose_keys_it_has(made: Fleet) -> None:
    limits, other = made.servers[1:3]
    process = Process(made).settle()
    theirs, others = cart_of(made, limits), cart_of(made, other)
    assert process.puts(theirs)
    assert process.puts(others)
    assert process.is_shared()
    asked = [("GET", theirs.keys()[0] + "x"), ("ECHO", others.keys()[0]), ("SET", "{positions}x", 1)]
    with limits.frozen():
        values = [reply.value for reply in process.trips.ask(*asked)]
        assert isinstance(values[0], UnansweredError)
        assert values[1:] == [others.keys()[0].encode(), b"OK"]
        assert not process.puts(theirs)
        assert not process.is_shared()
        assert process.puts(others)
        assert process.remember(50)
        assert process.recall() == Recalled({ONE: (1, 50)}, FLOOR)
        assert len(process.trips.ask_every(("PING",))) == 2
        with pytest.raises(EphemeralUnavailable):
            process.trips.ask(asked[0])
    until(lambda: process.puts(theirs))
    assert process.is_shared()
    process.trips.close()


def test_two_nodes_that_freeze_at_once_leave_the_third_its_answer(made: Fleet) -> None:
    """Though there is no connection to it yet, and the time for all is over when the frozen ones were waited for."""
    process = Process(made).settle()
    asked = [("GET", tag) for tag in ("{positions}", "{limits}", "{a}")]
    process.trips.ask(*asked[:2])
    with made.servers[0].frozen(), made.servers[1].frozen():
        values = [reply.value for reply in process.trips.ask(*asked)]
    assert [isinstance(value, UnansweredError) for value in values] == [True, True, False]
    until(lambda: process.trips.ask(*asked)[0].value is None)
    process.trips.close()


def test_a_slot_on_its_way_is_followed_there(made: Fleet) -> None:
    source, target = made.servers[1:3]
    process = Process(made).settle()
    cart = cart_of(made, source)
    contents, mark, version = cart.keys()
    here, there = (str(server.admin.info("server")["run_id"]) for server in (source, target))

    def answers() -> str:
        """Who says what is in the cart."""
        (reply,) = process.trips.ask(("HGETALL", contents))
        assert reply.value
        return reply.server.run_id.partition("-")[0]

    assert process.puts(cart)
    with moving_slot(made, key_slot(contents.encode()), source, target) as slot:
        assert process.puts(cart)
        assert answers() == here
        slot.move(version)
        assert not process.puts(cart)  # TRYAGAIN: some of its keys are here and some are there
        slot.move(contents, mark)
        assert process.puts(cart)  # ASK, and a script that this node has not seen
        assert len(process.carts.read(cart).quantities) == 3
        assert answers() == there
        assert process.is_shared()
        slot.end()
        assert process.puts(cart)  # MOVED
        assert answers() == there
        before = _redirections(source)
        assert len(process.carts.read(cart).quantities) == 4
        assert _redirections(source) == before
    process.trips.close()


def _redirections(server: ValkeyServer) -> int:
    errors = server.admin.info("errorstats")
    return sum(int(each["count"]) for name, each in errors.items() if name.endswith(("MOVED", "ASK")))


def test_positions_whose_slot_is_on_its_way_are_not_known(made: Fleet) -> None:
    """Entry and marker may lie on two nodes: what one of them says is nothing of the other."""
    source, target = owner(made, "{positions}"), made.servers[2]
    process = Process(made).settle()
    process.samples = False
    with moving_slot(made, key_slot(b"positions"), source, target) as slot:
        assert process.recall() == Recalled({ONE: (1, 1)}, FLOOR)
        (entry,) = source.admin.keys("position:*")
        slot.move(entry)
        assert process.recall() is None
        slot.move("position-marker:{positions}")
        slot.end()
        assert [process.recall() for _ in range(3)] == [None] * 3
        process.samples = True
        assert process.recall() == Recalled({ONE: (1, 1)}, FLOOR)
    process.trips.close()


def test_a_clusters_failover_is_followed_and_the_heir_not_trusted(made: Fleet) -> None:
    primary, replica = sorted((made.servers[0], made.servers[3]), key=is_primary, reverse=True)
    process = Process(made).settle()
    cart = cart_of(made, primary)
    assert process.puts(cart)
    assert process.remember(50)
    until(lambda: primary.admin.wait(1, 100) == 1)
    process.samples = False
    with primary.frozen():
        assert process.recall() is None
        assert not process.puts(cart)
        until(lambda: process.puts(cart))
        assert is_primary(replica)
        assert [process.recall() for _ in range(3)] == [None] * 3
        process.samples = True
        assert process.recall() == Recalled({ONE: (1, 50)}, FLOOR)
    until(lambda: not is_primary(primary))
    assert process.puts(cart)
    process.trips.close()


def test_nobody_there_is_refused_at_once_and_found_when_it_comes(made: Fleet) -> None:
    """Neither seed answers when the process begins."""
    seeds = made.servers[:2]
    with seeds[0].frozen(), seeds[1].frozen():
        trips = RoundTrips.to(made.url)
        for _ in range(100):
            with pytest.raises(EphemeralUnavailable):
                trips.ask(("GET", "{a}"))

    def answers() -> bool:
        with suppress(EphemeralUnavailable):
            return trips.ask(("GET", "{a}"))[0].value is None
        return False

    until(answers)
    trips.close()
