"""A write that a failover has lost, and a reader who asks for it by its position: a number, which others reach too."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

import config
from lab.experiment import Experiment, Figures, Variant
from lab.ground import Ground, Shop
from lab.picture import bars
from lab.promotion import breakable_shard, cut_off, heal, mend_at_the_end, promote, shut_gate
from lab.servers import wait_for
from routing.token import Position, TokenCodec
from sql import query

READS = 20
OLD_PRICE, LOST_PRICE = 1000, 2000
TOKEN = "Consistency-Token"  # noqa: S105 - a header's name

_CHANGE = "UPDATE products SET price = %s, version = version + 1 WHERE store_id = %s AND id = %s"
_PRICE = "SELECT price FROM products WHERE store_id = %s AND id = %s"
_HAS_REPLAYED = "SELECT pg_last_wal_replay_lsn() >= '0/0'::pg_lsn + %s"
_GROW = "SELECT pg_logical_emit_message(true, 'lab', repeat('x', 100000))"


@dataclass(frozen=True, slots=True)
class Loss:
    """A price that was changed, acknowledged at `position`, and lost."""

    shop: Shop
    product: str
    position: Position

    @property
    def path(self) -> str:
        return f"{self.shop.path}/products/{self.product}"


@cache
def _lose(ground: Ground) -> Loss:
    """Once for both: the primary acknowledges a write that no replica hears, and dies; the next one's log outgrows it.

    Forced: the replicas are cut off, the commit waits for none of them.
    """
    ground.flags(read_replicas=True, redis_cache=False, rate_limit=False)
    shard, servers = breakable_shard(ground), ground.servers
    shop = ground.new_shop(shard)
    product = ground.new_product(shop, stock=1, price=OLD_PRICE)
    servers.await_whole(shard)
    mend_at_the_end(ground, shard)
    shut_gate(ground, shard)
    old = ground.primary(shard)
    first, *others = servers.replicas(shard)
    # The one to be promoted last: who has more than it could not follow it.
    reconnects = [cut_off(ground, node) for node in (*others, first)]
    with servers.connect(old) as connection:
        connection.execute("SET synchronous_commit = local")
        connection.execute(_CHANGE, [LOST_PRICE, shop.store_id, product])
        ((timeline, lsn),) = connection.execute(query("read_position").text).fetchall()
        ((identifier,),) = connection.execute("SELECT system_identifier FROM pg_control_system()").fetchall()
    servers.kill(old)
    promote(servers, first)
    for reconnect in reconnects:
        reconnect()
    heal(servers, shard)
    while servers.sql(first, query("read_position").text)[0][1] <= lsn:
        servers.sql(first, _GROW)
    servers.await_whole(shard)
    return Loss(shop, product, Position(identifier, timeline, lsn))


def _by_numbers_alone(ground: Ground) -> Figures:
    """A replica may answer once what it has replayed is no less than the position."""
    loss = _lose(ground)
    past = elsewhere = 0
    replicas = itertools.cycle(ground.servers.replicas(loss.shop.shard))
    for _ in range(READS):
        node = next(replicas)
        if ground.servers.sql(node, _HAS_REPLAYED, loss.position.lsn) == [(True,)]:
            ((price,),) = ground.servers.sql(node, _PRICE, loss.shop.store_id, loss.product)
            past += price != LOST_PRICE
        else:
            elsewhere += 1
    return {"told_the_past_as_the_present": past, "reads": READS, "reported_as_lost": 0}


def _by_history(ground: Ground) -> Figures:
    loss = _lose(ground)
    token = TokenCodec(config.load().secret_key).encode({loss.position.system_identifier: loss.position})
    primary = ground.primary(loss.shop.shard)

    def a_replica_answers() -> bool:
        """Whoever carries no token is answered by one."""
        answer = ground.request("GET", loss.path)
        return answer.good and answer.headers["x-served-by"] != primary

    wait_for(a_replica_answers, f"the service reads from replicas of {loss.shop.shard}")
    before, by_replicas = _reported(ground), 0
    for _ in range(READS):
        answer = ground.good("GET", loss.path, {TOKEN: token})
        by_replicas += answer.headers["x-served-by"] != primary
    reported = _reported(ground) - before
    return {
        "told_the_past_as_the_present": max(READS - reported, by_replicas),
        "reads": READS,
        "reported_as_lost": reported,
    }


def _reported(ground: Ground) -> int:
    """Reads that asked for a lost write, as all workers have counted them."""
    text = ground.good("GET", "/metrics").body.decode()
    lines = [line.split() for line in text.splitlines() if line.startswith("lost_writes_total")]
    return int(sum(float(value) for _, value in lines))


EXPERIMENT = Experiment(
    name="lost-timeline",
    shows="a position of a write that a failover lost is never called replayed",
    story=(
        "A primary acknowledges a price that no replica has heard of, dies, and a replica is promoted: a new timeline"
        " begins before that write, and soon its log is longer than the old one ever was. Who changed the price asks"
        " for it with the position behind it. By numbers alone every replica has replayed that position, and shows the"
        " old price as if nothing had happened. Here a position is judged by the history of the timelines before it is"
        " compared: it lies behind the fork, so the read is counted and logged as one of a lost write, and the primary"
        " answers. The service waits for replicas, so that this cannot happen to it: the write is the experiment's own."
    ),
    figure="told_the_past_as_the_present",
    naive=(Variant("by numbers alone", _by_numbers_alone),),
    cure=Variant("by the timelines' history", _by_history),
    held=lambda without, cured: without > 0 and cured == 0,
    picture=bars("told_the_past_as_the_present", f"of {READS} reads told the past as the present"),
)
