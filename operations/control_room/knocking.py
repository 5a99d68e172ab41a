"""Whether a server takes new connections, asked without signing in.

A postmaster that is stopped leaves its sessions alone: they go on answering, and the sampler's is one of them. So each
node is knocked at as well: PostgreSQL answers a request for encryption with one byte, whatever it thinks of it, from a
process that it makes for the new connection. The kernel takes connections for a stopped postmaster, and says nothing.

Source: https://www.postgresql.org/docs/current/protocol-message-formats.html (SSLRequest); its backend_startup.c logs
nothing when a client leaves after that.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from time import monotonic

from pools.node import Node

_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
# A living server answers within a few milliseconds, the time of a fork; a busy machine's within tenths of a second.
PATIENCE_SECONDS = 0.5


def unanswered(nodes: Iterable[Node], patience_seconds: float = PATIENCE_SECONDS) -> set[str]:
    """The names of those that take a connection and do not answer on it. Who takes none is not among them."""
    with ExitStack() as opened:
        asked: dict[socket.socket, str] = {}
        for node in nodes:
            with suppress(OSError):  # the sampler says what is the matter with it
                connection = opened.enter_context(
                    socket.create_connection((node.host, node.port), patience_seconds)
                )
                connection.sendall(_SSL_REQUEST)
                asked[connection] = node.name
        deadline = monotonic() + patience_seconds
        while asked and (left := deadline - monotonic()) > 0:
            answered, _, _ = select.select(list(asked), [], [], left)
            for connection in answered:
                del asked[connection]
        return set(asked.values())
