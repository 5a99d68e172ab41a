"""Fifty buyers, ten units: fifty are sold, unless looking at the stock and taking from it are one step."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from threading import Barrier

from lab.experiment import Experiment, Figures, Variant
from lab.ground import Ground, at_once, new_key
from lab.picture import bars

BUYERS, STOCK = 50, 10

_TABLES = """
CREATE TABLE IF NOT EXISTS shelf (stock integer);
TRUNCATE shelf
"""
_WRITE_WHAT_IS_LEFT = "UPDATE shelf SET stock = %(left)s"
_TAKE_ONE = "UPDATE shelf SET stock = stock - 1"


def _read_then_write(ground: Ground, *, write: str) -> Figures:
    """The stock is read, the program decides, and the stock is written: two statements.

    All read before the first has written. That is forced here: it happens by chance as well, only to fewer.
    """
    shard, all_have_read = ground.servers.shards[-1], Barrier(BUYERS, timeout=30)
    primary = ground.primary(shard)
    connection = ground.sandbox(shard)
    connection.execute(_TABLES)
    connection.execute("INSERT INTO shelf VALUES (%s)", [STOCK])

    def buy(_: int) -> bool:
        with ground.connect_node(primary) as one:
            (stock,) = one.execute("SELECT stock FROM shelf").fetchone() or (0,)
            all_have_read.wait()
            if stock < 1:
                return False
            one.execute(write, {"left": stock - 1} if "%(left)s" in write else None)
            return True

    sold = sum(at_once(buy, BUYERS))
    (left,) = connection.execute("SELECT stock FROM shelf").fetchone() or (0,)
    return {"oversold_units": sold - STOCK, "sold_units": sold, "stock_says": left}


def _one_statement(ground: Ground) -> Figures:
    ground.flags(rate_limit=False)
    shop = ground.new_shop()
    product = ground.new_product(shop, stock=STOCK)
    body = {"items": [{"product_id": product, "quantity": 1}]}

    def buy(_: int) -> bool:
        headers = {**shop.merchant, "Idempotency-Key": new_key()}
        answer = ground.request("POST", f"{shop.path}/orders", headers, body)
        if answer.status not in (HTTPStatus.CREATED, HTTPStatus.CONFLICT):
            raise SystemExit(f"an order was answered {answer.status}: {answer.body.decode()}")
        return answer.status == HTTPStatus.CREATED

    sold = sum(at_once(buy, BUYERS))
    stock = "SELECT stock FROM products WHERE store_id = %s AND id = %s"
    ((left,),) = ground.servers.sql(ground.primary(shop.shard), stock, shop.store_id, product)
    return {"oversold_units": sold - STOCK, "sold_units": sold, "stock_says": left}


EXPERIMENT = Experiment(
    name="oversell",
    shows="fifty buyers of ten units get ten",
    story=(
        "Ten units are left, and fifty buyers come at once. A program that reads the stock, decides and writes what is"
        " left lets all fifty have one: each has read ten, each writes nine. To let the database subtract repairs the"
        " sum and not the decision: then the stock says minus forty. Here one statement locks the product's row, sees"
        " the stock as the last commit left it, and takes from it or says what is short; and a CHECK keeps it from"
        " going below zero whatever a program does."
    ),
    figure="oversold_units",
    naive=(
        Variant("read, then write what is left", partial(_read_then_write, write=_WRITE_WHAT_IS_LEFT)),
        Variant("read, then subtract", partial(_read_then_write, write=_TAKE_ONE)),
    ),
    cure=Variant("one statement", _one_statement),
    held=lambda without, cured: without > 0 and cured == 0,
    picture=bars("oversold_units", "oversold"),
)
