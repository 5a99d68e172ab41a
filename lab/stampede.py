"""A thousand readers of one page whose cached copy has just run out: a thousand statements, or one."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from queue import SimpleQueue
from threading import Barrier, Semaphore

import redis

from lab.experiment import Experiment, Figures, Variant
from lab.ground import Ground, at_once, new_key
from lab.picture import bars
from lab.servers import wait_for
from lab.wire import Wire

READERS = 1000
# What an application with pools has, to the database and to the cache: more readers than these wait for one.
CONNECTIONS = 40
LIFE_MS = 1500
# A socket each.
_FILES = 4096
# Longer than a thousand readers take to ask; the service takes a server that is silent for half a second for frozen.
_STILL_SECONDS = 0.4

_AGAIN_SECONDS = 0.05
# For whatever a thousand threads wait for.
_WAIT_SECONDS = 60

_TABLES = """
CREATE TABLE IF NOT EXISTS pages (body text);
TRUNCATE pages;
INSERT INTO pages VALUES ('a page')
"""
_PAGE = "SELECT /* lab_page */ body FROM pages"
_CALLS = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements WHERE strpos(query, %s) > 0"


# One reader's read. It is told what to call when it has asked.
Read = Callable[[Callable[[], None]], object]


def _cache_aside(ground: Ground, *, look_again: bool) -> Figures:
    """Look in the cache; if there is nothing, ask the database and put it in. `look_again`: with a connection in hand,
    once more before asking."""
    shard, key = ground.servers.shards[-1], f"lab:{new_key()}"
    ground.sandbox(shard).execute(_TABLES)
    primary, cache = ground.primary(shard), _shared(ground)
    pool = SimpleQueue[Callable[[], str]]()

    def read(asked: Callable[[], None]) -> None:
        kept = cache.get(key)
        asked()
        if kept is None:
            ask = pool.get()
            try:
                body = (cache.get(key) if look_again else None) or ask()
                cache.set(key, body, px=LIFE_MS)
            finally:
                pool.put(ask)

    with ExitStack() as open_connections:
        for _ in range(CONNECTIONS):
            one = open_connections.enter_context(ground.connect_node(primary))
            pool.put(lambda one=one: str(one.execute(_PAGE).fetchone()))  # type: ignore[misc]
        statements = _at_one_moment(ground, (shard, "lab_page"), lambda: read, lambda: not cache.exists(key))
    return {"statements": statements, "readers": READERS}


def _through_the_service(ground: Ground) -> Figures:
    ground.flags(redis_cache=True, read_replicas=False, rate_limit=False)
    shop = ground.new_shop()
    path = f"{shop.path}/products/{ground.new_product(shop, stock=1)}"
    cache, entries = ground.redis(), f"cache:{{{shop.store_id}}}"
    answers: list[str] = []
    with ExitStack() as open_connections:

        def reader() -> Read:
            wire = open_connections.enter_context(Wire(ground.servers.address))

            def read(asked: Callable[[], None]) -> None:
                asked()
                answer = wire.request("GET", path)
                while not answer.good:
                    time.sleep(_AGAIN_SECONDS)
                    answer = wire.request("GET", path)
                answers.append(answer.headers["x-cache"])

            return read

        statement = (shop.shard, "read_product")
        statements = _at_one_moment(ground, statement, reader, lambda: not cache.exists(entries))
    latest = answers[-READERS:]
    found = {f"answers_{kind}": latest.count(kind) for kind in ("hit", "miss", "bypass")}
    return {"statements": statements, "readers": READERS, **found}


def _at_one_moment(
    ground: Ground, statement: tuple[str, str], reader: Callable[[], Read], has_run_out: Callable[[], bool]
) -> int:
    """How often a shard ran a statement for readers who all read a page, wait until it has run out, and read it again.

    The second time all ask before any is answered, which is forced: the database stands still meanwhile.
    """
    _allow_files()
    shard, name = statement
    primary, have_asked = ground.primary(shard), Semaphore(0)
    turns = Barrier(READERS + 1, timeout=_WAIT_SECONDS)

    def one(_: int) -> None:
        read = reader()
        read(lambda: None)
        turns.wait()
        turns.wait()
        read(have_asked.release)

    with ThreadPoolExecutor(1) as aside:
        readers = aside.submit(at_once, one, READERS)
        turns.wait()
        wait_for(has_run_out, "the cached page has run out")
        before = _calls(ground, shard, name)
        with ground.frozen(primary):
            turns.wait()
            still_until = time.monotonic() + _STILL_SECONDS
            for _ in range(READERS):
                have_asked.acquire(timeout=max(0.0, still_until - time.monotonic()))
        readers.result()
    return _calls(ground, shard, name) - before


def _shared(ground: Ground) -> redis.Redis:
    """A client that has a reader wait for a connection where all are taken."""
    ground.redis()  # whose keys go with the experiment
    limits = {"max_connections": CONNECTIONS, "timeout": _WAIT_SECONDS}
    pool = redis.BlockingConnectionPool.from_url(ground.servers.url("redis"), **limits)
    ground.undo.callback(pool.disconnect)
    return redis.Redis(connection_pool=pool)


def _allow_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != soft < _FILES:
        most = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _calls(ground: Ground, shard: str, name: str) -> int:
    """How often a statement was run, on all nodes of a shard. Each says its name in a comment."""
    return sum(
        int(ground.servers.sql(node, _CALLS, f"/* {name} */")[0][0])
        for node in ground.servers.of_shard(shard)
    )


EXPERIMENT = Experiment(
    name="stampede",
    shows="a thousand readers of a page that has just run out cost the database one statement",
    story=(
        "A page that everybody reads is kept in the cache for a second and a half. When it runs out, all who ask in"
        " that moment find nothing, and all ask the database, which is the slower the more of them there are. To look"
        " once more when a connection is free helps those who had to wait for one: then there are as many statements"
        " as connections. Here the cache gives one reader the lease to make the page; the others wait for it, one of"
        " each worker on behalf of all. The database stands still until all have asked, so that it is one moment."
    ),
    figure="statements",
    naive=(
        Variant("look, then ask the database", partial(_cache_aside, look_again=False)),
        Variant("look again with a connection in hand", partial(_cache_aside, look_again=True)),
    ),
    cure=Variant("a lease on the miss", _through_the_service),
    held=lambda without, cured: without > 100 * cured,
    picture=bars("statements", "statements"),
)
