"""A connection for changing the schema, and a watch over the server at its other end.

A migration may rightly take an hour, so its statements have no timeout; a server that is frozen must still
not hang the run. So a second thread asks for a new connection every few seconds, and cuts the first when none
is answered.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from types import TracebackType
from typing import Any

import psycopg
from psycopg import errors as pg

from errors import MigrationError

Connection = psycopg.Connection[tuple[Any, ...]]

_CONNECT_TIMEOUT_SECONDS = 3
_WATCH_SECONDS = 1.0

# statement_timeout: a role's or database's own must not cut a long migration short. synchronous_commit: a
# replica that is away must not hang a migration. Nothing is lost by it: a write of the service that needs the
# new schema waits for its replica, which has then received the migration before it.
# client_connection_check_interval: a run that was cut off must not go on holding its locks.
_OPTIONS = (
    "-c statement_timeout=0 -c idle_in_transaction_session_timeout=0 -c synchronous_commit=local"
    " -c client_connection_check_interval=2s"
)


def connect(dsn: str) -> Connection:
    """To the node that accepts writes, autocommit. Raises `MigrationError` where none of them answers."""
    try:
        return psycopg.connect(
            dsn,
            autocommit=True,
            target_session_attrs="read-write",
            connect_timeout=_CONNECT_TIMEOUT_SECONDS,
            application_name="migrate",
            options=_OPTIONS,
        )
    except psycopg.OperationalError as error:
        raise MigrationError(f"no node that accepts writes could be reached: {error_line(error)}") from error


def error_line(error: psycopg.Error) -> str:
    """The server's own message, else the client's, in one line."""
    text = error.diag.message_primary or str(error)
    detail = error.diag.message_detail
    return " ".join((f"{text} ({detail})" if detail else text).split())


class Watch:
    """While inside, cuts the connection if its server answers nobody for so long: `frozen` then says so."""

    def __init__(self, connection: Connection, frozen_seconds: float) -> None:
        self._frozen_seconds = frozen_seconds
        self._socket = connection.pgconn.socket
        # The very node, whichever the DSN may name now.
        parameters = connection.info.get_parameters()
        parameters.pop("hostaddr", None)  # of all nodes, where the DSN has it
        self._parameters: dict[str, Any] = {
            **parameters,
            "host": connection.info.host,
            "port": connection.info.port,
            "password": connection.info.password,
            "connect_timeout": _CONNECT_TIMEOUT_SECONDS,
            "application_name": "migrate watch",
        }
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="migrate-watch", daemon=True)
        self.frozen = False

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:  # no cut once the socket's number may be another's
            self._over.set()

    def cut(self) -> None:
        """End the connection from another thread: its wait then fails at once."""
        with self._lock:
            if self._over.is_set():
                return
            duplicate = socket.socket(fileno=os.dup(self._socket))
            with contextlib.closing(duplicate), contextlib.suppress(OSError):
                duplicate.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        answered = time.monotonic()
        while not self._over.wait(_WATCH_SECONDS):
            if self._answers():
                answered = time.monotonic()
            elif time.monotonic() - answered > self._frozen_seconds:
                self.frozen = True
                self.cut()
                return

    def _answers(self) -> bool:
        try:
            psycopg.connect(**self._parameters).close()
        except pg.ConnectionTimeout:
            return False
        except psycopg.Error:
            # Refused, full, starting up: an answer. If the server is gone, the connection knows it too.
            return True
        return True
