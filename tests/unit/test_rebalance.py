from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from uuid import UUID

import pytest

from operations.evenness import Scales, Unit
from operations.rebalance import TOLERANCE, WHALE, Plan, plan
from routing.ring import PARTITIONS, assign, even_out_shares, partition_of
from routing.shard_map import Pin, Range, Shard, ShardMap

LAST = UUID(int=2**128 - 1)


def a_map(*shards: str, weights: Sequence[float] = (), **parts: object) -> ShardMap:
    """Shards that share the ring by their weights."""
    weighed = dict(zip(shards, weights or (1.0,) * len(shards), strict=True))
    names = list(weighed)
    owners = parts.pop("owners", None) or assign(weighed)
    return ShardMap(
        epoch=1,
        shards=tuple(Shard(name, weight) for name, weight in weighed.items()),
        nodes=(),
        partitions=tuple(names.index(owner) for owner in owners),  # type: ignore[attr-defined]
        **parts,  # type: ignore[arg-type]
    )


def some_stores(count: int, seed: int = 1) -> list[UUID]:
    chance = random.Random(seed)
    return [UUID(int=chance.getrandbits(128)) for _ in range(count)]


def zipf(count: int, rows: int, s: float = 1.0) -> dict[UUID, int]:
    """Stores whose rows fall as 1 / rank ** s, of about so many together."""
    whole = sum(1 / rank**s for rank in range(1, count + 1))
    return {store: max(round(rows / rank**s / whole), 1) for rank, store in enumerate(some_stores(count), 1)}


def in_force(shard_map: ShardMap, made: Plan) -> ShardMap:
    """The map once the plan has been carried out, with every move over."""
    names = [shard.name for shard in shard_map.shards]
    pins = {store: pin for store, pin in shard_map.pins.items() if not pin.stays}
    return ShardMap(
        epoch=2,
        shards=shard_map.shards,
        nodes=(),
        partitions=tuple(names.index(owner) for owner in made.partitions),
        ranges=shard_map.ranges,
        pins=pins | {store: Pin(shard) for store, shard in made.pins.items()},
    )


def held(shard_map: ShardMap, sizes: Mapping[UUID, float]) -> dict[str, float]:
    found = {shard.name: 0.0 for shard in shard_map.shards}
    for store, size in sizes.items():
        found[shard_map.route(store, sharding=True).shard] += size
    return found


def assert_within(
    found: Mapping[str, float], whole: float, weights: Mapping[str, float], tolerance: float = TOLERANCE
) -> None:
    for shard, weight in weights.items():
        fair = whole * weight / sum(weights.values())
        assert abs(found[shard] - fair) <= tolerance * fair + 1e-6, (shard, found)


def assert_nothing_left(shard_map: ShardMap, rows: Mapping[UUID, int], load: Mapping[UUID, float]) -> None:
    again = plan(shard_map, rows, load)
    assert (again.transfers, again.pins) == ((), {})
    assert again.partitions == tuple(shard_map.shards[index].name for index in shard_map.partitions)


EVEN = {"a": 1.0, "b": 1.0, "c": 1.0}


def test_where_all_is_even_nothing_is_planned() -> None:
    shard_map = a_map("a", "b")
    stores = some_stores(2_000)
    of = {shard: [s for s in stores if shard_map.unpinned(s)[0] == shard][:800] for shard in ("a", "b")}
    assert_nothing_left(shard_map, {store: 100 for found in of.values() for store in found}, {})


