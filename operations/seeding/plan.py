"""What is going to be made: the stores, and how much each of them gets."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

import ids
from operations.seeding.vocabulary import Vocabulary

# Seeded ids and times fill the year 2025 (milliseconds since 1970, UTC), so that whatever is made by hand
# later is newer and comes first in every list.
YEAR_START_MS = 1_735_689_600_000
YEAR_MS = 365 * 24 * 3_600_000
# Stores open one a second before that year begins; a store is older than everything in it.
_STORE_STEP_MS = 1_000

CURRENCIES = ("EUR", "USD", "GBP", "CHF", "CAD", "SEK")
ORDERS_A_CUSTOMER = 4
_FEWEST_CUSTOMERS = 5
# Orders name products of this many first ones of the store: a shop sells from a small part of its catalogue,
# and the seeder need not hold a million products in memory.
BESTSELLERS = 1_000
_MOST_LINES = 3


@dataclass(frozen=True, slots=True)
class PlannedStore:
    """A store to be made. `seed` starts its rows' random numbers, so they do not depend on other stores."""

    store_id: UUID
    created_ms: int
    name: str
    currency: str
    products: int
    customers: int
    orders: int
    seed: str

    @property
    def rows(self) -> int:
        """Rows of all tables, but for the merchant key's."""
        # Every run of _MOST_LINES orders has the same number of lines.
        counts = [lines_of_order(index, min(self.products, BESTSELLERS)) for index in range(_MOST_LINES)]
        runs, rest = divmod(self.orders, _MOST_LINES)
        lines = runs * sum(counts) + sum(counts[:rest])
        return 1 + self.products + self.customers + self.orders + lines


def lines_of_order(index: int, bestsellers: int) -> int:
    """How many lines a store's order has: one to three in turn, each of another product."""
    return min(1 + index % _MOST_LINES, bestsellers)


def plan_stores(
    stores: int, products: int, orders: int, random_seed: int, words: Vocabulary
) -> tuple[PlannedStore, ...]:
    """Spread `products` and `orders`, totals, evenly over the stores; the first ones get what is left over.

    Raises `ValueError` where a store would have orders and no product to sell.
    """
    if orders and products < stores:
        raise ValueError("orders need a product in every store: raise --products, or say --orders 0")
    return tuple(_stores(stores, products, orders, random_seed, words))


def _stores(
    stores: int, products: int, orders: int, random_seed: int, words: Vocabulary
) -> Iterator[PlannedStore]:
    draw = random.Random(f"{random_seed}/stores")  # noqa: S311
    first_ms = YEAR_START_MS - stores * _STORE_STEP_MS
    for index in range(stores):
        created_ms = first_ms + index * _STORE_STEP_MS
        store_orders = _share(orders, stores, index)
        yield PlannedStore(
            store_id=ids.build(created_ms, draw.getrandbits(74)),
            created_ms=created_ms,
            name=words.store_names[int(draw.random() * len(words.store_names))],
            currency=CURRENCIES[int(draw.random() * len(CURRENCIES))],
            products=_share(products, stores, index),
            customers=max(_FEWEST_CUSTOMERS, store_orders // ORDERS_A_CUSTOMER),
            orders=store_orders,
            seed=f"{random_seed}/{index}",
        )


def _share(total: int, parts: int, index: int) -> int:
    return total // parts + (index < total % parts)
