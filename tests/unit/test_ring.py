from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from math import ceil, floor, inf, nan
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ids
from routing.ring import PARTITIONS, assign, partition_of

# Weights and numbers of shards for which a shard that comes or goes changes every other's quota by one
# partition at least; below that, rounding alone can call for a move between two shards that stay.
SHARDS = st.lists(st.integers(1, 4), min_size=1, max_size=10).map(
    lambda weights: {f"shard-{number}": float(weight) for number, weight in enumerate(weights)}
)
ANY_WEIGHTS = st.lists(
    st.floats(0.001, 1000, allow_nan=False, allow_infinity=False), min_size=1, max_size=40
).map(lambda weights: {f"shard-{number}": weight for number, weight in enumerate(weights)})


def equal(count: int) -> dict[str, float]:
    return {f"shard-{number}": 1.0 for number in range(count)}


def moves(before: tuple[str, ...], after: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(old, new) for old, new in zip(before, after, strict=True) if old != new]


def quotas(weights: dict[str, float]) -> dict[str, Fraction]:
    total = sum(map(Fraction, weights.values()))
    return {shard: PARTITIONS * Fraction(weight) / total for shard, weight in weights.items()}


def test_100_000_stores_spread_over_8_shards_within_five_per_cent_of_the_mean() -> None:
    ring = assign(equal(8))
    chance = random.Random(7)
    makers: tuple[Callable[[], UUID], ...] = (lambda: UUID(int=chance.getrandbits(128)), ids.new_id)
    for make in makers:
        stores = Counter(ring[partition_of(make())] for _ in range(100_000))
        assert max(stores.values()) / (100_000 / 8) <= 1.05


def test_the_partition_of_a_store_is_the_same_on_every_machine_and_in_every_version() -> None:
    # The first three digits of `b2sum -l 64` of the sixteen bytes. Another answer is another home for every
    # store.
    assert partition_of(UUID("00000000-0000-0000-0000-000000000000")) == 0x525
    assert partition_of(UUID("01935a1c-7e1f-7000-8000-000000000001")) == 0xC6C


@given(st.uuids())
def test_every_store_has_a_partition(store_id: UUID) -> None:
    assert 0 <= partition_of(store_id) < PARTITIONS


def test_a_ninth_equal_shard_takes_456_partitions_at_most_and_none_moves_between_the_old() -> None:
    before = assign(equal(8))
    after = assign(equal(9), before)
    assert len(moves(before, after)) <= 456
    assert {new for _, new in moves(before, after)} == {"shard-8"}
    assert set(Counter(after).values()) <= {455, 456}


@given(SHARDS, st.integers(1, 4))
def test_a_new_shard_takes_from_the_old_ones_and_nothing_else_moves(
    weights: dict[str, float], weight: int
) -> None:
    before = assign(weights)
    after = assign({**weights, "new": float(weight)}, before)
    assert {new for _, new in moves(before, after)} == {"new"}


@given(SHARDS.filter(lambda weights: len(weights) > 1), st.data())
def test_a_shard_that_leaves_hands_its_partitions_out_and_nothing_else_moves(
    weights: dict[str, float], data: st.DataObject
) -> None:
    before = assign(weights)
    leaving = data.draw(st.sampled_from(sorted(weights)))
    staying = {shard: weight for shard, weight in weights.items() if shard != leaving}
    after = assign(staying, before)
    assert {old for old, _ in moves(before, after)} <= {leaving}
    for shard, quota in quotas(staying).items():
        assert Counter(after)[shard] in {floor(quota), ceil(quota)}


@given(ANY_WEIGHTS, st.none() | ANY_WEIGHTS)
def test_every_shard_gets_its_quota_rounded_down_or_up(
    weights: dict[str, float], earlier: dict[str, float] | None
) -> None:
    ring = Counter(assign(weights, assign(earlier) if earlier else None))
    assert ring.total() == PARTITIONS
    for shard, quota in quotas(weights).items():
        assert ring[shard] in {floor(quota), ceil(quota)}


@given(ANY_WEIGHTS)
def test_a_first_assignment_rounds_up_the_largest_remainders(weights: dict[str, float]) -> None:
    ring = Counter(assign(weights))
    remainders = {shard: quota - floor(quota) for shard, quota in quotas(weights).items()}
    up = [remainders[shard] for shard, quota in quotas(weights).items() if ring[shard] > floor(quota)]
    down = [rest for shard, rest in remainders.items() if ring[shard] == floor(quotas(weights)[shard])]
    assert not up or not down or min(up) >= max(down)


@given(ANY_WEIGHTS, ANY_WEIGHTS)
def test_as_many_partitions_stay_as_any_assignment_to_quota_could_leave(
    earlier: dict[str, float], weights: dict[str, float]
) -> None:
    before = assign(earlier)
    owned, quota = Counter(before), quotas(weights)
    low = {shard: floor(share) for shard, share in quota.items()}
    to_round_up = PARTITIONS - sum(low.values())
    profit = sum(1 for shard in quota if owned[shard] > low[shard])
    most = sum(min(owned[shard], low[shard]) for shard in quota) + min(to_round_up, profit)
    assert PARTITIONS - len(moves(before, assign(weights, before))) == most


@given(ANY_WEIGHTS, ANY_WEIGHTS)
def test_the_same_arguments_give_the_same_ring_and_a_second_time_moves_nothing(
    earlier: dict[str, float], weights: dict[str, float]
) -> None:
    before = assign(earlier)
    after = assign(weights, before)
    assert assign(weights, before) == after
    assert assign(weights, after) == after


@pytest.mark.parametrize("weights", [{}, {"a": 0.0}, {"a": -1.0}, {"a": 1.0, "b": inf}, {"a": nan}])
def test_weights_that_make_no_ring_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="weight"):
        assign(weights)


def test_a_current_ring_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="4096 partitions, not 2"):
        assign({"a": 1.0}, ["a", "a"])
