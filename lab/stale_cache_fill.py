"""A price changes, the cache is told, and a reader fills it again from a replica that has not heard yet."""

from __future__ import annotations

import itertools
import time
from functools import partial

from lab.experiment import Experiment, Figures, Variant
from lab.ground import Ground, new_key
from lab.picture import bars

READS = 50
OLD_PRICE, NEW_PRICE = 1000, 2000
# How long the naive cache keeps a price.
LIFE_SECONDS = 60
# How long after the first time it is told again: a guess at how late a replica may be.
AGAIN_AFTER_SECONDS = 0.5

_TABLES = """
CREATE TABLE IF NOT EXISTS goods (price integer);
TRUNCATE goods
"""


def _cache_aside(ground: Ground, *, twice: bool) -> Figures:
    """Read: from the cache, else from a replica, and fill. Write: the primary, then out of the cache with it."""
    shard, key = ground.servers.shards[-1], f"lab:{new_key()}"
    primary = ground.sandbox(shard)
    primary.execute(_TABLES)
    primary.execute("INSERT INTO goods VALUES (%s)", [OLD_PRICE])
    ground.servers.await_whole(shard)
    cache, replicas = ground.redis(), itertools.cycle(ground.servers.replicas(shard))

    def read() -> int:
        kept = cache.get(key)
        if kept is None:
            ((kept,),) = ground.servers.sql(next(replicas), "SELECT price FROM lab.goods")
            cache.set(key, kept, ex=LIFE_SECONDS)
        return int(kept)

    _pause(ground, shard)
    primary.execute("UPDATE goods SET price = %s", [NEW_PRICE])
    cache.delete(key)
    read()
    if twice:
        time.sleep(AGAIN_AFTER_SECONDS)
        cache.delete(key)
        read()
    _resume(ground, shard)
    return {"stale_reads": sum(read() != NEW_PRICE for _ in range(READS)), "reads": READS}


def _through_the_service(ground: Ground) -> Figures:
    ground.flags(read_replicas=True, redis_cache=True, rate_limit=False)
    shop = ground.new_shop()
    path = f"{shop.path}/products/{ground.new_product(shop, stock=1, price=OLD_PRICE)}"
    ground.servers.await_whole(shop.shard)
    from_cache = 0

    def read() -> int:
        """By somebody who brings neither token nor key: to nobody else could it be shown."""
        nonlocal from_cache
        answer = ground.good("GET", path)
        from_cache += answer.headers["x-cache"] == "hit"
        return int(answer.document["price"])

    read()
    _pause(ground, shop.shard)
    ground.good("PATCH", path, shop.merchant, {"price": NEW_PRICE})
    read()
    _resume(ground, shop.shard)
    stale = sum(read() != NEW_PRICE for _ in range(READS))
    return {"stale_reads": stale, "reads": READS, "answered_from_the_cache": from_cache}


def _pause(ground: Ground, shard: str) -> None:
    for node in ground.servers.replicas(shard):
        ground.pause_replay(node)


def _resume(ground: Ground, shard: str) -> None:
    """Until the replicas have everything: what is stale from here on, the cache alone is to blame for."""
    for node in ground.servers.replicas(shard):
        ground.servers.resume_replay(node)
    ground.servers.await_whole(shard)


EXPERIMENT = Experiment(
    name="stale-cache-fill",
    shows="a cache that is filled from a late replica does not keep the past",
    story=(
        "A merchant changes a price, and the cached one is deleted. The next reader finds nothing, reads from a replica"
        " that has not replayed the change, and puts the old price back: the replica catches up a moment later, and the"
        " cache goes on with the old price for as long as it lives. To delete it a second time a little later only"
        " helps where the replica is not later than that. Here the cache has noted behind which position of the log"
        " the store was changed, and takes no answer that was read before there."
    ),
    figure="stale_reads",
    naive=(
        Variant("delete, then fill from a replica", partial(_cache_aside, twice=False)),
        Variant("delete again half a second later", partial(_cache_aside, twice=True)),
    ),
    cure=Variant("leases with positions", _through_the_service),
    held=lambda without, cured: without > 0 and cured == 0,
    picture=bars("stale_reads", f"of {READS} reads, with the replicas up to date"),
)
