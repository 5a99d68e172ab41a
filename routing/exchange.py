"""One exchange with one server: a connection for its length, timed, and its failures in this service's words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import psycopg

from errors import CommitInDoubt, LeaseOver, StaleEpoch, StatementDeadline, Unavailable
from pools.connection import ShardConnection
from pools.pool import NodePool
from routing.scope import Scope
from sql.loader import Query

STALE_EPOCH = "SE001"  # raised by fence_store()
GATE_SHUT = "SE002"  # raised by enter_gate()
LEASE_OVER = "SE003"  # raised by check_lease()
SWITCHING = "SE004"  # raised by refuse_while_switching()

# Answers that mean "not now": the server gave the statement up, and rolled it back. On a replica the first is also
# what a read gets that stands in the way of replay.
_GIVEN_UP = (
    psycopg.errors.QueryCanceled,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
    psycopg.errors.InsufficientResources,
    psycopg.errors.ReadOnlySqlTransaction,
)


class NotAnsweredError(Unavailable):
    """A read came to nothing because of the server it was sent to: another may answer it."""


class GateShutError(Unavailable):
    """The primary takes no writes any more, for another node is being promoted. Nothing was done."""


class SwitchingError(Unavailable):
    """The store is changing its shard, and takes no writes for a moment. Nothing was done."""


@contextmanager
def exchange(
    scope: Scope, pool: NodePool, shard: str, query: Query, *, writes: bool = False
) -> Iterator[ShardConnection]:
    """A connection of the pool, for this query; what can go wrong on it is raised as one of this service's errors."""
    scope.settle()
    scope.statements += 1
    store = scope.route.store_id.int if scope.route is not None else None
    asked, given = perf_counter(), 0.0
    try:
        with pool.connection(store=store) as connection:
            given = perf_counter()
            scope.spent("pool", given - asked)
            connection.tally.statements += 1
            try:
                yield connection
            finally:
                seconds = perf_counter() - given
                scope.spent("db", seconds)
                scope.sent.append((query.name, connection.node, seconds))
    except StatementDeadline as error:
        if error.phase == "commit":
            raise _lost(shard, writes=True) from error
        raise
    except _GIVEN_UP as error:
        kind = Unavailable if writes else NotAnsweredError
        raise kind(f"{shard} could not do this now.", retry_after_seconds=1) from error
    except psycopg.OperationalError as error:
        # Also where the server says that it is shutting down: it may say so behind the COMMIT.
        raise _lost(shard, writes=writes) from error
    except psycopg.DatabaseError as error:
        refusal = _refusal(error, scope, shard, writes=writes)
        if refusal is None:
            raise
        raise refusal from error
    finally:
        if not given:  # it waited in vain
            scope.spent("pool", perf_counter() - asked)


def _refusal(error: psycopg.DatabaseError, scope: Scope, shard: str, *, writes: bool) -> Exception | None:
    """What the database's own checks mean; None for what is no such answer."""
    if error.sqlstate == STALE_EPOCH:
        return StaleEpoch(str(scope.route))
    if error.sqlstate == GATE_SHUT:
        return GateShutError(f"{shard} takes no writes now.", retry_after_seconds=1)
    if error.sqlstate == SWITCHING:
        return SwitchingError("The store is being moved.", retry_after_seconds=1)
    if error.sqlstate == LEASE_OVER:
        return LeaseOver(str(scope.route))
    if error.sqlstate is None:  # not the server's word: libpq says so where the end came inside a flight
        return _lost(shard, writes=writes)
    return None


def _lost(shard: str, *, writes: bool) -> Unavailable:
    """The connection broke with the statement under way."""
    if not writes:
        return NotAnsweredError(f"{shard} is not available.", retry_after_seconds=1)
    return CommitInDoubt(
        f"{shard} did not confirm the write: it may or may not have happened. "
        "Send it again with the same Idempotency-Key, or look, to know.",
        retry_after_seconds=1,
    )
