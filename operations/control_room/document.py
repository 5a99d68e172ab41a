"""The document itself: what each part is made of. docs/control-room.md says what its fields mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metrics.totals import Totals
from moves.record import Move
from operations.control_room.events import Event
from operations.control_room.traffic import traffic
from operations.control_room.watch import Look
from operations.topology import pool_name
from pools.node import NodeState
from routing.catalog import Snapshot


@dataclass(frozen=True, slots=True)
class Found:
    """What this worker knows by itself. Times in seconds since 1970; `since`: when a node's word last changed."""

    at: float
    began: float
    look: Look
    states: Mapping[str, NodeState]
    since: Mapping[str, float]
    stores: Mapping[str, int | None]


def figures(snapshot: Snapshot, found: Found, totals: Totals) -> dict[str, Any]:
    """All of the document that does not depend on who asks."""
    shard_map = snapshot.map
    return {
        "at": found.at,
        "started_at": found.began,
        "workers": int(totals.sum("workers")),
        "epoch": shard_map.epoch,
        "flags": snapshot.flags.as_dict(),
        "shards": [
            {
                "name": shard.name,
                "share": shard_map.share(shard.name),
                "stores": found.stores.get(shard.name),
                "timeline": found.look.shards.get(shard.name, (None, 0))[1] or None,
                "nodes": [
                    _node(node.name, shard.name, found, totals)
                    for node in shard_map.nodes
                    if node.shard == shard.name
                ],
            }
            for shard in shard_map.shards
        ],
        "traffic": traffic(totals),
        "cache": {
            **_totals(totals, "cache_requests_total", "result"),
            "reads_total": totals.sum("reads_total", served_by="cache"),
        },
        "limiter": _totals(totals, "limiter_decisions_total", "decision"),
        "locks": {
            **_totals(totals, "lock_requests_total", "outcome"),
            "wait_seconds_total": totals.sum("lock_wait_seconds_sum"),
            "waits_total": totals.sum("lock_wait_seconds_bucket"),
        },
        "servers": [
            {"name": name, "away": away > 0}
            for name, away in sorted(totals.by("breaker_open", "server").items())
        ],
    }


def _totals(totals: Totals, name: str, label: str) -> dict[str, float]:
    return {f"{value}_total": count for value, count in totals.by(name, label).items()}


def _node(name: str, shard: str, found: Found, totals: Totals) -> dict[str, Any]:
    state = found.states.get(name, NodeState(name))
    pool = pool_name(shard, name, state.role)
    is_known = state.timeline > 0 or state.healthy
    return {
        "name": name,
        "role": state.role,
        "state": found.look.nodes.get(name, "unknown"),
        "since": found.since.get(name),
        "timeline": state.timeline or None,
        "lsn": f"{state.lsn >> 32:X}/{state.lsn & 0xFFFFFFFF:X}" if is_known else None,
        "lsn_bytes": state.lsn if is_known else None,
        "replay_lag_bytes": state.replay_lag_bytes,
        "replay_lag_seconds": state.replay_lag_seconds,
        "connections": {
            "in_use": totals.sum("pool_connections", pool=pool, state="in_use"),
            "available": totals.sum("pool_connections", pool=pool, state="available"),
            "waiting": totals.sum("pool_waiting", pool=pool),
        },
        "statements_total": totals.sum("statements_total", node=name),
        "reads_total": totals.sum("reads_total", served_by=name),
    }


def event_row(event: Event, *, operator: bool) -> dict[str, Any]:
    """An event; which store it is about, the operator alone is told."""
    return {
        "id": event.id,
        "at": event.at,
        "kind": event.kind,
        "level": event.level,
        "subject": event.store_id if operator and event.store_id else event.subject,
        "text": event.text,
    }


def move_row(move: Move, *, operator: bool) -> dict[str, Any]:
    """A move; which store it is, and what went wrong with it, the operator alone is told."""
    return {
        "id": str(move.id) if operator else None,
        "store_id": str(move.store_id) if operator else None,
        "from_shard": move.from_shard,
        "to_shard": move.to_shard,
        "state": move.state,
        "step": move.step,
        "rows_total": move.rows_total,
        "rows_copied": move.rows_copied,
        "lag_bytes": move.lag_bytes,
        "write_pause_ms": move.write_pause_ms,
        "started_at": move.started_at.timestamp(),
        "finished_at": move.finished_at.timestamp() if move.finished_at else None,
        "can_be_undone": move.is_undecided or (move.state == "done" and move.tidied_at is None),
        "error": move.error if operator else None,
    }
