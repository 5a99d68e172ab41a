"""Asking all shards side by side, as `/readyz` does."""

from __future__ import annotations

from threading import Barrier, Event

from routing.every_shard import EveryShard


def test_shards_are_asked_side_by_side() -> None:
    both = Barrier(2)  # passes only while both shards are being asked

    def ask(shard: str) -> str:
        both.wait(timeout=10)
        return shard.upper()

    assert EveryShard(ask, within_seconds=10)(["a", "b"]) == {"a": "A", "b": "B"}


def test_a_shard_that_says_nothing_keeps_no_other_from_being_heard() -> None:
    frozen = Event()

    def ask(shard: str) -> bool:
        return shard != "frozen" or frozen.wait(timeout=10)

    try:
        assert EveryShard(ask, within_seconds=0.05)(["frozen", "well"]) == {"frozen": None, "well": True}
    finally:
        frozen.set()


def test_a_shard_that_says_nothing_is_not_asked_again_until_it_has_spoken() -> None:
    frozen, asked = Event(), []

    def ask(shard: str) -> int:
        asked.append(shard)
        frozen.wait(timeout=10)
        return len(asked)

    every_shard = EveryShard(ask, within_seconds=0.05)
    for _ in range(3):
        assert every_shard(["frozen"]) == {"frozen": None}
    assert asked == ["frozen"]
    frozen.set()
    while every_shard(["frozen"]) != {"frozen": 2}:
        pass


def test_a_shard_that_cannot_be_asked_says_nothing() -> None:
    def ask(shard: str) -> bool:
        raise ConnectionError(shard)

    assert EveryShard(ask, within_seconds=10)(["a"]) == {"a": None}
