from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ids
from pools.node import Node
from routing.ring import PARTITIONS, partition_of
from routing.route import Route
from routing.shard_map import Pin, Range, Shard, ShardMap, ShardMapError

SHARDS = (Shard("shard-0"), Shard("shard-1"), Shard("shard-2"))
LOW, MIDDLE, HIGH = (UUID(int=n << 120) for n in (0x10, 0x20, 0x30))


def shard_map(**changes: Any) -> ShardMap:
    parts: dict[str, Any] = {
        "epoch": 7,
        "shards": SHARDS,
        "nodes": (Node("shard-0-a", "shard-0", "127.0.0.1", 1),),
        "partitions": tuple(number % 3 for number in range(PARTITIONS)),
    }
    return ShardMap(**{**parts, **changes})


def store_on(shard: int) -> UUID:
    """A store that the ring of `shard_map()` puts on the shard of this number."""
    return next(store for store in iter(ids.new_id, None) if partition_of(store) % 3 == shard)


@given(st.uuids())
def test_a_store_goes_where_its_partition_says(store_id: UUID) -> None:
    shard = SHARDS[partition_of(store_id) % 3].name
    assert shard_map().route(store_id, sharding=True) == Route(store_id, shard, "ring", 7)


def test_a_pin_comes_before_a_range_and_a_range_before_the_ring() -> None:
    ranges = (Range(LOW, MIDDLE, "shard-1"), Range(MIDDLE, HIGH, "shard-2"))
    both = shard_map(ranges=ranges, pins={LOW: Pin("shard-0")})
    assert both.route(LOW, sharding=True) == Route(LOW, "shard-0", "pin", 7)
    assert replace(both, pins={}).route(LOW, sharding=True) == Route(LOW, "shard-1", "range", 7)
    assert replace(both, pins={}, ranges=()).route(LOW, sharding=True).reason == "ring"


def test_a_range_holds_its_low_end_and_not_its_high_end() -> None:
    ranged = shard_map(ranges=(Range(LOW, MIDDLE, "shard-1"), Range(HIGH, UUID(int=HIGH.int + 9), "shard-2")))

    def reason(number: int) -> tuple[str, str]:
        route = ranged.route(UUID(int=number), sharding=True)
        return route.reason, route.shard

    assert reason(LOW.int - 1)[0] == "ring"
    assert reason(LOW.int) == ("range", "shard-1")
    assert reason(MIDDLE.int - 1) == ("range", "shard-1")
    assert reason(MIDDLE.int)[0] == "ring"
    assert reason(HIGH.int) == ("range", "shard-2")
    assert reason(HIGH.int + 9)[0] == "ring"


def test_while_sharding_is_off_every_store_goes_to_the_first_shard() -> None:
    store = store_on(2)
    pinned = shard_map(pins={store: Pin("shard-1")}, ranges=(Range(UUID(int=0), HIGH, "shard-2"),))
    assert pinned.route(store, sharding=False) == Route(store, "shard-0", "sharding-off", 7)


def test_the_shares_of_all_shards_are_their_partitions_and_add_up_to_one_exactly() -> None:
    whole = shard_map()
    assert whole.share("shard-0") == 1366 / 4096
    assert sum(whole.share(shard.name) for shard in SHARDS) == 1.0
    assert whole.share("elsewhere") == 0.0


def test_a_route_prints_itself() -> None:
    assert str(Route(LOW, "shard-0", "ring", 7)) == "shard=shard-0 reason=ring epoch=7"


def test_a_map_is_a_value_that_nobody_can_change() -> None:
    pins = {LOW: Pin("shard-0")}
    frozen = shard_map(pins=pins)
    pins.clear()
    assert frozen.route(LOW, sharding=True).reason == "pin"
    with pytest.raises(TypeError):
        frozen.pins[HIGH] = Pin("shard-1")  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        frozen.epoch = 8  # type: ignore[misc]
    assert frozen == shard_map(pins={LOW: Pin("shard-0")})


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: shard_map(shards=(), nodes=()), "no shard is registered"),
        (lambda: shard_map(shards=(*SHARDS, Shard("shard-1"))), "named twice"),
        (lambda: shard_map(shards=(*SHARDS, Shard("shard-3", 0.0))), "weight 0.0"),
        (lambda: shard_map(nodes=(Node("n", "shard-9", "h", 1),)), "shard-9 is not a shard"),
        (
            lambda: shard_map(nodes=(Node("n", "shard-0", "h", 1), Node("n", "shard-1", "h", 2))),
            "named twice",
        ),
        (lambda: shard_map(pins={LOW: Pin("shard-9")}), "shard-9 is not a shard"),
        (lambda: shard_map(ranges=(Range(LOW, HIGH, "shard-9"),)), "shard-9 is not a shard"),
        (lambda: shard_map(ranges=(Range(LOW, LOW, "shard-1"),)), "overlaps or is empty"),
        (
            lambda: shard_map(ranges=(Range(LOW, HIGH, "shard-1"), Range(MIDDLE, HIGH, "shard-2"))),
            "overlaps or is empty",
        ),
        (lambda: shard_map(partitions=()), "0 of 4096 partitions"),
        (lambda: shard_map(partitions=(0,) * 4095), "4095 of 4096 partitions"),
        (lambda: shard_map(partitions=(0,) * 4095 + (3,)), "shard number 3"),
        (lambda: shard_map(partitions=(0,) * 4095 + (-1,)), "shard number -1"),
    ],
)
def test_a_map_that_contradicts_itself_is_refused(build: Callable[[], ShardMap], reason: str) -> None:
    with pytest.raises(ShardMapError, match=f"epoch 7: .*{reason}"):
        build()
