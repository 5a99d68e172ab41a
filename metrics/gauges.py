"""What is so at a moment: set once a second in every worker, off every request's path."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import nan
from typing import Protocol

from prometheus_client import Gauge

from metrics import definitions as of

# (gauge, labels) of a series, and its value.
Series = tuple[Gauge, tuple[str, ...]]


class PoolGauge(Protocol):
    @property
    def size(self) -> int: ...
    @property
    def available(self) -> int: ...
    @property
    def waiting(self) -> int: ...


class Pool(Protocol):
    @property
    def name(self) -> str: ...
    def gauge(self) -> PoolGauge: ...


class NodeState(Protocol):
    @property
    def role(self) -> str: ...
    @property
    def healthy(self) -> bool: ...
    @property
    def replay_lag_bytes(self) -> int | None: ...
    @property
    def replay_lag_seconds(self) -> float | None: ...


class Pools(Protocol):
    """What `refresh` looks at: the worker's pool registry."""

    def pools(self) -> Iterable[Pool]: ...
    def take_statements(self) -> Mapping[str, int]:
        """Statements sent since the last time, by node."""


_seen: set[Series] = set()


def refresh(
    registry: Pools,
    states: Mapping[str, NodeState],
    away: Mapping[str, bool],
    moves: Mapping[str, int] | None,
) -> None:
    """Set this worker's gauges to what its pools and nodes are now, and count what was sent since the last time.

    `away`: which Redis-compatible servers are, by name. `moves`: how many are in which state; None: not known.
    """
    for node, sent in registry.take_statements().items():
        of.statements.labels(node).inc(sent)
    of.workers.set(1)
    now = {
        (gauge, labels): value
        for source in (_of_pools(registry), _of_nodes(states))
        for gauge, labels, value in source
    }
    now |= {(of.breaker_open, (name,)): float(is_away) for name, is_away in away.items()}
    now |= {(of.moves, (state,)): float(count) for state, count in (moves or {}).items()}
    for (gauge, labels), value in now.items():
        gauge.labels(*labels).set(value)
    # A series cannot be taken out of a worker's file, so NaN stands for "gone" and is left out of the answer.
    for gauge, labels in _seen - now.keys():
        gauge.labels(*labels).set(nan)
    _seen.update(now)


def _of_pools(registry: Pools) -> Iterator[tuple[Gauge, tuple[str, ...], float]]:
    for pool in registry.pools():
        name, gauge = pool.name, pool.gauge()
        yield of.pool_connections, (name, "available"), gauge.available
        yield of.pool_connections, (name, "in_use"), max(gauge.size - gauge.available, 0)
        yield of.pool_waiting, (name,), gauge.waiting


def _of_nodes(states: Mapping[str, NodeState]) -> Iterator[tuple[Gauge, tuple[str, ...], float]]:
    for name, state in states.items():
        yield of.node_up, (name,), 1 if state.healthy else 0
        if state.role == "replica" and state.replay_lag_bytes is not None:
            yield of.replica_lag_bytes, (name,), state.replay_lag_bytes
        if state.role == "replica" and state.replay_lag_seconds is not None:
            yield of.replica_lag_seconds, (name,), state.replay_lag_seconds
