"""The rows of one store, as lines of COPY's text format, in an order that every foreign key allows.

Only `random()` and `getrandbits()` are drawn: their sequence for a seed stays the same from one Python
version to the next, which is not promised of `choice()` and the rest.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import accumulate
from typing import NamedTuple
from uuid import UUID

import ids
from operations.seeding.plan import BESTSELLERS, YEAR_MS, YEAR_START_MS, PlannedStore, lines_of_order
from operations.seeding.vocabulary import MATERIALS, THINGS, Vocabulary, copy_text

# Products and customers come in the first half of the seeded year, orders in the second: nothing is sold
# before it is there.
_HALF_YEAR_MS = YEAR_MS // 2
_CATALOGUE_START_MS = YEAR_START_MS
_ORDERS_START_MS = YEAR_START_MS + _HALF_YEAR_MS

_MOST_UNITS = 4
# (status, share of the orders)
STATUSES = (("fulfilled", 0.70), ("paid", 0.15), ("pending", 0.10), ("cancelled", 0.05))
_STATUS_LIMITS = tuple(zip(accumulate(share for _, share in STATUSES), (s for s, _ in STATUSES), strict=True))
_SOLD_OUT_SHARE = 0.02
_MOST_STOCK = 1_000

Row = tuple[str, str]  # (table, line without its line break)


class SoldProduct(NamedTuple):
    """What an order's line keeps of a product."""

    product_id: str
    title: str
    price: int


def store_rows(store: PlannedStore, epoch: int, words: Vocabulary, password_hash: str) -> Iterator[Row]:
    """Every row of the store but its merchant keys; `epoch` is that of the map by which it lives here."""
    yield (
        "stores",
        _line(str(store.store_id), store.name, store.currency, str(epoch), _time(store.created_ms)),
    )
    customers: list[str] = []
    for customer_id, line in _customers(store, words, password_hash):
        customers.append(customer_id)
        yield "customers", line
    bestsellers: list[SoldProduct] = []
    for product, line in _products(store, words):
        if len(bestsellers) < BESTSELLERS:
            bestsellers.append(product)
        yield "products", line
    yield from _orders(store, customers, bestsellers)


def api_key_row(store_id: UUID, key_id: UUID, secret_hash: bytes, created_at: datetime) -> str:
    """The line of one merchant key."""
    return _line(str(store_id), str(key_id), copy_text(f"\\x{secret_hash.hex()}"), created_at.isoformat())


def _customers(store: PlannedStore, words: Vocabulary, password_hash: str) -> Iterator[tuple[str, str]]:
    draw = _random(f"{store.seed}/customers")
    store_id, hashed = str(store.store_id), copy_text(password_hash)
    for number, milliseconds in enumerate(_moments(store.customers, _CATALOGUE_START_MS), 1):
        customer_id = str(ids.build(milliseconds, draw.getrandbits(74)))
        email = f"shopper-{number}@example.com"
        name = words.names[int(draw.random() * len(words.names))]
        yield customer_id, _line(store_id, customer_id, email, name, hashed, _time(milliseconds))


def _products(store: PlannedStore, words: Vocabulary) -> Iterator[tuple[SoldProduct, str]]:
    draw = _random(f"{store.seed}/products")
    store_id, attributes = str(store.store_id), _Attributes()
    rand, colours, phrases = draw.random, words.colours, words.phrases
    for milliseconds in _moments(store.products, _CATALOGUE_START_MS):
        product_id = str(ids.build(milliseconds, draw.getrandbits(74)))
        colour = colours[int(rand() * len(colours))]
        material = MATERIALS[int(rand() * len(MATERIALS))]
        title = f"{colour} {material} {THINGS[int(rand() * len(THINGS))]}"
        # One phrase: the search index holds every three letters of it, and is what seeding mostly waits for.
        description = f"{phrases[int(rand() * len(phrases))]}."
        # Most things are cheap: 4.99 to 999.99, evenly on a logarithmic scale.
        price = int(5 * 200 ** rand()) * 100 - 1
        stock = 0 if rand() < _SOLD_OUT_SHARE else 1 + int(rand() * _MOST_STOCK)
        shown = attributes[colour, material]
        made = _time(milliseconds)
        yield (
            SoldProduct(product_id, title, price),
            _line(store_id, product_id, title, description, str(price), str(stock), shown, made, made),
        )


def _orders(store: PlannedStore, customers: list[str], bestsellers: list[SoldProduct]) -> Iterator[Row]:
    """The stock column is what is left after these sales, so nothing has to be taken from it."""
    draw = _random(f"{store.seed}/orders")
    rand, store_id, currency = draw.random, str(store.store_id), store.currency
    for index, milliseconds in enumerate(_moments(store.orders, _ORDERS_START_MS)):
        order_id = str(ids.build(milliseconds, draw.getrandbits(74)))
        customer_id = customers[int(rand() * len(customers))]
        drawn = rand()
        status = next((s for limit, s in _STATUS_LIMITS if drawn < limit), STATUSES[-1][0])
        items: dict[SoldProduct, int] = {}
        while len(items) < lines_of_order(index, len(bestsellers)):
            items[bestsellers[int(rand() * len(bestsellers))]] = 1 + int(rand() * _MOST_UNITS)
        total = str(sum(product.price * quantity for product, quantity in items.items()))
        made = _time(milliseconds)
        # Who may see the order is the customer who placed it.
        order = _line(store_id, order_id, customer_id, customer_id, status, currency, total, made, made)
        yield "orders", order
        for number, ((product_id, title, price), quantity) in enumerate(items.items(), 1):
            item = _line(store_id, order_id, str(number), product_id, title, str(price), str(quantity))
            yield "order_items", item


def _line(*columns: str) -> str:
    return "\t".join(columns)


def _moments(count: int, start_ms: int) -> Iterator[int]:
    """`count` moments in milliseconds since 1970, evenly spread over the half year from `start_ms`."""
    return (start_ms + index * _HALF_YEAR_MS // count for index in range(count))


def _random(seed: str) -> random.Random:
    return random.Random(seed)  # noqa: S311


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()


class _Attributes(dict[tuple[str, str], str]):
    """The JSON of each (colour, material), made when it is first drawn."""

    def __missing__(self, key: tuple[str, str]) -> str:
        colour, material = key
        text = self[key] = copy_text(json.dumps({"colour": colour, "material": material}))
        return text
