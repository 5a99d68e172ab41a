"""The cache stands still: what each request loses to it, by how long it is waited for, and by whom."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import cycle
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from lab.arrivals import Arrival, Arrivals, Ask, percentile, steadily
from lab.experiment import Experiment, Figures, Variant
from lab.ground import Ground, new_key
from lab.picture import over_time
from lab.wire import DroppedError, Wire

PER_SECOND = 50
BEFORE_SECONDS, FROZEN_SECONDS, AFTER_SECONDS = 1.0, 3.0, 1.0
COLUMN_SECONDS = 0.25
# Of the naive service; each does one request at a time.
WORKERS = 8
CLIENTS = 100
SESSIONS = 10  # so that nobody's quota is what is measured
# A shopper who has waited for so long has left.
PATIENCE_MS = 2000

# Where redis-py is told nothing it waits 5 s for an answer: longer than this lasts.
DEFAULTS: Mapping[str, Any] = {}
TIMEOUT: Mapping[str, Any] = {
    "socket_timeout": 0.25,
    "socket_connect_timeout": 0.25,
    "retry": Retry(NoBackoff(), 0),
}


def _cache_aside(ground: Ground, *, options: Mapping[str, Any]) -> Figures:
    """Eight threads that ask the cache first, and the shard's primary where it has nothing or fails."""
    shop = ground.new_shop()
    product = ground.new_product(shop, stock=1)
    cache, key = ground.redis(**options), f"lab:{new_key()}"

    def new_worker() -> Ask:
        connection = ground.connect(shop.shard)

        def answer() -> bool:
            try:
                found = cache.get(key)
            except redis.RedisError:
                found = None
            if found is None:
                row = connection.execute(
                    "SELECT title, price FROM products WHERE store_id = %s AND id = %s",
                    [shop.store_id, product],
                ).fetchone()
                try:
                    cache.set(key, repr(row), px=1500)
                except redis.RedisError:
                    return row is not None
            return True

        return answer

    return _frozen_under(ground, new_worker, WORKERS)


def _the_service(ground: Ground) -> Figures:
    """Each request asks Redis for its quota and for the answer."""
    ground.flags(redis_cache=True, rate_limit=True)
    shop = ground.new_shop()
    path = f"{shop.path}/products/{ground.new_product(shop, stock=1)}"
    guests = cycle([ground.new_session(shop) for _ in range(SESSIONS)])

    def new_client() -> Ask:
        wire = Wire(ground.servers.address)

        def answer() -> bool:
            try:
                return wire.request("GET", path, next(guests)).good
            except DroppedError:
                return False

        return answer

    return _frozen_under(ground, new_client, CLIENTS)


def _frozen_under(ground: Ground, new_client: Callable[[], Ask], clients: int) -> Figures:
    """A load through which Redis freezes, and goes on."""
    dues = steadily(PER_SECOND, BEFORE_SECONDS + FROZEN_SECONDS + AFTER_SECONDS)
    load = Arrivals(new_client, clients, dues)
    with load.running() as began:
        time.sleep(max(0.0, began + BEFORE_SECONDS - time.monotonic()))
        with ground.frozen("redis"):
            frozen_at = time.monotonic()
            time.sleep(FROZEN_SECONDS)
            thawed_at = time.monotonic()
    meanwhile = [each for each in load.ended if frozen_at <= each.due < thawed_at]
    return {
        "p99_ms": percentile(meanwhile, 99),
        "p50_ms": percentile(meanwhile, 50),
        "given_up": sum(each.milliseconds > PATIENCE_MS for each in meanwhile),
        "refused": sum(not each.good for each in meanwhile),
        "asked": len(meanwhile),
        "frozen_seconds": thawed_at - frozen_at,
        "worst_ms_by_column": _worst_by_column(load.ended, began),
    }


def _worst_by_column(arrivals: list[Arrival], began: float) -> list[float]:
    count = round((BEFORE_SECONDS + FROZEN_SECONDS + AFTER_SECONDS) / COLUMN_SECONDS)
    worst = [0.0] * count
    for each in arrivals:
        column = min(int((each.due - began) / COLUMN_SECONDS), count - 1)
        worst[column] = max(worst[column], each.milliseconds)
    return worst


EXPERIMENT = Experiment(
    name="frozen-redis",
    shows="a Redis that stands still costs one request a moment, and the others nothing",
    story=(
        "The server with the cache and the quotas is stopped (SIGSTOP) for three seconds under fifty requests a second."
        " Its connections stand; it only does not answer. A client as it comes waits for it, and with each waits one of"
        " the eight threads, so nobody is served whatever he asked for. A timeout alone is paid again by every request,"
        " and where that takes longer than the next one to come, a line grows. Here whoever finds it away, after"
        " 70 ms, tells the other requests of his worker: they go to the database, and count quotas in their own memory,"
        " while somebody off their path asks whether it is back."
    ),
    figure="p99_ms",
    naive=(
        Variant("redis-py as it comes", partial(_cache_aside, options=DEFAULTS)),
        Variant("a timeout of 250 ms", partial(_cache_aside, options=TIMEOUT)),
    ),
    cure=Variant("found away once", _the_service),
    held=lambda without, cured: cured < without / 4,
    picture=over_time("worst_ms_by_column", "p99_ms", "ms p99 while frozen"),
)
