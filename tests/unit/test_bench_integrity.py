"""Whether a stage left the data whole: each fault is named, and only faults are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.run.integrity import Holdings, Told, faults
from bench.run.placement import spread, zipf

BEFORE = Holdings({("s1", "mug"): 10, ("s1", "pen"): 5, ("s2", "cup"): 7}, {}, set(), {})
# Two mugs and a pen were ordered, in three orders.
AFTER = Holdings(
    {("s1", "mug"): 8, ("s1", "pen"): 4, ("s2", "cup"): 7},
    {("s1", "mug"): 2, ("s1", "pen"): 1},
    {"o1", "o2", "o3"},
    {"s1": {"shard-0"}, "s2": {"shard-1"}},
)
TOLD = Told(frozenset({"o1", "o2", "o3"}), sent=4, refused=1)


def test_what_is_whole_has_no_fault() -> None:
    assert faults(BEFORE, AFTER, TOLD) == []


def test_units_that_nobody_ordered_are_missed() -> None:
    found = faults(BEFORE, replace(AFTER, stock={**AFTER.stock, ("s1", "mug"): 7}), TOLD)
    assert found[0] == "store s1: 15 units were there, 11 are left, 3 ordered: -1"


def test_units_that_were_ordered_and_not_taken_are_seen() -> None:
    found = faults(BEFORE, replace(AFTER, stock={**AFTER.stock, ("s1", "mug"): 10}), TOLD)
    assert "+2" in found[0]


def test_a_unit_of_one_product_for_one_of_another_is_seen() -> None:
    swapped = {**AFTER.stock, ("s1", "mug"): 7, ("s1", "pen"): 5}
    assert faults(BEFORE, replace(AFTER, stock=swapped), TOLD) == [
        "2 products have not the units that were there less those ordered"
    ]


def test_a_stock_below_zero_is_seen() -> None:
    after = replace(AFTER, stock={**AFTER.stock, ("s2", "cup"): -1}, sold={**AFTER.sold, ("s2", "cup"): 8})
    assert faults(BEFORE, after, TOLD) == ["1 products have a stock below zero"]


def test_an_order_that_was_acknowledged_and_is_not_there_is_lost() -> None:
    (found,) = faults(BEFORE, replace(AFTER, orders={"o1", "o3"}), TOLD)
    assert found.startswith("1 orders are lost")
    assert "o2" in found


def test_an_order_nobody_was_told_of_may_be_there_if_one_was_in_doubt() -> None:
    more = replace(AFTER, orders={*AFTER.orders, "o4"})
    assert faults(BEFORE, more, replace(TOLD, sent=5)) == []
    assert faults(BEFORE, more, TOLD) == [
        "1 orders are there that no client was told of; only 0 were in doubt"
    ]


@pytest.mark.parametrize("homes", [{"shard-0", "shard-1"}, set()])
def test_a_store_has_its_rows_on_one_primary(homes: set[str]) -> None:
    (found,) = faults(BEFORE, replace(AFTER, homes={**AFTER.homes, "s2": homes}), TOLD)
    assert found.startswith("store s2 has rows on")


def test_stores_are_spread_by_their_share_of_the_load() -> None:
    stores = [str(number) for number in range(20)]
    homes = spread(stores, zipf(20), ["shard-0", "shard-1"])
    load = {
        shard: sum(share for store, share in zip(stores, zipf(20), strict=True) if homes[store] == shard)
        for shard in ("shard-0", "shard-1")
    }
    assert load["shard-0"] == pytest.approx(0.5, abs=0.02)
    assert sum(load.values()) == pytest.approx(1)
