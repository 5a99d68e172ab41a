"""The cluster that an experiment runs on. Whatever is changed is registered first, and undone at the end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg
import redis
from psycopg.sql import SQL, Identifier

from lab.servers import Servers
from lab.wire import Answer, Wire

T = TypeVar("T")

# Every table whose rows belong to a store, those that others refer to last.
_OF_STORES = """
SELECT relname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attname = 'store_id'
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND NOT attisdropped
ORDER BY array_position(ARRAY['orders', 'products', 'customers', 'stores'], relname::text) NULLS FIRST
"""
_SCHEMA = "lab"
# Each id has another place on the ring; of two shards, one never comes in fifty draws once in 10^15 times.
_STORES_DRAWN = 50
_KEYS = "lab:"
# A flag is in force on every worker within 1 s of the answer; no worker can be asked whether it has heard.
_FLAG_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Shop:
    """A store of an experiment's own; `merchant` are the headers that its merchant sends."""

    store_id: str
    shard: str
    merchant: dict[str, str]

    @property
    def path(self) -> str:
        return f"/v1/stores/{self.store_id}"


class Ground:
    """The servers, the service before them, and what an experiment makes there."""

    def __init__(self, servers: Servers, undo: ExitStack) -> None:
        self.servers = servers
        self.undo = undo

    def request(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: Any = None
    ) -> Answer:
        """One request on a connection of its own."""
        with Wire(self.servers.address) as wire:
            return wire.request(method, path, headers, body)

    def flags(self, **wanted: bool) -> None:
        """Switch layers on or off until the experiment ends; both in force on every worker when this is over."""
        found = self.good("GET", "/v1/admin/flags", self.servers.operator).document
        changed = {name: enabled for name, enabled in wanted.items() if found[name] != enabled}
        if changed:
            self.undo.callback(time.sleep, _FLAG_SECONDS)  # done last, behind all that is switched back
        for name, enabled in changed.items():
            self.undo.callback(self.servers.switch, name, enabled=found[name])
            self.servers.switch(name, enabled=enabled)
        if changed:
            time.sleep(_FLAG_SECONDS)

    def good(self, method: str, path: str, headers: dict[str, str] | None = None, body: Any = None) -> Answer:
        """As `request`. Raises `SystemExit` where the service refuses."""
        answer = self.request(method, path, headers, body)
        if not answer.good:
            raise SystemExit(f"{method} {path}: {answer.status} {answer.body.decode()}")
        return answer

    def new_shop(self, shard: str | None = None) -> Shop:
        """A store, on this shard if it matters; it goes with the experiment."""
        for _ in range(_STORES_DRAWN):
            shop = self._new_shop()
            if shop.shard == (shard or shop.shard):
                return shop
        raise SystemExit(f"no store comes to {shard}: is the flag sharding off?")

    def _new_shop(self) -> Shop:
        made = self.good(
            "POST", "/v1/stores", self.servers.operator, {"name": "Laboratory", "currency": "EUR"}
        ).document
        store_id = made["id"]
        self.undo.callback(self._delete_store, store_id)
        return Shop(store_id, self.shard_of(store_id), {"Authorization": f"Bearer {made['api_key']}"})

    def new_product(self, shop: Shop, *, stock: int, title: str = "Mug", price: int = 1000) -> str:
        body = {"title": title, "price": price, "stock": stock}
        made = self.good("POST", f"{shop.path}/products", shop.merchant, body)
        return str(made.document["id"])

    def new_session(self, shop: Shop) -> dict[str, str]:
        """The headers of a guest."""
        token = self.good("POST", f"{shop.path}/sessions", None, {}).document["token"]
        return {"Authorization": f"Bearer {token}"}

    def shard_of(self, store_id: str) -> str:
        route = self.good("GET", f"/v1/admin/stores/{store_id}/route", self.servers.operator)
        return str(route.document["shard"])

    def pause_replay(self, node: str) -> None:
        """Have a replica receive, and replay nothing, until `servers.resume_replay` or the experiment's end."""
        if not self.servers.is_paused(node):
            self.undo.callback(self.servers.resume_replay, node)
            self.servers.pause_replay(node)

    def primary(self, shard: str) -> str:
        return self.servers.primary(shard)

    def sandbox(self, shard: str) -> psycopg.Connection[tuple[Any, ...]]:
        """To a shard's primary, with a schema in front, `lab`, for tables of an experiment's own."""
        node = self.primary(shard)
        self.undo.callback(self._drop_sandbox, shard)
        self.servers.sql(node, f"CREATE SCHEMA IF NOT EXISTS {_SCHEMA}")
        return self.undo.enter_context(self.connect(shard))

    def connect(self, shard: str) -> psycopg.Connection[tuple[Any, ...]]:
        """To a shard's primary as the administrator, in autocommit; tables of the sandbox are found first."""
        return self.connect_node(self.primary(shard))

    def connect_node(self, node: str) -> psycopg.Connection[tuple[Any, ...]]:
        """As `connect`, for who connects often: to find the primary takes a connection to each node."""
        return self.servers.connect(node, options=f"-c search_path={_SCHEMA},public")

    def redis(self, name: str = "redis", **options: Any) -> redis.Redis:
        """A client of a Redis-compatible server; keys of an experiment's own begin with `lab:`."""
        self.undo.callback(self._delete_keys, name)
        client: redis.Redis = redis.Redis.from_url(self.servers.url(name), **options)
        self.undo.callback(client.close)
        return client

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """A server stands still (SIGSTOP) for the length of the block: what it was sent waits."""
        self.undo.callback(self.servers.thaw, name)
        try:
            self.servers.freeze(name)
            yield
        finally:
            self.servers.thaw(name)  # here already: threads that wait for it would keep others from their end

    def _delete_keys(self, name: str) -> None:
        with redis.Redis.from_url(self.servers.url(name)) as client:
            for key in client.scan_iter(f"{_KEYS}*", count=1000):
                client.delete(key)

    def _drop_sandbox(self, shard: str) -> None:
        self.servers.sql(self.primary(shard), f"DROP SCHEMA IF EXISTS {_SCHEMA} CASCADE")

    def _delete_store(self, store_id: str) -> None:
        """The API deletes no stores. It may have moved meanwhile."""
        for shard in self.servers.shards:
            with self.servers.connect(self.primary(shard)) as connection, connection.transaction():
                for (table,) in connection.execute(_OF_STORES).fetchall():
                    text = SQL("DELETE FROM {} WHERE store_id = %s").format(Identifier(table))
                    connection.execute(text, [UUID(store_id)])


@contextmanager
def open_ground(var: Path) -> Iterator[Ground]:
    """The cluster of a data folder. Raises `SystemExit` where none runs.

    SIGTERM ends it as Ctrl-C does: with all undone. A second signal does not cut that short.
    """
    servers = Servers(var)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        with ExitStack() as undo:
            try:
                yield Ground(servers, undo)
            finally:
                for number in numbers:
                    signal.signal(number, signal.SIG_IGN)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def at_once(work: Callable[[int], T], count: int) -> Sequence[T]:
    """Do it so many times side by side; what each gave."""
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(work, range(count)))


def new_key() -> str:
    """For an `Idempotency-Key`."""
    return str(uuid4())
