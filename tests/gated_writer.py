"""Writes row after row to one shard as the service does, through the gate, and remembers what was acknowledged."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from errors import StatementDeadline
from pools.connection import ShardConnection
from tests.shard_servers import Servers, until

GATE_SHUT = "SE002"
_DEADLINE_SECONDS = 2.0


class GatedWriter:
    """One client. `acknowledged` are the rows that are promised to it; `doubtful` those nobody told it about."""

    def __init__(self, servers: Servers) -> None:
        self.acknowledged: list[int] = []
        self.doubtful: list[int] = []
        self.refused = 0
        self._servers = servers
        self._number = 0
        self._connection: ShardConnection | None = None
        self._node = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        servers.sql("shard-0-a", "CREATE TABLE IF NOT EXISTS written (number int)", database="marketplace")

    @contextmanager
    def writing(self) -> Iterator[GatedWriter]:
        self._thread.start()
        try:
            until(lambda: len(self.acknowledged) > 20)
            yield self
        finally:
            self.close()

    def goes_on(self) -> None:
        """Wait for three more rows to be acknowledged."""
        before = len(self.acknowledged)
        until(lambda: len(self.acknowledged) > before + 2)

    def close(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._move_on()

    def lost(self, node: str) -> set[int]:
        """What was acknowledged and is not on this node."""
        promised = set(self.acknowledged)  # before the look: the writing goes on
        rows = self._servers.sql(node, "SELECT number FROM written", database="marketplace")
        return promised - {number for (number,) in rows}

    def write_once(self) -> bool:
        """Try one row at the node that took the last, else at the next; whether it was acknowledged."""
        self._number += 1
        sent = False
        try:
            connection = self._connection = self._connection or self._connect()
            with connection.transaction():
                connection.execute("SELECT enter_gate()")
                connection.execute("INSERT INTO written VALUES (%s)", [self._number])
                sent = True
        except (psycopg.Error, StatementDeadline) as error:
            if getattr(error, "sqlstate", None) == GATE_SHUT:
                self.refused += 1
            elif sent:
                self.doubtful.append(self._number)
            self._move_on()
            return False
        self.acknowledged.append(self._number)
        return True

    def _run(self) -> None:
        while not self._stop.is_set():
            self.write_once()

    def _connect(self) -> ShardConnection:
        node = self._servers.nodes[self._node]
        dsn: dict[str, Any] = {"host": node.host, "port": node.port, "connect_timeout": 2}
        role = self._servers.settings()
        dsn |= {"user": role.admin_user, "password": role.admin_password, "dbname": "marketplace"}
        connection = ShardConnection.connect(make_conninfo("", **dsn), autocommit=True)
        connection.deadline_seconds = _DEADLINE_SECONDS
        return connection

    def _move_on(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()
        self._node = (self._node + 1) % len(self._servers.nodes)