@pytest.mark.parametrize("count", [30, 200, 3_000])
@pytest.mark.parametrize("shards", [2, 3, 5])
def test_stores_of_very_different_sizes_are_evened_out_with_little_to_move(count: int, shards: int) -> None:
    """Zipf, s = 1. No plan can do with fewer rows than lie above what the tolerance allows."""
    names = "abcde"[:shards]
    shard_map, rows = a_map(*names), zipf(count, 1_000_000)
    made = plan(shard_map, rows, {})
    whole, after = sum(rows.values()), in_force(shard_map, made)
    before, found = held(shard_map, rows), held(after, rows)
    assert {shard: tally.rows for shard, tally in made.after.items()} == found
    fair = whole / shards
    largest = max(rows.values())
    assert max(found.values()) <= max(fair * (1 + TOLERANCE), largest * (1 + TOLERANCE))
    above = sum(max(size - max(fair, largest) * (1 + TOLERANCE), 0) for size in before.values())
    least = max(above, sum(max((1 - TOLERANCE) * fair - size, 0) for size in before.values()))
    if largest < fair:
        # Thirty stores are too few to find the right ones among them.
        assert above <= made.rows <= least * (1.5 if count > 30 else 2.5)
    assert_nothing_left(after, rows, {})


def test_every_shard_gets_what_its_weight_asks_for() -> None:
    weights = {"a": 1.0, "b": 2.0, "c": 5.0}
    shard_map = a_map(*weights, weights=list(weights.values()))
    rows = {store: 50 if shard_map.unpinned(store)[0] == "a" else 10 for store in some_stores(1_000)}
    after = in_force(shard_map, plan(shard_map, rows, {}))
    assert_within(held(after, rows), sum(rows.values()), weights)
    assert [round(after.share(shard), 2) for shard in weights] == [0.12, 0.25, 0.62]
    assert_nothing_left(after, rows, {})


def test_rows_and_load_are_evened_out_together() -> None:
    shard_map = a_map(*EVEN)
    stores = some_stores(600)
    rows = dict.fromkeys(stores, 100)
    # All the work is done on one shard, where as many rows are as elsewhere.
    load = {store: 5.0 if shard_map.unpinned(store)[0] == "a" else 0.5 for store in stores}
    after = in_force(shard_map, plan(shard_map, rows, load))
    assert_within(held(after, rows), sum(rows.values()), EVEN)
    assert_within(held(after, load), sum(load.values()), EVEN)
    assert_nothing_left(after, rows, load)


def test_stores_whose_load_is_not_known_share_what_is_left_of_it() -> None:
    shard_map = a_map("a", "b")
    stores = some_stores(400)
    hot = [store for store in stores if shard_map.unpinned(store)[0] == "a"][:2]
    rows = dict.fromkeys(stores, 10)
    made = plan(shard_map, rows, dict.fromkeys(hot, 0.2))
    assert {one.store_id for one in made.whales} == set()
    after = in_force(shard_map, made)
    load = dict.fromkeys(stores, 0.6 / 398) | dict.fromkeys(hot, 0.2)
    assert_within(held(after, load), 1, {"a": 1.0, "b": 1.0})
    assert_within(held(after, rows), 4_000, {"a": 1.0, "b": 1.0})


def test_stores_that_only_stay_go_where_ring_and_ranges_lead() -> None:
    stores = some_stores(300)
    shard_map = a_map("a", "b")
    pins = {store: Pin("a", stays=True) for store in stores if shard_map.unpinned(store)[0] == "b"}
    made = plan(a_map("a", "b", pins=pins), dict.fromkeys(stores, 10), {})
    assert {(one.store_id, one.from_shard, one.to_shard) for one in made.transfers} == {
        (store, "a", "b") for store in pins
    }
    assert (made.stays, made.pins, made.partitions) == (len(pins), {}, assign({"a": 1.0, "b": 1.0}))


def test_a_store_moves_once_even_where_two_things_are_mended() -> None:
    """It stays on a, the ring leads it to b, and b has too much: it goes straight to c, or does not go."""
    shard_map = a_map(*EVEN)
    stores = some_stores(900)
    of = {shard: [s for s in stores if shard_map.unpinned(s)[0] == shard] for shard in EVEN}
    pins = {store: Pin("a", stays=True) for store in of["b"][:100]}
    rows = dict.fromkeys((*of["a"][:50], *of["b"], *of["c"][:150]), 10)
    before = a_map(*EVEN, pins=pins)
    made = plan(before, rows, {})
    after = in_force(before, made)
    assert_within(held(after, rows), sum(rows.values()), EVEN)
    assert len({one.store_id for one in made.transfers}) == len(made.transfers)
    spared = [store for store in pins if after.route(store, sharding=True).shard == "a"]
    assert len(spared) > 50
    assert made.stays == len(pins) - len(spared)


