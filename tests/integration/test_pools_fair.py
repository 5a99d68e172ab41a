"""How stores share a pool: who is served next, what is kept for others, who gives way where the line is full."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from devcluster.topology import HOST
from errors import PoolExhausted
from pools import Node, NodePool, ShardConnection
from tests.cluster_fixtures import Databases
from tests.shard_servers import until
from tests.watched_pools import WatchedPools

WHALE, SHOP, OTHER = 1, 2, 3

Open = Callable[..., NodePool]


@pytest.fixture
def opened(databases: Databases) -> Iterator[Open]:
    """A pool with these settings, once all its connections are there."""
    with ExitStack() as closing:

        def open_pool(**changed: Any) -> NodePool:
            settings = replace(databases.settings, **{"pool_timeout_seconds": 30.0, **changed})
            registry = WatchedPools(settings, "worker-1")
            closing.callback(registry.close)
            nodes = databases.cluster.topology.nodes("shard-0")
            registry.apply([Node(node.name, node.shard, HOST, node.port) for node in nodes])
            pool = registry.primary("shard-0")
            until(lambda: pool.gauge().available == settings.pool_size)
            return pool

        yield open_pool


@pytest.fixture(autouse=True)
def together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever used the pool, it is not long ago: however long a busy machine lets a test wait in between."""
    monkeypatch.setattr("pools.supply.OTHERS_SECONDS", 3600.0)


