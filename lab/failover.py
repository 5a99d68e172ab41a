"""A primary dies under load, one replica behind the other: which of them takes its place decides what is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus

import psycopg

from lab.buyers import COLUMN_SECONDS, Buyers, Place
from lab.experiment import Experiment, Figures, Found, Variant
from lab.ground import Ground
from lab.picture import bars, columns
from lab.promotion import breakable_shard, cut_off, heal, mend_at_the_end, promote, shut_gate
from lab.wire import DroppedError, Wire

# Orders acknowledged before the network goes, between that and the primary's death, and by the next primary.
BEFORE, UNHEARD, AFTER = 100, 100, 100
# What is shown of the time before the death.
EARLIER_SECONDS = 1.0
COLUMNS = 56
STOCK = 10**6

_TABLES = "CREATE TABLE IF NOT EXISTS placed (key text PRIMARY KEY)"


@dataclass(frozen=True, slots=True)
class Orders:
    """How a buyer places them, and the keys of those that are there in the end."""

    enter: Callable[[], Place]
    placed: Callable[[], set[str]]


def _by_hand(ground: Ground, *, waits: bool) -> Figures:
    """Orders by SQL, to whichever node accepts writes. Somebody sees that the primary is gone, and promotes a replica.

    `waits`: commits wait for a replica, as they do here; else they are acknowledged as soon as the primary has them.
    """
    shard = breakable_shard(ground)
    ground.sandbox(shard).execute(_TABLES)
    ground.servers.await_whole(shard)
    mend_at_the_end(ground, shard)
    unheard = ground.servers.replicas(shard)
    options = f"-c search_path=lab -c synchronous_commit={'on' if waits else 'local'}"

    def enter() -> Place:
        connection: psycopg.Connection[tuple[object, ...]] | None = None

        def place(key: str) -> bool:
            nonlocal connection
            try:
                if connection is None or connection.closed:
                    to_primary = ground.servers.shard_conninfo(shard, options=options)
                    connection = psycopg.connect(to_primary, autocommit=True)
                connection.execute("INSERT INTO placed VALUES (%s) ON CONFLICT DO NOTHING", [key])
            except psycopg.Error:
                return False
            return True

        return place

    def take_over() -> None:
        promote(ground.servers, unheard[-1])

    def placed() -> set[str]:
        return {key for (key,) in ground.servers.sql(ground.primary(shard), "SELECT key FROM lab.placed")}

    shut_gate(ground, shard)
    return _die(ground, shard, unheard[-1:] if waits else unheard, Orders(enter, placed), take_over)


def _by_the_command(ground: Ground) -> Figures:
    """Orders by the service, with keys, and `flask shards failover`."""
    ground.flags(rate_limit=False)
    shard = breakable_shard(ground)
    shop = ground.new_shop(shard)
    items = [{"product_id": ground.new_product(shop, stock=STOCK), "quantity": 1}]
    ground.servers.await_whole(shard)
    mend_at_the_end(ground, shard)

    def enter() -> Place:
        wire = Wire(ground.servers.address, lasts=20)

        def place(key: str) -> bool:
            headers = {**shop.merchant, "Idempotency-Key": key}
            try:
                answer = wire.request("POST", f"{shop.path}/orders", headers, {"items": items})
            except DroppedError:
                return False
            return answer.status == HTTPStatus.CREATED

        return place

    def placed() -> set[str]:
        found = ground.servers.sql(
            ground.primary(shard),
            "SELECT key FROM idempotency_keys AS k JOIN orders AS o ON (o.store_id, o.id) = (k.store_id, k.order_id)"
            " WHERE k.store_id = %s",
            shop.store_id,
        )
        return {key for (key,) in found}

    unheard = ground.servers.replicas(shard)[-1:]
    take_over = partial(ground.servers.fail_over, shard)
    return _die(ground, shard, unheard, Orders(enter, placed), take_over)


def _die(
    ground: Ground,
    shard: str,
    unheard: Sequence[str],
    orders: Orders,
    take_over: Callable[[], object],
) -> Figures:
    """Under load these replicas stop hearing the primary; it dies; they can be reached again; another takes over."""
    with Buyers(orders.enter) as buyers:
        buyers.await_acknowledged(BEFORE)
        reconnects = [cut_off(ground, node) for node in unheard]
        buyers.await_acknowledged(UNHEARD)
        died_at = time.monotonic()
        ground.servers.kill(ground.primary(shard))
        for reconnect in reconnects:
            reconnect()
        take_over()
        buyers.await_acknowledged(AFTER)
    heal(ground.servers, shard)
    there, told = orders.placed(), buyers.acknowledged
    return {
        "acknowledged_lost": sum(key not in there for key in told),
        "acknowledged": len(told),
        "failed_attempts": sum(not each.acknowledged for each in buyers.attempts),
        "longest_without_an_order_seconds": round(buyers.longest_gap(), 2),
        "column_seconds": COLUMN_SECONDS,
        **buyers.over_time(died_at - EARLIER_SECONDS),
    }


def _picture(found: Sequence[Found]) -> str:
    rows = (("orders", "orders"), ("errors", "errors"), ("longest_ms", "slowest"))
    lines = [bars("acknowledged_lost", "acknowledged orders lost")(found), ""]
    lines.append(f"over time, {COLUMN_SECONDS} s a column; the primary dies at ↓")
    for each in found:
        lines += [each.title, " " * (10 + int(EARLIER_SECONDS / COLUMN_SECONDS)) + "↓"]
        for name, label in rows:
            values = each.figures[f"{name}_over_time"]
            highest, more = max(values), "…" if len(values) > COLUMNS else ""
            unit = " ms" if name == "longest_ms" else ""
            lines.append(
                f"  {label:7} {columns(values[:COLUMNS], highest)}{more} {highest:,.0f}{unit} at most"
            )
    return "\n".join(lines)


EXPERIMENT = Experiment(
    name="failover",
    shows="a primary that dies under load takes no acknowledged order with it",
    story=(
        "A primary is killed (SIGKILL) while four buyers place orders. Its network went first: one replica has not"
        " heard of the last hundred orders, which is forced here. Whoever promotes that one, because it answers, loses"
        " all of them, though each was acknowledged and lay on the other replica. Where commits do not wait for a"
        " replica at all, it does not matter whom one promotes: what only the primary had is gone. Here each commit"
        " waits for one replica, and `flask shards failover` promotes the one that provably has every one of them;"
        " buyers see errors for as long as that takes, and send the same order again with the same key."
    ),
    figure="acknowledged_lost",
    naive=(
        Variant("promote whoever answers", partial(_by_hand, waits=True)),
        Variant("commits wait for nobody", partial(_by_hand, waits=False)),
    ),
    cure=Variant("flask shards failover", _by_the_command),
    held=lambda without, cured: without > 0 and cured == 0,
    picture=_picture,
)