def test_a_whale_is_named_and_the_others_make_room_for_it() -> None:
    shard_map = a_map("a", "b")
    stores = some_stores(400)
    on_a = [store for store in stores if shard_map.unpinned(store)[0] == "a"]
    whale = on_a[0]
    rows = dict.fromkeys(stores, 10) | {whale: 3_000}
    made = plan(shard_map, rows, {})
    (named,) = made.whales
    assert (named.store_id, named.shard, named.is_pinned) == (whale, "a", False)
    assert named.rows == 3_000 / sum(rows.values()) > WHALE / 2
    after = in_force(shard_map, made)
    assert after.route(whale, sharding=True).shard == "a"
    assert {one.from_shard for one in made.transfers} == {"a"}
    assert_within(held(after, rows), sum(rows.values()), {"a": 1.0, "b": 1.0})
    assert_nothing_left(after, rows, {})


def test_a_whale_larger_than_a_shard_should_be_is_left_alone_with_itself() -> None:
    shard_map = a_map(*EVEN)
    stores = some_stores(600)
    whale = next(store for store in stores if shard_map.unpinned(store)[0] == "b")
    rows = dict.fromkeys(stores, 10) | {whale: 30_000}
    after = in_force(shard_map, plan(shard_map, rows, {}))
    found = held(after, rows)
    assert found["b"] <= 30_000 + TOLERANCE * sum(rows.values()) / 3
    assert abs(found["a"] - found["c"]) <= TOLERANCE * sum(rows.values()) / 3
    assert_nothing_left(after, rows, {})


def test_what_is_even_beside_a_whale_stays() -> None:
    shard_map = a_map(*EVEN)
    of = {shard: [s for s in some_stores(600) if shard_map.unpinned(s)[0] == shard] for shard in EVEN}
    rows = dict.fromkeys((*of["a"][:100], *of["c"][:90]), 10) | {of["b"][0]: 30_000}
    assert_nothing_left(shard_map, rows, {})


def test_whales_are_pinned_where_they_are_to_be_on_request() -> None:
    shard_map, rows = a_map("a", "b"), zipf(30, 100_000)
    made = plan(shard_map, rows, {}, pin_whales=True)
    assert made.whales
    assert all(one.is_pinned for one in made.whales)
    assert {one.store_id: one.shard for one in made.whales}.items() <= made.pins.items()
    after = in_force(shard_map, made)
    assert_nothing_left(after, rows, {})
    again = plan(after, rows, {}, pin_whales=True)
    assert (again.pins, [one.is_pinned for one in again.whales]) == ({}, [True] * len(made.whales))


def test_two_whales_part() -> None:
    shard_map = a_map("a", "b")
    stores = some_stores(200)
    first, second, *_ = [store for store in stores if shard_map.unpinned(store)[0] == "a"]
    rows = dict.fromkeys(stores, 10) | {first: 4_000, second: 4_000}
    after = in_force(shard_map, plan(shard_map, rows, {}))
    assert {after.route(store, sharding=True).shard for store in (first, second)} == {"a", "b"}
    assert_within(held(after, rows), sum(rows.values()), {"a": 1.0, "b": 1.0})


def test_a_store_that_shares_its_partition_with_a_whale_leaves_it_by_a_pin() -> None:
    shard_map = a_map("a", "b")
    chance = random.Random(3)
    whale = next(s for s in some_stores(50) if shard_map.unpinned(s)[0] == "a")
    others: list[UUID] = []
    while len(others) < 8:
        store = UUID(int=chance.getrandbits(128))
        if partition_of(store) == partition_of(whale):
            others.append(store)
    rows = dict.fromkeys(others, 100) | {whale: 1_000}
    made = plan(shard_map, rows, {})
    assert set(made.pins) <= set(others)
    assert set(made.pins.values()) == {"b"}
    assert all(one.pinned for one in made.transfers)
    assert made.partitions == assign({"a": 1.0, "b": 1.0})
    found = held(in_force(shard_map, made), rows)
    assert (found["a"], found["b"]) == (1_000, 800)


