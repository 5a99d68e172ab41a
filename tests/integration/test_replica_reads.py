"""Which node answers a read, and that it is never one that lacks what the reader must see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from time import monotonic

import pytest

from config import Settings
from routing.token import Position
from tests.cluster_fixtures import Databases, fresh_databases
from tests.shard_servers import Servers, running_servers, until
from tests.workers import Worker
from tests.workers import worker as running_worker

REPLICAS = ("shard-0-b", "shard-0-c")


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with running_servers(shards=1, replicas=2) as servers:
        yield servers


@pytest.fixture(scope="module")
def databases(servers: Servers) -> Iterator[Databases]:
    with fresh_databases(servers.cluster) as databases:
        yield databases


@pytest.fixture(scope="module")
def settings(databases: Databases) -> Settings:
    return databases.settings


@pytest.fixture(scope="module")
def worker(settings: Settings) -> Iterator[Worker]:
    # No limit on lag, so that a replica which is held still stays in the choice.
    with running_worker(settings, replica_max_lag_seconds=100.0) as worker:
        until(lambda: len(worker.market.replay.shard("shard-0").replicas) == 2)
        yield worker


@contextmanager
def paused(servers: Servers, *nodes: str) -> Iterator[None]:
    """Replicas that go on receiving and replay nothing."""
    with ExitStack() as stack:
        for node in nodes:
            servers.sql(node, "SELECT pg_wal_replay_pause()")
            stack.callback(servers.sql, node, "SELECT pg_wal_replay_resume()")
            until(partial(is_paused, servers, node))
        yield


def is_paused(servers: Servers, node: str) -> bool:
    return servers.sql(node, "SELECT pg_get_wal_replay_pause_state()") == [("paused",)]


def remembers(worker: Worker, credential: str) -> bool:
    """Whether the worker trusts what is remembered."""
    return worker.market.memory.recall(worker.scope(credential=credential))


def caught_up(worker: Worker) -> bool:
    """Whether every replica may be read and has all there is."""
    replicas = worker.market.replay.shard("shard-0").replicas
    return len(replicas) == 2 and all(
        worker.market.replay.states()[name].replay_lag_bytes == 0 for name in replicas
    )


@pytest.fixture(autouse=True)
def _begin_caught_up(worker: Worker) -> None:
    until(lambda: caught_up(worker))


def test_readers_who_have_written_nothing_take_turns_on_the_replicas(worker: Worker) -> None:
    nodes = Counter(worker.read(worker.scope())[1] for _ in range(100))

    assert set(nodes) == set(REPLICAS)
    assert max(nodes.values()) - min(nodes.values()) <= 10


def test_who_has_just_written_sees_it_on_a_replica(worker: Worker) -> None:
    nodes: Counter[str] = Counter()
    for price in range(1, 101):
        scope = worker.scope()
        version = worker.write(scope, price)
        seen, node = worker.read(worker.scope(scope.positions))
        assert seen >= version
        nodes[node] += 1

    assert nodes["shard-0-a"] <= 20  # a busy machine may keep a replica from being there within 10 ms


def test_who_has_written_does_not_read_from_a_replica_that_has_not_replayed_it(
    servers: Servers, worker: Worker
) -> None:
    with paused(servers, *REPLICAS):
        scope = worker.scope()
        version = worker.write(scope, 7)
        for _ in range(6):
            assert worker.read(worker.scope(scope.positions)) == (version, "shard-0-a")
        old, node = worker.read(worker.scope())
        assert node in REPLICAS
        assert old == version - 1


def test_the_replica_that_has_replayed_it_answers_alone(servers: Servers, worker: Worker) -> None:
    with paused(servers, "shard-0-b"):
        scope = worker.scope()
        version = worker.write(scope, 8)
        until(lambda: worker.read(worker.scope(scope.positions)) == (version, "shard-0-c"))
        # Behind for longer than a guard would wait, so it is not even asked.
        until(lambda: worker.market.replay.shard("shard-0").replicas["shard-0-b"].lag_seconds > 0.2)
        for _ in range(10):
            assert worker.read(worker.scope(scope.positions))[0] == version


def test_a_write_waits_for_no_replica_that_is_still(servers: Servers, worker: Worker) -> None:
    with paused(servers, *REPLICAS):
        scope = worker.scope()
        before = worker.write(scope, 1)
        assert worker.write(scope, 2) == before + 1


def test_what_was_seen_once_does_not_vanish_on_another_replica(servers: Servers, worker: Worker) -> None:
    with paused(servers, "shard-0-c"):
        version = worker.write(worker.scope(), 9)
        seen = worker.scope()
        until(lambda: worker.read(seen) == (version, "shard-0-b"))
        for _ in range(10):
            again = worker.scope(seen.positions)
            assert worker.read(again)[0] == version


def test_what_was_seen_on_the_primary_does_not_vanish_on_a_replica(servers: Servers, worker: Worker) -> None:
    with paused(servers, *REPLICAS):
        version = worker.write(worker.scope(), 10)
        seen = worker.scope()
        seen.flags = seen.flags.with_flag("read_replicas", enabled=False)
        assert worker.read(seen) == (version, "shard-0-a")
        assert worker.read(worker.scope(seen.positions)) == (version, "shard-0-a")


def test_with_the_flag_off_every_read_goes_to_the_primary(worker: Worker) -> None:
    off = worker.market.maps.current().flags.with_flag("read_replicas", enabled=False)
    for _ in range(10):
        scope = worker.scope()
        scope.flags = off
        assert worker.read(scope)[1] == "shard-0-a"


def test_a_store_that_a_replica_does_not_know_yet_is_found_on_the_primary(
    servers: Servers, settings: Settings
) -> None:
    with paused(servers, *REPLICAS), running_worker(settings, replica_max_lag_seconds=100.0) as late:
        until(lambda: len(late.market.replay.shard("shard-0").replicas) == 2)
        assert late.read(late.scope())[1] == "shard-0-a"


def test_a_replica_beyond_a_limit_is_left_out_until_it_has_caught_up(
    servers: Servers, settings: Settings
) -> None:
    for limit in ({"replica_max_lag_seconds": 0.2}, {"replica_max_lag_bytes": 100}):
        with running_worker(settings, **limit) as strict:
            until(lambda: caught_up(strict))
            with paused(servers, "shard-0-b"):
                strict.write(strict.scope(), 11)
                until(lambda: set(strict.market.replay.shard("shard-0").replicas) == {"shard-0-c"})
                assert {strict.read(strict.scope())[1] for _ in range(10)} == {"shard-0-c"}
            until(lambda: caught_up(strict))
            assert {strict.read(strict.scope())[1] for _ in range(10)} == set(REPLICAS)


def test_an_idle_primary_makes_no_replica_late(settings: Settings) -> None:
    with running_worker(settings, replica_max_lag_seconds=0.1) as strict:
        until(lambda: caught_up(strict))
        rounds: dict[float, int] = {}

        def look() -> bool:
            state = strict.market.replay.shard("shard-0")
            rounds[state.made_at] = len(state.replicas)
            return len(rounds) > 40  # two seconds, of which the limit is a twentieth

        until(look)
        assert (
            sum(count == 2 for count in rounds.values()) >= 30
        )  # the server's own records come now and then


def test_weights_share_out_the_reads(settings: Settings) -> None:
    with running_worker(settings, replica_weights="shard-0-b=3") as weighted:
        until(lambda: caught_up(weighted))
        nodes = Counter(weighted.read(weighted.scope())[1] for _ in range(40))
        assert nodes == {"shard-0-b": 30, "shard-0-c": 10}
    with running_worker(settings, replica_weights="shard-0-b=0") as weighted:
        until(lambda: len(weighted.market.replay.shard("shard-0").replicas) == 1)
        assert {weighted.read(weighted.scope())[1] for _ in range(10)} == {"shard-0-c"}


def test_a_position_of_another_cluster_asks_nothing_of_this_one(worker: Worker) -> None:
    elsewhere = {42: Position(42, 9, 2**60)}

    assert {worker.read(worker.scope(elsewhere))[1] for _ in range(10)} == set(REPLICAS)


def test_a_credential_alone_is_enough_on_another_worker(
    servers: Servers, settings: Settings, worker: Worker
) -> None:
    with running_worker(settings, replica_max_lag_seconds=100.0) as other:
        for one in (worker, other):
            until(partial(remembers, one, "st_alone"))
        with paused(servers, *REPLICAS):
            scope = worker.scope(credential="st_alone")
            version = worker.write(scope, 12)
            worker.market.memory.keep(scope)
            bystander = Worker(other.market, worker.store_id, worker.product_id)
            assert bystander.read(bystander.scope(credential="st_alone")) == (version, "shard-0-a")
            assert bystander.read(bystander.scope(credential="st_another"))[1] in REPLICAS


def test_what_a_credential_has_read_is_remembered_too(
    servers: Servers, settings: Settings, worker: Worker
) -> None:
    until(lambda: remembers(worker, "st_reader"))
    with paused(servers, "shard-0-c"):
        version = worker.write(worker.scope(), 13)
        seen = worker.scope(credential="st_reader")
        until(lambda: worker.read(seen)[0] == version)
        worker.market.memory.keep(seen)
        for _ in range(10):
            assert worker.read(worker.scope(credential="st_reader"))[0] == version


def test_a_write_that_could_not_be_remembered_has_the_replicas_asked_at_once(
    servers: Servers, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next round of samples would come in an hour."""
    monkeypatch.setattr("routing.replay.FRESH_SECONDS", 3600.0)
    with running_worker(settings) as worker:
        replay, moment = worker.market.replay, monotonic()
        replay._interval_seconds = 3600.0
        until(lambda: replay.shard("shard-0").made_at > moment)
        scope = worker.scope(credential="st_of-a-shopper")
        servers.freeze("redis")
        try:
            worker.write(scope, 7)
            worker.market.memory.keep(scope)
        finally:
            servers.thaw("redis")
        (written,) = scope.positions.values()
        assert all(replay.states()[name].lsn >= written.lsn for name in REPLICAS)
