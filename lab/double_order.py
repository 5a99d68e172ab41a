"""Fifty clicks on one button: fifty orders, unless the server knows that they are one."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from threading import Barrier

from lab.experiment import Experiment, Figures, Variant
from lab.ground import Ground, at_once, new_key
from lab.picture import bars

CLICKS = 50
STOCK = 1000

_TABLES = """
CREATE TABLE IF NOT EXISTS clicks (key text, order_id bigint);
CREATE TABLE IF NOT EXISTS placed (id bigint GENERATED ALWAYS AS IDENTITY, key text);
TRUNCATE clicks, placed
"""


def _look_then_place(ground: Ground) -> Figures:
    """The key is looked up, and where it is new the order is placed and the key kept: two statements.

    All look before the first has placed its order. That is forced here: left to chance, three or four of fifty do.
    """
    shard, key, all_have_looked = ground.servers.shards[-1], new_key(), Barrier(CLICKS, timeout=30)
    ground.sandbox(shard).execute(_TABLES)
    primary = ground.primary(shard)

    def click(_: int) -> bool:
        with ground.connect_node(primary) as one, one.transaction():
            known = one.execute("SELECT FROM clicks WHERE key = %s", [key]).fetchone() is not None
            all_have_looked.wait()
            if known:
                return False
            order = one.execute("INSERT INTO placed (key) VALUES (%s) RETURNING id", [key]).fetchone()
            one.execute("INSERT INTO clicks VALUES (%s, %s)", [key, order and order[0]])
            return True

    placed = sum(at_once(click, CLICKS))
    return {"orders": placed, "answered_with_the_first": CLICKS - placed}


def _clicks(ground: Ground, *, one_key: bool) -> Figures:
    ground.flags(rate_limit=False)
    shop = ground.new_shop()
    product, guest, key = ground.new_product(shop, stock=STOCK), ground.new_session(shop), new_key()
    body = {"items": [{"product_id": product, "quantity": 1}]}

    def click(_: int) -> bool:
        """Sent again, as a client does it, where the first one with this key is still under way."""
        headers = {**guest, "Idempotency-Key": key if one_key else new_key()}
        while True:
            answer = ground.request("POST", f"{shop.path}/orders", headers, body)
            if answer.status == HTTPStatus.CREATED:
                return "idempotent-replayed" in answer.headers
            if answer.status != HTTPStatus.CONFLICT:
                raise SystemExit(f"an order was answered {answer.status}: {answer.body.decode()}")

    replayed = sum(at_once(click, CLICKS))
    (stock,) = ground.servers.sql(
        ground.primary(shop.shard),
        "SELECT stock FROM products WHERE store_id = %s AND id = %s",
        shop.store_id,
        product,
    )[0]
    return {"orders": STOCK - stock, "answered_with_the_first": replayed}


EXPERIMENT = Experiment(
    name="double-order",
    shows="fifty clicks on one button are one order",
    story=(
        "A shopper clicks 'buy' fifty times, or a phone sends the order again because no answer came. To a server that"
        " does not know that these are one wish, they are fifty. To look first whether there is one is not enough: all"
        " fifty look before the first has placed its own. Here the key, the order and the stock are one statement, and"
        " the primary key of the keys' table decides who was first."
    ),
    figure="orders",
    naive=(
        Variant("no key", partial(_clicks, one_key=False)),
        Variant("look, then place", _look_then_place),
    ),
    cure=Variant("an Idempotency-Key", partial(_clicks, one_key=True)),
    held=lambda without, cured: without > 1 and cured == 1,
    picture=bars("orders", "placed"),
)
