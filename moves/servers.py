"""How the mover reaches the shards: as administrator, on connections of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus

from config import Settings
from errors import ConfigurationError
from pools.connection import ShardConnection
from routing.shard_map import ShardMap

APPLICATION_NAME = "mover"
# A statement that takes longer is given up; copying and comparing have longer ones.
DEADLINE_SECONDS = 8.0
_TCP_USER_TIMEOUT_MS = 8_000
CATALOG_DEADLINE_SECONDS = 6.0

# The password in CREATE SUBSCRIPTION is not to be read in pg_stat_statements. A mover that is frozen in the middle of a
# transaction must not keep the next one from the store's row.
_OPTIONS = (
    "-c pg_stat_statements.track_utility=off -c idle_in_transaction_session_timeout=5s -c TimeZone=UTC"
    " -c client_connection_check_interval=2s"
)


@dataclass(frozen=True, slots=True)
class Servers:
    """The shards of these settings. Raises `ConfigurationError` where they name no administrator."""

    settings: Settings

    def __post_init__(self) -> None:
        if not self.settings.admin_user:
            raise ConfigurationError(
                "ADMIN_USER is not set: moving a store takes the administrator's role, for slots and subscriptions"
            )

    def connect(self, shard_map: ShardMap, shard: str) -> ShardConnection:
        """To the shard's primary, autocommit."""
        options = f"{_OPTIONS} -c statement_timeout={int(DEADLINE_SECONDS * 900)}"
        conninfo = make_conninfo(self.conninfo(shard_map, shard), options=options)
        connection = ShardConnection.connect(conninfo, autocommit=True)
        connection.subject = shard
        connection.deadline_seconds = DEADLINE_SECONDS
        try:
            connection.identify()
        except BaseException:
            connection.abandon()
            raise
        return connection

    def connect_for_replication(self, shard_map: ShardMap, shard: str) -> psycopg.Connection[tuple[Any, ...]]:
        """To the shard's primary, for the commands of the replication protocol."""
        conninfo = make_conninfo(self.conninfo(shard_map, shard), replication="database")
        return psycopg.connect(conninfo, autocommit=True)

    def conninfo(self, shard_map: ShardMap, shard: str, **changed: str) -> str:
        """To whichever node of the shard accepts writes: what a subscription keeps stays right after a failover."""
        nodes = [node for node in shard_map.nodes if node.shard == shard]
        return make_conninfo(
            host=",".join(node.host for node in nodes),
            port=",".join(str(node.port) for node in nodes),
            dbname=self.settings.database_name,
            user=self.settings.admin_user,
            password=self.settings.admin_password,
            target_session_attrs="read-write",
            connect_timeout=self.settings.connect_timeout_seconds,
            **{
                "tcp_user_timeout": str(_TCP_USER_TIMEOUT_MS),
                "application_name": APPLICATION_NAME,
                **changed,
            },
        )


class CatalogConnections:
    """Connections to the catalog's primary, in the service's own role: rows are all that a mover takes there. Kept, for
    in a switch a new one would cost more than what is done on it."""

    def __init__(self, settings: Settings) -> None:
        self._conninfo = make_conninfo(
            settings.catalog_dsn,
            target_session_attrs="read-write",
            connect_timeout=settings.connect_timeout_seconds,
            tcp_user_timeout=_TCP_USER_TIMEOUT_MS,
            application_name=APPLICATION_NAME,
            options="-c statement_timeout=5s -c idle_in_transaction_session_timeout=5s",
        )
        self._free: deque[ShardConnection] = deque()

    @contextmanager
    def __call__(self) -> Iterator[ShardConnection]:
        """A connection for the length of a `with` block, in autocommit."""
        try:
            connection = self._free.pop()
        except IndexError:
            connection = self.new()
        try:
            yield connection
        finally:
            if connection.closed or connection.pgconn.transaction_status != TransactionStatus.IDLE:
                connection.abandon()
            else:
                self._free.append(connection)

    def new(self) -> ShardConnection:
        """One that is not given to others."""
        connection = ShardConnection.connect(self._conninfo, autocommit=True)
        connection.subject = "The catalog"
        connection.deadline_seconds = CATALOG_DEADLINE_SECONDS
        return connection

    def close(self) -> None:
        while self._free:
            self._free.pop().close()
