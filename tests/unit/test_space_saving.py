"""The sketch against exact counts: what it promises of every key, for skewed and for hostile streams."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import accumulate

import pytest

from operations.space_saving import SpaceSaving

CAPACITY = 50
KEYS = 2000
LENGTH = 20_000

Stream = list[tuple[int, float]]


def zipf(chance: random.Random) -> Iterator[tuple[int, float]]:
    weights = list(accumulate(1 / rank for rank in range(1, KEYS + 1)))
    for key in chance.choices(range(KEYS), cum_weights=weights, k=LENGTH):
        yield key, chance.uniform(0.1, 2.0)


def even(chance: random.Random) -> Iterator[tuple[int, float]]:
    for _ in range(LENGTH):
        yield chance.randrange(KEYS), 1.0


def always_new_beside_a_rare_heavy_one(_: random.Random) -> Iterator[tuple[int, float]]:
    for number in range(LENGTH):
        yield (0, 3.0) if number % 60 == 0 else (number, 1.0)


STREAMS = (zipf, even, always_new_beside_a_rare_heavy_one)


@pytest.fixture(params=STREAMS, ids=lambda made: made.__name__)
def stream(request: pytest.FixtureRequest) -> Stream:
    return list(request.param(random.Random(7)))


def exact(stream: Stream) -> dict[int, float]:
    weights: dict[int, float] = {}
    for key, weight in stream:
        weights[key] = weights.get(key, 0.0) + weight
    return weights


def sketch_of(stream: Stream) -> SpaceSaving[int]:
    sketch: SpaceSaving[int] = SpaceSaving(CAPACITY)
    for key, weight in stream:
        sketch.add(key, weight)
    return sketch


def test_it_never_holds_more_keys_than_its_capacity(stream: Stream) -> None:
    sketch: SpaceSaving[int] = SpaceSaving(CAPACITY)
    for key, weight in stream:
        sketch.add(key, weight)
        assert len(sketch) <= CAPACITY


def test_what_a_key_weighs_lies_within_its_error(stream: Stream) -> None:
    truth = exact(stream)
    bound = sum(truth.values()) / CAPACITY
    for key, entry in sketch_of(stream).heaviest(CAPACITY):
        assert entry.weight - entry.error <= truth[key] + 1e-6
        assert truth[key] <= entry.weight + 1e-6
        assert entry.error <= bound


def test_every_key_above_the_bound_is_there(stream: Stream) -> None:
    truth = exact(stream)
    bound = sum(truth.values()) / CAPACITY
    kept = {key for key, _ in sketch_of(stream).heaviest(CAPACITY)}
    assert {key for key, weight in truth.items() if weight > bound} <= kept


def test_the_bounds_hold_for_what_has_faded(stream: Stream) -> None:
    sketch: SpaceSaving[int] = SpaceSaving(CAPACITY)
    truth: dict[int, float] = {}
    for number, (key, weight) in enumerate(stream, 1):
        sketch.add(key, weight)
        truth[key] = truth.get(key, 0.0) + weight
        if number % 500 == 0:
            sketch.fade(0.8)
            truth = {key: 0.8 * weight for key, weight in truth.items()}
    bound = sum(truth.values()) / CAPACITY
    kept = dict(sketch.heaviest(CAPACITY))
    assert {key for key, weight in truth.items() if weight > bound} <= kept.keys()
    for key, entry in kept.items():
        assert entry.weight - entry.error - 1e-6 <= truth[key] <= entry.weight + 1e-6
        assert entry.error <= bound


def test_within_its_capacity_it_is_exact() -> None:
    sketch: SpaceSaving[str] = SpaceSaving(2)
    for statements in (1, 2):
        sketch.add("a", 1.0, statements, 0.25)
    sketch.add("b", 5.0)
    (first, heavy), (second, light) = sketch.heaviest(9)
    assert (first, heavy.weight, heavy.error) == ("b", 5.0, 0.0)
    assert (second, light.requests, light.statements, light.seconds) == ("a", 2, 3, 0.5)


def test_a_new_key_takes_the_lightest_ones_place_and_counts_its_own_alone() -> None:
    sketch: SpaceSaving[str] = SpaceSaving(2)
    sketch.add("heavy", 10.0)
    sketch.add("light", 3.0, statements=7)
    sketch.add("new", 1.0, statements=1)
    (_, _), (key, entry) = sketch.heaviest(2)
    assert (key, entry.weight, entry.error, entry.statements) == ("new", 4.0, 3.0, 1)


def test_what_is_not_asked_for_any_more_fades_and_makes_room() -> None:
    sketch: SpaceSaving[str] = SpaceSaving(10)
    sketch.add("yesterday", 0.001)
    for _ in range(30):
        sketch.add("today", 0.001)
        sketch.fade(0.5)
    assert [key for key, _ in sketch.heaviest(10)] == ["today"]
