"""What the servers count themselves: statements, rows, WAL, processor time; and how far replicas are behind."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Self

import psutil
import psycopg

from bench.run.budgets import Budgets
from bench.run.ground import Ground
from bench.run.trace import quantile

_LAG_EVERY_SECONDS = 0.2

# The service's own statements: what this program asks is the administrator's. A replica's WAL is what it received.
_COUNTED = """
SELECT coalesce(sum(s.calls), 0)::bigint, coalesce(sum(s.rows), 0)::bigint,
    (SELECT pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END,
        '0/0')::bigint)
FROM pg_stat_statements AS s JOIN pg_roles AS r ON r.oid = s.userid AND r.rolname = 'app'
"""
_LAG = "SELECT coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)), 0)::bigint FROM pg_stat_replication"


@dataclass(frozen=True, slots=True)
class Counted:
    """By node; `cpu_seconds` by process, k6 among them; `throttled_seconds` is empty without budgets."""

    statements: dict[str, int]
    rows: dict[str, int]
    wal_bytes: dict[str, int]
    cpu_seconds: dict[str, float]
    throttled_seconds: dict[str, float]
    machine_seconds: float  # what all processors of the machine did, for anybody


class Counters:
    """Connections that are kept, so that counting costs the servers next to nothing."""

    def __init__(self, ground: Ground, budgets: Budgets, k6: int) -> None:
        self._budgets = budgets
        self._kinds = {name: kind for name, (kind, _) in ground.pids().items()}
        self._pids = {name: pid for name, (_, pid) in ground.pids().items()} | {"k6": k6}
        self._held = ExitStack()
        self._connections = {
            node: self._held.enter_context(ground.servers.connect(node)) for node in ground.servers.nodes
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def read(self) -> Counted:
        cpu = {name: cpu_seconds(pid) for name, pid in self._pids.items()}
        throttled = self._budgets.throttled_seconds()
        counted: dict[str, Any] = {}
        for node, connection in self._connections.items():
            counted[node] = connection.execute(_COUNTED).fetchone()
        columns = [{node: int(row[n]) for node, row in counted.items()} for n in range(3)]
        return Counted(columns[0], columns[1], columns[2], cpu, throttled, _busy_seconds())

    def difference(self, before: Counted, after: Counted) -> dict[str, Any]:
        """As summary.json has it."""
        by_node = _minus(after.cpu_seconds, before.cpu_seconds)
        others = after.machine_seconds - before.machine_seconds - sum(by_node.values())
        kinds = {"http": 0.0, "postgres": 0.0, "redis": 0.0, "k6": by_node.pop("k6")}
        for name, spent in by_node.items():
            kind = self._kinds[name]
            kinds["redis" if kind == "lock" else kind] += spent
        return {
            "statements": _minus(after.statements, before.statements),
            "rows": _minus(after.rows, before.rows),
            "wal_bytes": _minus(after.wal_bytes, before.wal_bytes),
            "cpu_seconds": kinds,
            "cpu_seconds_by_node": by_node,
            # This program's, the system's, and that of whatever else runs on the machine.
            "cpu_seconds_of_others": max(0.0, others),
            "throttled_seconds": _minus(after.throttled_seconds, before.throttled_seconds),
        }


class Lag(threading.Thread):
    """Samples of how many bytes the last replica of any shard has still to replay, until it is told to stop."""

    def __init__(self, ground: Ground) -> None:
        super().__init__(name="lag", daemon=True)
        self._stopping = threading.Event()
        self._servers = ground.servers
        self._primaries = [ground.servers.primary(shard) for shard in ground.servers.shards]
        self._samples: list[float] = []

    def run(self) -> None:
        with ExitStack() as held, suppress(psycopg.Error):
            connections = [held.enter_context(self._servers.connect(node)) for node in self._primaries]
            while not self._stopping.wait(_LAG_EVERY_SECONDS):
                found = [connection.execute(_LAG).fetchone() for connection in connections]
                self._samples.append(max(float(row[0]) for row in found if row))

    def stop(self) -> dict[str, float | None]:
        self._stopping.set()
        self.join()
        ordered = sorted(self._samples)
        return {"p50": quantile(ordered, 50), "max": ordered[-1] if ordered else None}


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(
        times.user + times.nice + times.system + getattr(times, "irq", 0) + getattr(times, "softirq", 0)
    )


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and all below it, those included that have ended and were waited for."""
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
    return total


def _minus(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {name: value - before[name] for name, value in after.items()}
