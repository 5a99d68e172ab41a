"""The file of events: each happening once, whoever says it; small; never waited for."""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Thread
from uuid import UUID

import pytest

from operations.control_room import events as module
from operations.control_room.events import KEPT, SHOWN, EventLog, Happening
from operations.control_room.watch import Look, changes
from pools.node import Node
from routing.ring import PARTITIONS
from routing.shard_map import Pin, Shard, ShardMap


def happening(state: str, subject: str = "shard-0-b") -> Happening:
    return Happening("node", "error", subject, f"is {state}", f"node:{subject}", state)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1_000_000.0]
    monkeypatch.setattr(module, "time", lambda: now[0])
    return now


def test_what_two_workers_notice_is_said_once(tmp_path: Path, clock: list[float]) -> None:
    first, second = EventLog(tmp_path / "events.jsonl"), EventLog(tmp_path / "events.jsonl")
    first.write([happening("silent")])
    clock[0] += 1
    first.write([happening("replica")])
    second.write([happening("silent")])  # late: it has been said, and what came of it too
    second.write([happening("replica")])
    assert [event.state for event in second.after(0)] == ["silent", "replica"]


def test_what_happens_again_is_said_again(tmp_path: Path, clock: list[float]) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    for state in ("silent", "replica", "silent"):
        log.write([happening(state)])
        clock[0] += module.SAME_SECONDS + 1
    assert [event.state for event in log.after(0)] == ["silent", "replica", "silent"]
    assert [event.id for event in log.after(1)] == [2, 3]


def test_the_file_stays_small_and_numbers_go_on(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    for number in range(5 * KEPT):
        log.write([happening("silent", f"node-{number}")])
    assert len(log.events()) <= 2 * KEPT
    assert log.events()[-1].id == 5 * KEPT
    assert len(log.after(0)) == SHOWN
    assert (tmp_path / "events.jsonl").read_bytes().count(b"\n") <= 2 * KEPT


def test_who_holds_the_file_keeps_nobody_waiting(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    with (tmp_path / "events.lock").open("wb") as frozen:
        fcntl.flock(frozen, fcntl.LOCK_EX)
        assert not log.write([happening("silent")])
    assert log.write([happening("silent")])
    assert len(log.after(0)) == 1


def test_writers_at_once_give_each_event_a_number_of_its_own(tmp_path: Path) -> None:
    writers, each = 4, 25
    start = Barrier(writers)

    def write(writer: int) -> None:
        log = EventLog(tmp_path / "events.jsonl")
        start.wait()
        for number in range(each):
            while not log.write([happening("silent", f"node-{writer}-{number}")]):
                pass

    threads = [Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = EventLog(tmp_path / "events.jsonl").events()
    assert [event.id for event in events] == list(range(1, writers * each + 1))
    assert len({event.subject for event in events}) == writers * each


def test_half_a_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.write([happening("silent")])
    with path.open("ab") as file:
        file.write(b'{"id":2,"at":\n')
    assert [event.id for event in log.after(0)] == [1]
    assert os.stat(path).st_mode & 0o777 == 0o600


# What is said of a change


MAP = ShardMap(
    epoch=3,
    shards=(Shard("shard-0"),),
    nodes=(Node("shard-0-a", "shard-0", "127.0.0.1", 1),),
    partitions=(0,) * PARTITIONS,
)


def said(before: Look, now: Look) -> list[tuple[str, str, str]]:
    return [(each.kind, each.subject, each.state) for each in changes(before, now)]


def test_of_a_first_look_only_what_is_wrong_is_said() -> None:
    look = Look(
        nodes={"shard-0-a": "primary", "shard-0-b": "replica", "shard-0-c": "silent"},
        shards={"shard-0": ("shard-0-a", 1)},
        flags={"sharding": True},
        map=MAP,
        away={"redis": False, "lock-0": True},
    )
    assert said(Look(), look) == [("node", "shard-0-c", "silent"), ("server", "lock-0", "away")]


def test_a_failover_is_said_of_the_shard_and_once() -> None:
    before = Look({"shard-0-a": "primary", "shard-0-b": "replica"}, {"shard-0": ("shard-0-a", 1)}, map=MAP)
    during = Look({"shard-0-a": "down", "shard-0-b": "replica"}, {"shard-0": (None, 1)}, map=MAP)
    after = Look({"shard-0-a": "rewinding", "shard-0-b": "primary"}, {"shard-0": ("shard-0-b", 2)}, map=MAP)
    back = Look({"shard-0-a": "replica", "shard-0-b": "primary"}, {"shard-0": ("shard-0-b", 2)}, map=MAP)
    assert said(before, during) == [("node", "shard-0-a", "down"), ("failover", "shard-0", "none")]
    assert said(during, after) == [
        ("node", "shard-0-a", "rewinding"),
        ("failover", "shard-0", "shard-0-b/2"),
    ]
    assert said(after, back) == [("node", "shard-0-a", "replica")]


def test_a_primary_that_was_frozen_is_primary_again() -> None:
    before = Look({"shard-0-a": "silent"}, {"shard-0": (None, 1)})
    now = Look({"shard-0-a": "primary"}, {"shard-0": ("shard-0-a", 1)})
    assert said(before, now) == [("node", "shard-0-a", "primary"), ("failover", "shard-0", "shard-0-a/1")]


def test_flags_shards_and_partitions_that_change_are_said_and_pins_are_not() -> None:
    off = Look(flags={"redis_cache": False}, map=MAP)
    on = Look(flags={"redis_cache": True}, map=replace(MAP, epoch=4))
    assert said(off, on) == [("flag", "redis_cache", "on")]
    pinned = Look(map=replace(MAP, epoch=5, pins={UUID(int=1): Pin("shard-0")}))
    assert said(Look(map=MAP), pinned) == []
    grown = Look(
        map=replace(
            MAP, epoch=6, shards=(Shard("shard-0"), Shard("shard-1")), partitions=(0, 1) * (PARTITIONS // 2)
        )
    )
    assert said(Look(map=MAP), grown) == [("map", "shard-1", "there"), ("map", "ring", "6")]
