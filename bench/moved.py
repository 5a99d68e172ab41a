"""A store of a running `make up` that is moved by programs: asking, waiting, and what is left afterwards."""

from __future__ import annotations

import time
from typing import Any

from bench.replicas.stores import Store, good, open_stores
from lab.servers import Servers, wait_for
from lab.wire import Wire

_MOVES = "/v1/admin/moves"
_POLL_SECONDS = 0.05
_TIDY_SECONDS = 120.0

# All rows of a store on a node, one text a row: what it is like.
_ROWS = """
SELECT coalesce(sum(hashtextextended(t::text, 0)), 0)::text || '/' || count(*) FROM {table} AS t WHERE store_id = %s
"""
TABLES = (
    "api_keys",
    "products",
    "customers",
    "orders",
    "order_items",
    "idempotency_keys",
    "revoked_sessions",
    "stores",
)
# Whatever a move makes on a shard.
_MADE = """
SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE slot_type = 'logical'
UNION ALL SELECT 'subscription ' || subname FROM pg_subscription
UNION ALL SELECT 'publication ' || pubname FROM pg_publication
UNION ALL SELECT 'standing ' || id FROM moving_stores
UNION ALL SELECT 'mark ' || id FROM move_marks
"""


class MovedStore:
    """One store, and the operator who moves it, over a connection of its own."""

    def __init__(self, servers: Servers, wire: Wire) -> None:
        self.servers = servers
        self.wire = wire
        self.store = open_stores(servers, 1)[0]

    @property
    def home(self) -> str:
        path = f"/v1/admin/stores/{self.store.store_id}/route"
        return str(good(self.wire, "GET", path, self.servers.operator)["shard"])

    @property
    def elsewhere(self) -> str:
        home = self.home
        return next(shard for shard in self.servers.shards if shard != home)

    def begin(self, shard: str) -> str:
        """The path of a move that is asked for."""
        body = {"store_id": self.store.store_id, "to_shard": shard}
        return f"{_MOVES}/{good(self.wire, 'POST', _MOVES, self.servers.operator, body)['id']}"

    def take_back(self, path: str) -> None:
        good(self.wire, "DELETE", path, self.servers.operator)

    def look(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = good(self.wire, "GET", path, self.servers.operator)
        return found

    def until(self, path: str, *states: str) -> dict[str, Any]:
        """The move, once it is in one of these states. Raises `SystemExit` where that takes too long."""
        deadline = time.monotonic() + _TIDY_SECONDS
        while (move := self.look(path))["state"] not in states:
            if time.monotonic() > deadline:
                raise SystemExit(f"{path}: still {move['state']}, {move['step']}")
            time.sleep(_POLL_SECONDS)
        return move

    def ended(self, path: str) -> dict[str, Any]:
        """The move, once it is over; the new home takes writes."""
        self.until(path, "done", "failed", "rolled_back")
        wait_for(lambda: self.look(path)["finished_at"] is not None, f"{path} is over")
        return self.look(path)

    def tidied(self, path: str) -> None:
        wait_for(lambda: self.look(path)["step"] == "", f"{path} is tidied up", _TIDY_SECONDS)

    def at(self, shard: str) -> Store:
        """The store as the audit wants it: by where it lives."""
        return Store(shard, self.store.store_id, self.store.merchant, self.store.products)

    def content(self, shard: str) -> dict[str, str]:
        """What its rows are like there, and how many, by table."""
        with self.servers.connect(self.servers.primary(shard)) as connection:
            found = {}
            for table in TABLES:
                statement = _ROWS.format(table=table).encode()
                row = connection.execute(statement, [self.store.store_id]).fetchone()
                found[table] = str(row[0]) if row else ""
            return found

    def rows(self, shard: str) -> int:
        return sum(int(text.rpartition("/")[2]) for text in self.content(shard).values())

    def left_over(self) -> list[str]:
        """What moves have made and not taken away, on all shards."""
        return [
            f"{shard}: {made}"
            for shard in self.servers.shards
            for (made,) in self.servers.sql(self.servers.primary(shard), _MADE)
        ]
