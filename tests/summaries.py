"""Results of a benchmark, made up: as the runner writes them to summary.json."""

from __future__ import annotations

from typing import Any

CURVE = ((50, 0.1), (90, 0.4), (99, 1), (99.9, 2), (99.99, 3))


def stage(name: str, p99_ms: float | None, **more: Any) -> dict[str, Any]:
    """A stage as the runner writes it, with three rounds that are 4 % apart."""
    near = [] if p99_ms is None else [p99_ms * part for part in (0.98, 1, 1.02)]
    found = {
        "name": name,
        "p50_ms": p99_ms and p99_ms / 8,
        "p95_ms": p99_ms and p99_ms / 2,
        "p99_ms": p99_ms,
        "p999_ms": p99_ms and p99_ms * 2,
        "max_ms": p99_ms and p99_ms * 3,
        "requests": 30000,
        "requests_per_second": 1000,
        "error_rate": 0,
        "wrong_answers": 0,
        "dropped_iterations": 0,
        "cpu_seconds": {"http": 20, "postgres": 12, "redis": 1, "k6": 6},
        "cpu_seconds_by_node": {"shard-0-a": 8, "shard-0-b": 2, "shard-1-a": 2},
        "statements": {"shard-0-a": 20000, "shard-0-b": 100, "shard-1-a": 0},
        "rows": {"shard-0-a": 200000, "shard-0-b": 0},
        "wal_bytes": {"shard-0-a": 30_000_000},
        "throttled_seconds": {"shard-0-a": 0.1},
        "cache_hit_rate": None,
        "replica_lag_bytes": {"p50": 200, "max": 1_400_000},
        "pool_wait_ms": {"p50": 0.1, "p99": 2.5},
        "errors": {},
        "kinds": {
            kind: {"requests": 1000, "p50_ms": p99_ms and p99_ms / 9, "p99_ms": p99_ms} for kind in ("list", "order")
        },
        "over_time": [{"second": n, "p50_ms": 5 + n % 3, "p99_ms": p99_ms, "errors": 0} for n in range(30)],
        "percentiles": [[p, (p99_ms or 1) * part] for p, part in CURVE],
        "rounds": [{"p99_ms": value, "requests_per_second": 1000} for value in near],
        "faults": [],
    }  # fmt: skip
    return {**found, **more}


def summary(*stages: dict[str, Any], **more: Any) -> dict[str, Any]:
    found = {
        "commit": "abc123",
        "started_at": "2026-11-23T12:00:00Z",
        "machine": {"cpus": 2, "memory_bytes": 8_000_000_000},
        "versions": {"postgres": "18.6", "k6": "1.1.0"},
        "settings": {"rate": 1000, "rounds": 3, "budgets": {"postgres": 0.12, "enforced": "cgroup v1"}},
    }
    return {**found, **more, "stages": list(stages)}


def five_stages() -> dict[str, Any]:
    dropped = {"dropped_iterations": 8000, "requests": 22000, "requests_per_second": 733, "error_rate": 0.021}
    return summary(
        stage(
            "baseline", 4200, **dropped, errors={"503": 400, "timeout": 62}, throttled_seconds={"shard-0-a": 24.5},
            rounds=[{"p99_ms": value, "requests_per_second": 733} for value in (3900, 4200, 4700)],
        ),
        stage("+replicas", 310, statements={"shard-0-a": 8000, "shard-0-b": 12000, "shard-1-a": 0}),
        stage("+cache", 305, cache_hit_rate=0.83, statements={"shard-0-a": 7000, "shard-0-b": 2000, "shard-1-a": 0}),
        stage("+sharding", 61, statements={"shard-0-a": 3600, "shard-0-b": 900, "shard-1-a": 3500, "shard-1-b": 1100}),
        stage("everything", 80, flags={"sharding": True, "rate_limit": True}),
    )  # fmt: skip