@pytest.fixture
def alone(together: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever used the pool, it is long ago."""
    monkeypatch.setattr("pools.supply.OTHERS_SECONDS", -1.0)


class Queue:
    """Requests that wait for a pool, in threads; `served` has the names of those that were, in their order."""

    def __init__(self, pool: NodePool, threads: ThreadPoolExecutor) -> None:
        self.pool = pool
        self.served: list[str] = []
        self._threads = threads

    def join(self, store: int, name: str) -> Future[ShardConnection]:
        """One more request, once it is in line."""
        before = self.pool.gauge().waiting
        future = self._threads.submit(self._take, store, name)
        until(lambda: self.pool.gauge().waiting > before)
        return future

    def _take(self, store: int, name: str) -> ShardConnection:
        connection = self.pool.lend(store)
        self.served.append(name)
        return connection


@contextmanager
def queue(pool: NodePool) -> Iterator[Queue]:
    with ThreadPoolExecutor(16) as threads:
        yield Queue(pool, threads)


def use(pool: NodePool, store: int) -> None:
    with pool.connection(store=store):
        pass


# Turns


def test_the_store_that_holds_fewest_is_served_next_whoever_came_first(opened: Open) -> None:
    pool = opened(pool_size=2, store_pool_share=1.0)
    held = [pool.lend(WHALE), pool.lend(WHALE)]
    with queue(pool) as line:
        first = line.join(WHALE, "whale")
        second = line.join(SHOP, "shop")
        pool.putconn(held.pop())
        connection = second.result(timeout=30)
        assert line.served == ["shop"]
        assert not first.done()
        pool.putconn(connection)
        pool.putconn(first.result(timeout=30))
    pool.putconn(held.pop())


def test_stores_take_turns_where_there_is_one_connection(opened: Open) -> None:
    pool = opened(pool_size=1)
    held = pool.lend(WHALE)
    with queue(pool) as line:
        waiting = [line.join(WHALE, f"whale {number}") for number in (1, 2, 3)]
        waiting += [line.join(SHOP, "shop 1"), line.join(SHOP, "shop 2"), line.join(OTHER, "other")]
        pool.putconn(held)
        while waiting:
            until(lambda: any(future.done() for future in waiting))
            (given,) = [future for future in waiting if future.done()]
            waiting.remove(given)
            pool.putconn(given.result())
    assert line.served == ["whale 1", "shop 1", "other", "whale 2", "shop 2", "whale 3"]


def test_with_a_share_of_nothing_it_is_first_come_first_served(opened: Open) -> None:
    pool = opened(pool_size=1, store_pool_share=0.0)
    held = pool.lend(WHALE)
    with queue(pool) as line:
        first, second = line.join(WHALE, "whale"), line.join(WHALE, "whale")
        third = line.join(SHOP, "shop")
        pool.putconn(held)
        for future in (first, second, third):
            pool.putconn(future.result(timeout=30))
    assert line.served == ["whale", "whale", "shop"]


# What is kept for others


def test_the_last_connection_is_kept_for_others_while_they_use_the_pool(opened: Open) -> None:
    pool = opened(pool_size=4)
    use(pool, SHOP)
    held = [pool.lend(WHALE) for _ in range(3)]
    with queue(pool) as line:
        one_more = line.join(WHALE, "whale")
        assert pool.gauge().available == 1
        use(pool, SHOP)  # waits for nothing, and leaves what it had to nobody but others
        use(pool, OTHER)
        assert pool.gauge().available == 1
        assert not one_more.done()
        pool.putconn(held.pop())
        held.append(one_more.result(timeout=30))
    for connection in held:
        pool.putconn(connection)
    assert pool.gauge().available == 4


def test_what_a_store_was_given_in_line_is_part_of_what_it_holds(opened: Open) -> None:
    pool = opened(pool_size=2, store_pool_share=0.5)
    use(pool, SHOP)
    held = [pool.lend(None), pool.lend(None)]
    with queue(pool) as line:
        first, second = line.join(WHALE, "whale"), line.join(WHALE, "whale")
        pool.putconn(held.pop())  # at once, before whoever it is given to has woken up
        pool.putconn(held.pop())
        assert (pool.gauge().available, pool.gauge().waiting) == (1, 1)
        for future in (first, second):
            pool.putconn(future.result(timeout=30))


def test_a_store_that_nobody_shares_a_pool_with_may_have_all_of_it(opened: Open, alone: None) -> None:
    pool = opened(pool_size=4)
    use(pool, SHOP)
    held = [pool.lend(WHALE) for _ in range(4)]
    assert pool.gauge().available == 0
    for connection in held:
        pool.putconn(connection)


@pytest.mark.parametrize("size", [1, 2])
def test_nothing_is_kept_of_a_pool_too_small_for_it(opened: Open, size: int) -> None:
    pool = opened(pool_size=size)
    use(pool, SHOP)
    held = [pool.lend(WHALE) for _ in range(size)]
    for connection in held:
        pool.putconn(connection)


@pytest.mark.parametrize("size", [1, 2])
def test_however_small_its_share_a_store_has_one_connection(opened: Open, size: int) -> None:
    pool = opened(pool_size=size, store_pool_share=0.01)
    use(pool, SHOP)
    with pool.connection(store=WHALE):
        assert pool.gauge().available == size - 1
        if size > 1:
            use(pool, SHOP)


def test_requests_of_no_store_are_not_held_back(opened: Open) -> None:
    pool = opened(pool_size=2, store_pool_share=0.5)
    use(pool, SHOP)
    held = [pool.lend(None), pool.lend(None)]
    for connection in held:
        pool.putconn(connection)


def test_a_store_at_its_limit_waits_in_vain_without_spoiling_it_for_others(opened: Open) -> None:
    pool = opened(pool_size=2, store_pool_share=0.5, pool_timeout_seconds=0.05)
    use(pool, SHOP)
    with pool.connection(store=WHALE):
        with pytest.raises(PoolExhausted) as refused:
            pool.lend(WHALE)
        assert refused.value.retry_after_seconds == 1
        # Nothing came back meanwhile; but the pool is not at a standstill: two may wait for the one that is free.
        shop = pool.lend(SHOP)
        with queue(pool) as line:
            pool.timeout = 30.0
            waiting = [line.join(OTHER, "other"), line.join(OTHER, "other")]
            pool.putconn(shop)
            pool.putconn(waiting[0].result(timeout=30))
            pool.putconn(waiting[1].result(timeout=30))


# A full line


def test_where_the_line_is_full_the_store_with_most_in_it_gives_way(opened: Open) -> None:
    pool = opened(pool_size=1, pool_max_waiting=3)
    held = pool.lend(WHALE)
    with queue(pool) as line:
        waiting = [line.join(WHALE, f"whale {number}") for number in (1, 2, 3)]
        with pytest.raises(PoolExhausted):
            pool.lend(WHALE)
        shop = line._threads.submit(line._take, SHOP, "shop")
        assert isinstance(waiting[2].exception(timeout=30), PoolExhausted)  # whoever came last
        assert pool.gauge().waiting == 3
        with pytest.raises(PoolExhausted):
            pool.lend(SHOP)  # it would have as many as the whale has
        pool.putconn(held)
        pool.putconn(waiting[0].result(timeout=30))
        pool.putconn(shop.result(timeout=30))
        pool.putconn(waiting[1].result(timeout=30))
    assert line.served == ["whale 1", "shop", "whale 2"]
