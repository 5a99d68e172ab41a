"""What every command starts from: settings, catalog, direct connections of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any
from urllib.parse import quote
from uuid import UUID

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import config
import sql
from errors import ConfigurationError, Conflict, MarketplaceError
from pools.node import Node
from routing import catalog
from routing.catalog import Catalog, Snapshot
from routing.shard_map import ShardMap

APPLICATION_NAME = "flask"
# A peer that takes nothing any more, such as a frozen server during COPY: libpq gives it up after this long.
_TCP_USER_TIMEOUT_MS = 30_000
# How much longer than its replicas the catalog's primary may take, until one of them is believed.
_PREFER_PRIMARY_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster of these settings. Opens a connection for each use: commands are rare and short."""

    settings: config.Settings

    @property
    def catalog(self) -> Catalog:
        return Catalog(lambda: self._connect_catalog("read-write"))

    def snapshot(self) -> Snapshot:
        """Map and flags, from the catalog's primary, or else from whichever of its nodes answers first.

        All are asked side by side: connecting to a frozen one alone would take seconds. Raises `ConfigurationError`
        where the catalog has no tables yet.
        """
        try:
            return self._first_snapshot() or self._load("any")
        except psycopg.errors.UndefinedTable as error:
            raise ConfigurationError("the catalog is empty: run flask shards migrate, or make up") from error

    def shard_dsn(self, shard_map: ShardMap, shard: str) -> str:
        """To the node of the shard that accepts writes."""
        return self.group_dsn([node for node in shard_map.nodes if node.shard == shard])

    def group_dsn(self, nodes: Sequence[Node]) -> str:
        """To the one of these that accepts writes."""
        return self._conninfo(nodes, "read-write")

    def catalog_dsn(self) -> str:
        """To the catalog's node that accepts writes, in the same role as the shards."""
        user, password = self._role()
        return make_conninfo(self.settings.catalog_dsn, user=user, password=password)

    def node_dsn(self, node: Node) -> str:
        """To this node, whatever its role."""
        return self._conninfo([node], "any")

    def service_dsn(self, node: Node) -> str:
        """To this node, in the service's own role."""
        user, password = self.settings.database_user, self.settings.database_password
        return make_conninfo(self.node_dsn(node), user=user, password=password)

    def psql_url(self, node: Node) -> str:
        """What `psql` takes; it holds a password."""
        user, password = self._role()
        secret = f":{quote(password, safe='')}" if password else ""
        address = f"{node.host}:{node.port}/{self.settings.database_name}"
        return f"postgresql://{quote(user, safe='')}{secret}@{address}"

    def stores_of(self, shard_map: ShardMap, shard: str) -> Sequence[UUID]:
        """The stores that live on a shard now."""
        return self.stores_at(self.shard_dsn(shard_map, shard))

    def stores_at(self, dsn: str) -> Sequence[UUID]:
        with psycopg.connect(dsn, autocommit=True) as connection:
            return [store_id for (store_id,) in connection.execute(sql.query("list_store_ids").text)]

    @contextmanager
    def without_moves(self) -> Iterator[None]:
        """No store is on the move meanwhile. Raises `Conflict` where one is."""
        with self._connect_catalog("read-write") as connection:
            (alone,) = connection.execute(sql.query("lock_out_moves").text).fetchone() or (False,)
            moving = connection.execute(sql.query("list_untidied_moves").text).fetchall()
            if moving or not alone:
                stores = ", ".join(str(row[1]) for row in moving) or "a store"
                raise Conflict(
                    f"{stores}: on the move, or not yet tidied up; nothing is migrated meanwhile."
                    " GET /v1/admin/moves/{id} says how far it is; then run this again"
                )
            yield

    def _role(self) -> tuple[str, str]:
        """The administrator's where the settings have one, else the service's."""
        settings = self.settings
        if settings.admin_user:
            return settings.admin_user, settings.admin_password
        return settings.database_user, settings.database_password

    def _conninfo(self, nodes: Sequence[Node], target: str) -> str:
        user, password = self._role()
        return make_conninfo(
            host=",".join(node.host for node in nodes),
            port=",".join(str(node.port) for node in nodes),
            dbname=self.settings.database_name,
            user=user,
            password=password,
            target_session_attrs=target,
            connect_timeout=self.settings.connect_timeout_seconds,
            tcp_user_timeout=_TCP_USER_TIMEOUT_MS,
            application_name=APPLICATION_NAME,
        )

    def _first_snapshot(self) -> Snapshot | None:
        """None where no node gives one; asking them once more, in turn, tells why."""
        answers: SimpleQueue[tuple[bool, Snapshot | None]] = SimpleQueue()

        def ask(dsn: str) -> None:
            answer: tuple[bool, Snapshot | None] = (False, None)
            with suppress(psycopg.Error, MarketplaceError), self._connect_catalog("any", dsn) as connection:
                row = connection.execute("SELECT NOT pg_is_in_recovery()").fetchone()
                answer = (bool(row and row[0]), catalog.load(connection))
            answers.put(answer)

        dsns = _one_by_one(self.settings.catalog_dsn)
        for dsn in dsns:
            # A daemon: the command ends without waiting for a node that is frozen.
            Thread(target=ask, args=[dsn], daemon=True).start()
        found: Snapshot | None = None
        for _ in dsns:
            try:
                is_primary, snapshot = answers.get(timeout=_PREFER_PRIMARY_SECONDS if found else None)
            except Empty:
                break
            found = snapshot if is_primary else found or snapshot
            if is_primary:
                break
        return found

    def _load(self, target: str) -> Snapshot:
        with self._connect_catalog(target) as connection:
            return catalog.load(connection)

    @contextmanager
    def _connect_catalog(self, target: str, dsn: str = "") -> Iterator[psycopg.Connection[Any]]:
        with psycopg.connect(
            dsn or self.settings.catalog_dsn,
            autocommit=True,
            target_session_attrs=target,
            connect_timeout=self.settings.connect_timeout_seconds,
            application_name=APPLICATION_NAME,
        ) as connection:
            yield connection


def _one_by_one(dsn: str) -> list[str]:
    """A DSN for each node that this one names; one port may stand for all."""
    values = conninfo_to_dict(dsn)
    hosts, ports = (str(values.get(key) or "").split(",") for key in ("host", "port"))
    ports = ports if len(ports) > 1 else ports * len(hosts)
    return [make_conninfo(dsn, host=host, port=port) for host, port in zip(hosts, ports, strict=True)]


def open_cluster() -> Cluster:
    """From the environment. Raises `ConfigurationError` where something is missing."""
    return Cluster(config.load())
