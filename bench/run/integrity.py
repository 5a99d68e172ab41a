"""Whether the data is whole after a stage: what a load test that only looks at latency does not see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

Product = tuple[str, str]  # store, product


@dataclass(frozen=True, slots=True)
class Holdings:
    """What all primaries together hold.

    `stock` of each product; `sold`: units in orders placed since the data was seeded, without cancelled ones; `orders`:
    their ids; `homes`: the shards on which rows of a store are.
    """

    stock: dict[Product, int]
    sold: dict[Product, int]
    orders: set[str]
    homes: dict[str, set[str]]


@dataclass(frozen=True, slots=True)
class Told:
    """What the clients know: ids of orders answered with 201, how many were sent, and how many refused for sure."""

    placed: frozenset[str] = field(default_factory=frozenset)
    sent: int = 0
    refused: int = 0

    @property
    def in_doubt(self) -> int:
        """Sent, and neither placed nor refused as far as anybody was told: a timeout, a 5xx, a connection cut."""
        return self.sent - self.refused - len(self.placed)


def faults(before: Holdings, after: Holdings, told: Told) -> list[str]:
    """A sentence for each thing that is not as it has to be. None: the data is whole."""
    return [*_stock(before, after), *_orders(after, told), *_homes(after)]


def _stock(before: Holdings, after: Holdings) -> Iterator[str]:
    for store in sorted({store for store, _ in before.stock}):
        there, left, sold = (_units(of, store) for of in (before.stock, after.stock, after.sold))
        if left + sold != there:
            yield f"store {store}: {there} units were there, {left} are left, {sold} ordered: {left + sold - there:+d}"
    moved = {
        product
        for product, units in before.stock.items()
        if after.stock.get(product, 0) + after.sold.get(product, 0) != units
    }
    if moved:
        yield f"{len(moved)} products have not the units that were there less those ordered"
    if below := [product for product, units in after.stock.items() if units < 0]:
        yield f"{len(below)} products have a stock below zero"


def _orders(after: Holdings, told: Told) -> Iterator[str]:
    if lost := told.placed - after.orders:
        yield f"{len(lost)} orders are lost: answered with 201, and not there (such as {min(lost)})"
    untold = len(after.orders - told.placed)
    if untold > told.in_doubt:
        yield f"{untold} orders are there that no client was told of; only {told.in_doubt} were in doubt"


def _homes(after: Holdings) -> Iterator[str]:
    for store, shards in sorted(after.homes.items()):
        if len(shards) != 1:
            yield f"store {store} has rows on {' and '.join(sorted(shards))}"


def _units(of: Mapping[Product, int], store: str) -> int:
    return sum(units for (owner, _), units in of.items() if owner == store)
