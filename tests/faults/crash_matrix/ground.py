"""Where the crash matrix is played: three shards, a service whose workers start the movers, and stores to move.

shard-0 has the catalog beside its stores; the others have none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from lab.wire import Wire
from moves.record import Move
from moves.replication import PREFIXES
from operations.moves import find_move, move_store
from routing.catalog import Catalog
from tests.cluster_fixtures import Databases, Service, fresh_databases, serving
from tests.faults.consistency.upkeep import Upkeep
from tests.faults.crash_matrix.shopping import Store
from tests.moving import FILL, MADE, TABLES
from tests.shard_servers import Servers, running_servers

STOCK = 1_000_000
ROWS = 20
# A store with so many is not moved again: its copy takes its time.
WORN_ORDERS = 500
_SLOTS = "SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE ANY (%s)"


class Ground:
    def __init__(self, servers: Servers, databases: Databases, service: Service) -> None:
        self.servers = servers
        self.databases = databases
        self.service = service
        self.upkeep = Upkeep(servers, databases.settings)
        self.address = service.base_url.removeprefix("http://")
        self.catalog = Catalog(self._catalog_connection)
        self.gates = service.settings.var / "gates"
        self.gates.mkdir()
        self._stores: list[Store] = []
        self._placed: dict[UUID, dict[str, str]] = {}

    @property
    def shards(self) -> Sequence[str]:
        return self.servers.cluster.topology.shard_names

    # Stores.

    def stores_on(self, shard: str, count: int) -> list[Store]:
        """So many that live there: some that have moved before, and new ones."""
        shard_map = self.catalog.load().map
        self._stores = [store for store in self._stores if len(self._placed.get(store.id, ())) < WORN_ORDERS]
        found = [s for s in self._stores if shard_map.route(s.id, sharding=True).shard == shard][:count]
        while len(found) < count:
            store = self._new_store()
            self._stores.append(store)
            if self.home(store) == shard:
                found.append(store)
        for store in found:
            if store.id not in self._placed:
                self._fill(shard, store)
                self._placed[store.id] = {}
        return found

    def home(self, store: Store) -> str:
        """Where it lives by the catalog."""
        return self.catalog.load().map.route(store.id, sharding=True).shard

    def placed_before(self, store: Store) -> dict[str, str]:
        """The orders of earlier rounds, by their keys."""
        return self._placed[store.id]

    def remember_placed(self, store: Store, placed: dict[str, str]) -> None:
        self._placed[store.id] = placed

    def ask(self, store: Store, target: str) -> Move:
        return move_store(self.catalog, store.id, target, undo_seconds=0.0)

    def found(self, move: Move) -> Move:
        return find_move(self.catalog, move.id)

    def is_moving(self) -> bool:
        """Whether there is a mover."""
        with self._catalog_connection() as connection:
            return connection.execute("SELECT FROM live_mover").fetchone() is not None

    # Gates, see mover.py.

    def shut_gate(self, store: Store, deed: str, number: int) -> None:
        for path in self._gate_files(store):
            path.unlink(missing_ok=True)
        self._gate(store).write_text(f"{deed} {number}")

    def standing(self, store: Store) -> int | None:
        """The process that stands at the store's gate."""
        reached = self._gate(store).with_suffix(".reached")
        return int(reached.read_text()) if reached.exists() else None

    def open_gate(self, store: Store) -> None:
        self._gate(store).with_suffix(".open").touch()

    def _gate(self, store: Store) -> Path:
        return self.gates / str(store.id)

    def _gate_files(self, store: Store) -> list[Path]:
        gate = self._gate(store)
        return [gate, gate.with_suffix(".reached"), gate.with_suffix(".open")]

    # What is there.

    def left_over(self) -> list[str]:
        """What moves have made and not taken away: on the shards' primaries, in the catalog."""
        found = [row[0] for shard in self.shards for row in self.sql(shard, MADE)]
        with self._catalog_connection() as connection:
            registered = connection.execute("SELECT shard, kind, name FROM move_resources")
            found += [f"registered {' '.join(row)}" for row in registered]
        return sorted(found)

    def slots_left(self) -> list[str]:
        """The same on every single server, also one that was a primary: a slot there would keep its log for good."""
        patterns = [f"{prefix}%" for prefix in PREFIXES]
        return [
            f"slot {slot} on {node.name}"
            for node in self.servers.nodes
            for (slot,) in self.servers.sql(node.name, _SLOTS, patterns)
        ]

    def count(self, shard: str, store: Store) -> int:
        """All rows of the store there."""
        total = 0
        with self.connect(shard) as connection:
            for table in TABLES:
                statement = SQL("SELECT count(*) FROM {} WHERE store_id = {}")
                row = connection.execute(statement.format(Identifier(table), Literal(store.id))).fetchone()
                total += row[0] if row else 0
        return total

    def orders(self, shard: str, store: Store) -> list[tuple[str, str]]:
        """Key and order of all that clients have placed."""
        return self.sql(
            shard,
            "SELECT k.key, o.id::text FROM orders AS o LEFT JOIN idempotency_keys AS k"
            " ON k.store_id = o.store_id AND k.order_id = o.id WHERE o.store_id = %s AND o.total <> 5",
            store.id,
        )

    def stock(self, shard: str, store: Store) -> int:
        (row,) = self.sql(
            shard, "SELECT stock FROM products WHERE store_id = %s AND id = %s", store.id, store.product_id
        )
        return int(row[0])

    # Servers.

    def connect(self, shard: str) -> psycopg.Connection[Any]:
        """To its primary, as the administrator."""
        return psycopg.connect(self.databases.dsn(shard, administrator=True), autocommit=True)

    def sql(self, shard: str, text: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self.connect(shard) as connection:
            cursor = connection.execute(text, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def comes_back(self, node: str | None) -> None:
        """A server that was failed over, if one was, is a replica from now on."""
        if node is not None:
            self.upkeep.rejoin(node)

    def await_whole(self) -> None:
        for shard in self.shards:
            self.upkeep.await_whole(shard)

    @contextmanager
    def _catalog_connection(self) -> Iterator[psycopg.Connection[Any]]:
        with psycopg.connect(self.databases.catalog_dsn(administrator=True), autocommit=True) as connection:
            yield connection

    def _new_store(self) -> Store:
        operator = {"Authorization": f"Bearer {self.service.operator_token}"}
        with Wire(self.address) as wire:
            made = wire.request("POST", "/v1/stores", operator, {"name": "Shop", "currency": "EUR"}).document
            merchant = {"Authorization": f"Bearer {made['api_key']}"}
            product = {"title": "Mug", "price": 1250, "stock": STOCK}
            path = f"/v1/stores/{made['id']}/products"
            product_id = wire.request("POST", path, merchant, product).document["id"]
        return Store(UUID(made["id"]), made["api_key"], product_id)

    def _fill(self, shard: str, store: Store) -> None:
        with self.connect(shard) as connection, psycopg.ClientCursor(connection) as cursor:
            cursor.execute(FILL, {"store": store.id, "rows": ROWS})


@contextmanager
def ground(*, workers: int = 2) -> Iterator[Ground]:
    with (
        running_servers(shards=3, replicas=2) as servers,
        fresh_databases(servers.cluster) as databases,
        serving(
            databases.settings,
            application="tests.faults.crash_matrix.application:create()",
            workers=workers,
        ) as service,
    ):
        yield Ground(servers, databases, service)