def test_what_somebody_has_pinned_or_put_into_a_range_stays_there() -> None:
    stores = sorted(some_stores(400))
    pins = {store: Pin("a") for store in stores[:40]}
    whole = Range(stores[40], stores[80], "a")
    shard_map = a_map(*EVEN, pins=pins, ranges=(whole,))
    rows = dict.fromkeys(stores, 10)
    made = plan(shard_map, rows, {})
    assert not {one.store_id for one in made.transfers} & set(stores[:80])
    after = in_force(shard_map, made)
    assert_within(held(after, rows), sum(rows.values()), EVEN)
    assert_nothing_left(after, rows, {})


@pytest.mark.parametrize("pinned_there", [10, 10_000])
def test_a_shard_that_owns_nothing_of_the_ring_is_given_nothing_and_stores_leave_it(
    pinned_there: int,
) -> None:
    of = {shard: [s for s in some_stores(200) if a_map("a", "b").unpinned(s)[0] == shard] for shard in "ab"}
    stores = [*of["a"][:55], *of["b"][:50]]
    pins = {stores[0]: Pin("new", stays=True), stores[1]: Pin("new")}
    shard_map = a_map("a", "b", "new", owners=assign({"a": 1.0, "b": 1.0}), pins=pins)
    made = plan(shard_map, dict.fromkeys(stores, 10) | {stores[1]: pinned_there}, {})
    assert "new" not in made.partitions
    assert made.after["new"].stores == 1
    assert {one.store_id for one in made.transfers} == {stores[0]}


def test_a_shard_keeps_its_last_partition() -> None:
    """Without one it would not be part of the ring any more, and get no new stores."""
    small, last = Unit("1", (0.1,), {"a": 10}, partition=1), Unit("2", (0.1,), {"a": 10}, partition=2)
    scales = Scales(
        targets={"a": 0.5, "b": 0.5},
        fixed={"a": (0.8,), "b": (0.0,)},
        units=[small, last],
        owners=["a", "a"],
        partitions={"a": 2, "b": 1},
        tolerance=0.1,
    )
    scales.settle()
    assert sorted(scales.owners) == ["a", "b"]


def test_what_cannot_be_even_is_brought_as_near_as_it_gets_and_left() -> None:
    shard_map = a_map("a", "b")
    stores = [store for store in some_stores(50) if shard_map.unpinned(store)[0] == "a"][:5]
    rows = dict.fromkeys(stores, 100)
    after = in_force(shard_map, plan(shard_map, rows, {}))
    assert sorted(held(after, rows).values()) == [200, 300]
    assert_nothing_left(after, rows, {})


def test_new_stores_still_go_to_all_shards_alike() -> None:
    shard_map, rows = a_map(*EVEN), zipf(200, 100_000)
    made = plan(shard_map, rows, {})
    assert made.partitions != assign(EVEN)
    assert [made.partitions.count(shard) for shard in EVEN] == [1366, 1365, 1365]


def test_empty_partitions_even_the_shares_out_as_far_as_they_go() -> None:
    owners = ("a",) * 3_000 + ("b",) * (PARTITIONS - 3_000)
    weights = {"a": 1.0, "b": 1.0}
    assert even_out_shares(weights, owners, ()).count("a") == PARTITIONS // 2
    few = even_out_shares(weights, owners, range(2_990))
    assert few.count("a") == 2_990
    assert few[:2_990] == owners[:2_990]


def test_the_same_gives_the_same_whatever_the_order() -> None:
    shard_map, rows = a_map(*EVEN), zipf(300, 100_000)
    shuffled = list(rows.items())
    random.Random(5).shuffle(shuffled)
    assert plan(shard_map, rows, {}) == plan(shard_map, dict(shuffled), {})


def test_without_stores_or_with_a_single_shard_there_is_nothing_to_do() -> None:
    assert plan(a_map("a", "b"), {}, {}).transfers == ()
    assert plan(a_map("a"), dict.fromkeys(some_stores(5), 10), {}).transfers == ()
