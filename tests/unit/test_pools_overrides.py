"""What pools/ replaces of psycopg_pool is private there: an upgrade that renames it must not pass unnoticed."""

from __future__ import annotations

import inspect

import psycopg
import pytest
from psycopg_pool import ConnectionPool
from psycopg_pool.pool import WaitingClient

from pools.connection import ShardConnection
from pools.pool import NodePool
from pools.supply import Supply


@pytest.mark.parametrize(
    "name",
    [
        "_add_connection",
        "_return_connection",
        "_close_connection",
        "_start_initial_tasks",
        "getconn",
        "putconn",
    ],
)
def test_a_method_that_is_replaced_is_still_one_of_psycopgs_pool(name: str) -> None:
    theirs = inspect.signature(getattr(ConnectionPool, name)).parameters
    ours = inspect.signature(getattr(NodePool, name)).parameters

    assert list(theirs) == list(ours)


def test_attributes_that_are_used_of_psycopgs_pool_are_there() -> None:
    pool = ConnectionPool(open=False)
    used = (
        "_pool",
        "_waiting",
        "_lock",
        "_closed",
        "_nconns",
        "_min_size",
        "_drained_at",
        "_pool_full_event",
    )

    assert [name for name in used if not hasattr(pool, name)] == []
    # Where ours would hide one of theirs.
    own = (
        "_live",
        "_missing",
        "_refusing",
        "_probe",
        "_last_return",
        "_last_logged",
        "_stalled_at",
        "_process",
        "_by_store",
        "_kept",
        "_latest_store",
        "_latest_since",
        "_held",
        "_hand_over",
        "_may_have_another",
        "_may_take",
        "_check_room",
    )
    assert [name for name in own if hasattr(pool, name)] == []


def test_psycopgs_pool_does_not_make_or_add_connections_past_the_supply() -> None:
    """These methods of theirs would count or give out connections without the supply knowing."""
    unused = ("_get_ready_connection", "_getconn_unchecked", "_maybe_grow_pool", "_add_to_pool", "_putconn")
    sources = inspect.getsource(NodePool) + inspect.getsource(Supply)

    assert [name for name in unused if f"self.{name}(" in sources] == []
    assert all(hasattr(ConnectionPool, name) for name in unused)


def test_a_waiter_is_told_once() -> None:
    waiter: WaitingClient[ShardConnection] = WaitingClient()

    assert waiter.fail(TimeoutError())
    assert not waiter.fail(TimeoutError())


def test_every_exchange_of_a_connection_goes_through_wait() -> None:
    assert "interval" in inspect.signature(psycopg.Connection.wait).parameters
    assert "timeout" in inspect.signature(psycopg.waiting.wait).parameters
