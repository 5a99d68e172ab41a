"""What the seeder makes, before any server sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

import ids
from operations.seeding.load import COLUMNS, TABLES
from operations.seeding.plan import PlannedStore, plan_stores
from operations.seeding.rows import STATUSES, store_rows
from operations.seeding.vocabulary import copy_text, make_vocabulary

ROOT = Path(__file__).resolve().parents[2]
WORDS = make_vocabulary(7)

Rows = dict[str, list[dict[str, str]]]  # table -> rows by column


def planned(
    stores: int = 3, products: int = 100, orders: int = 50, seed: int = 7
) -> tuple[PlannedStore, ...]:
    return plan_stores(stores, products, orders, seed, WORDS)


def rows_of(store: PlannedStore) -> Rows:
    rows: Rows = defaultdict(list)
    for table, line in store_rows(store, 4, WORDS, "$scrypt$hash"):
        rows[table].append(dict(zip(COLUMNS[table].split(", "), line.split("\t"), strict=True)))
    return rows


def test_the_same_seed_makes_the_same_lines_in_another_process() -> None:
    program = (
        "import hashlib; from operations.seeding.plan import plan_stores;"
        "from operations.seeding.rows import store_rows;"
        "from operations.seeding.vocabulary import make_vocabulary; words = make_vocabulary(7);"
        "lines = [r for s in plan_stores(3, 100, 50, 7, words) for r in store_rows(s, 4, words, 'x')];"
        "print(hashlib.sha256(repr(lines).encode()).hexdigest())"
    )
    # Another hash seed is another order of every set.
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={"PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1


def test_another_seed_makes_other_stores_and_products() -> None:
    ours, theirs = planned(seed=7), planned(seed=8)
    assert {s.store_id for s in ours}.isdisjoint(s.store_id for s in theirs)
    products = [{row["id"] for row in rows_of(store)["products"]} for store in (ours[0], theirs[0])]
    assert products[0].isdisjoint(products[1])


def test_totals_are_spread_evenly_and_add_up() -> None:
    stores = planned(stores=3, products=100, orders=50)
    assert [s.products for s in stores] == [34, 33, 33]
    assert [s.orders for s in stores] == [17, 17, 16]


@pytest.mark.parametrize("products", [1, 2, 3, 50])
def test_the_plan_knows_how_many_rows_there_will_be(products: int) -> None:
    for orders in range(8):
        (store,) = planned(stores=1, products=products, orders=orders)
        assert sum(len(rows) for rows in rows_of(store).values()) == store.rows


def test_orders_where_there_is_nothing_to_sell_are_refused() -> None:
    with pytest.raises(ValueError, match="--products"):
        planned(stores=3, products=2, orders=1)


def test_rows_come_in_an_order_that_foreign_keys_allow() -> None:
    seen = [TABLES.index(table) for table, _ in store_rows(planned()[0], 4, WORDS, "x")]
    firsts = list(dict.fromkeys(seen))
    assert firsts == sorted(firsts)


def test_an_order_adds_up_and_names_products_of_its_own_store_as_they_are() -> None:
    rows = rows_of(planned()[1])
    products = {row["id"]: row for row in rows["products"]}
    customers = {row["id"] for row in rows["customers"]}
    (store,) = rows["stores"]
    items = defaultdict(list)
    for item in rows["order_items"]:
        product = products[item["product_id"]]
        assert (item["title"], item["unit_price"]) == (product["title"], product["price"])
        items[item["order_id"]].append(item)
    for order in rows["orders"]:
        lines = items.pop(order["id"])
        assert [line["line"] for line in lines] == [str(n) for n in range(1, len(lines) + 1)]
        assert len({line["product_id"] for line in lines}) == len(lines)
        assert int(order["total"]) == sum(int(x["unit_price"]) * int(x["quantity"]) for x in lines)
        assert order["customer_id"] in customers
        assert order["shopper_id"] == order["customer_id"]
        assert order["currency"] == store["currency"]
    assert not items


def test_nothing_is_sold_before_it_is_there() -> None:
    rows = rows_of(planned()[0])
    first_order = min(row["created_at"] for row in rows["orders"])
    assert max(row["created_at"] for row in rows["products"] + rows["customers"]) < first_order


def test_orders_are_of_every_status() -> None:
    (store,) = planned(stores=1, products=5, orders=500)
    assert {row["status"] for row in rows_of(store)["orders"]} == {status for status, _ in STATUSES}


@pytest.mark.parametrize("table", ["stores", "customers", "products", "orders"])
def test_an_id_holds_the_moment_its_row_was_made_and_is_past(table: str) -> None:
    for row in rows_of(planned()[0])[table]:
        identifier = UUID(row["store_id"] if table == "stores" else row["id"])
        assert identifier.version == 7
        assert (
            ids.timestamp(identifier)
            == datetime.fromisoformat(row["created_at"])
            < datetime(2026, 1, 1, tzinfo=UTC)
        )


def test_products_are_within_what_the_api_accepts() -> None:
    for row in rows_of(planned(products=2_000)[0])["products"]:
        assert 1 <= len(row["title"]) <= 200
        assert 0 < int(row["price"]) <= 10**12
        assert 0 <= int(row["stock"]) <= 10**9
        assert set(json.loads(row["attributes"])) == {"colour", "material"}


def test_customers_of_a_store_have_e_mails_of_their_own() -> None:
    emails = [row["email"] for row in rows_of(planned(orders=300)[0])["customers"]]
    assert emails[0] == "shopper-1@example.com"
    assert len(set(emails)) == len(emails) == 25


def test_what_copy_would_misread_is_escaped() -> None:
    assert copy_text("a\tb\\c\nd\re") == "a\\tb\\\\c\\nd\\re"
