"""What every connection is opened with: where to, as whom, and what the server holds it to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from config import Settings
from pools.node import Node

# The server gives a statement up before the client gives the server up: a slow statement ends with an answer.
SERVER_SHARE_OF_DEADLINE = 0.9


@dataclass(frozen=True, slots=True)
class Session:
    """Makes the connection strings of one worker, which `application_name` names beside the pool."""

    settings: Settings
    worker: str

    def to_nodes(self, nodes: Sequence[Node], name: str, target: str) -> str:
        """To the first of these nodes, in this order, that is a `target` (libpq's `target_session_attrs`)."""
        return make_conninfo(
            host=",".join(node.host for node in nodes),
            port=",".join(str(node.port) for node in nodes),
            dbname=self.settings.database_name,
            user=self.settings.database_user,
            password=self.settings.database_password,
            target_session_attrs=target,
            **self._parameters(name),
        )

    def to_catalog(self, name: str, target: str, first: int = 0) -> str:
        """To the next node of the catalog's DSN that is a `target`; the search begins with the `first`, and wraps."""
        given = conninfo_to_dict(self.settings.catalog_dsn)
        for key in ("host", "hostaddr", "port"):
            values = str(given.get(key, "")).split(",")
            if len(values) > 1:
                turn = first % len(values)
                given[key] = ",".join(values[turn:] + values[:turn])
        return make_conninfo(**{**given, **self._parameters(name), "target_session_attrs": target})

    def _parameters(self, name: str) -> dict[str, Any]:
        deadline_ms = int(self.settings.statement_timeout_seconds * 1000)
        return {
            "application_name": f"{self.worker}/{name}",
            # For each address: a frozen first host does not keep from the next. psycopg's least is 2 s.
            "connect_timeout": self.settings.connect_timeout_seconds,
            # A peer that vanished: what it never acknowledged, and its silence on an idle connection.
            "tcp_user_timeout": deadline_ms,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "options": (
                f"-c statement_timeout={int(deadline_ms * SERVER_SHARE_OF_DEADLINE)}"
                # A worker that stopped in the middle of a transaction gives its locks back.
                f" -c idle_in_transaction_session_timeout={deadline_ms}"
                " -c TimeZone=UTC"
            ),
        }
