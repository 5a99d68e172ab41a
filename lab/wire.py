"""A light HTTP client: one kept connection, one request at a time. A tenth of what `requests` costs.

Load that is to press a service from one process must not be slower than the service. Knows what this service
answers, no more: HTTP/1.1 with a Content-Length.
"""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

_BODILESS = (204, 304)

Request = tuple[str, str, Mapping[str, str], Any]  # method, path, headers, body


class DroppedError(Exception):
    """The connection ended, or said nothing in time, before the whole answer was there. A write may have happened."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`headers` by their names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def good(self) -> bool:
        return self.status < 400  # noqa: PLR2004 - where HTTP's errors begin

    @property
    def document(self) -> Any:
        return json.loads(self.body)


class Wire:
    """A connection to the service, made when it is needed and kept. Of one thread.

    `lasts` is after how many requests it is made anew, for another worker to take it; 0: never.
    """

    def __init__(self, address: str, *, lasts: int = 0, timeout_seconds: float = 60.0) -> None:
        host, _, port = address.rpartition(":")
        self._address = (host, int(port))
        self._host = address
        self._lasts = lasts
        self._timeout_seconds = timeout_seconds
        self._socket: socket.socket | None = None
        self._left = 0

    def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: Any = None
    ) -> Answer:
        """One answer. `body` is sent as JSON. Raises `DroppedError`."""
        return self.pipeline([(method, path, headers or {}, body)])[0]

    def pipeline(self, requests: Sequence[Request]) -> list[Answer]:
        """Send them all, then take the answers, which come in the same order. Raises `DroppedError`."""
        sent = b"".join(map(self._written, requests))
        answers: list[Answer] = []
        try:
            connection, rest = self._connected(), b""
            connection.sendall(sent)
            for _ in requests:
                answer, rest = _receive(connection, rest)
                answers.append(answer)
        except (OSError, ValueError) as error:
            self.close()
            method, path, *_ = requests[len(answers)]
            raise DroppedError(f"{method} {path}: {error}") from error
        self._left -= len(requests)
        if answers[-1].headers.get("connection", "").lower() == "close" or self._left == 0:
            self.close()
        return answers

    def _written(self, request: Request) -> bytes:
        method, path, headers, body = request
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        content = b""
        if body is not None:
            content = json.dumps(body).encode()
            lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
        return "\r\n".join([*lines, "\r\n"]).encode() + content

    @property
    def port(self) -> int:
        """The connection's own, by which the worker that has taken it is known; 0: there is none."""
        return int(self._socket.getsockname()[1]) if self._socket is not None else 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        if self._socket is not None and _is_readable(self._socket):
            self.close()  # readable between requests: the service has closed it
        if self._socket is None:
            self._socket = socket.create_connection(self._address, self._timeout_seconds)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._left = self._lasts
        return self._socket


def _is_readable(connection: socket.socket) -> bool:
    poll = select.poll()  # not select(), which knows the first 1,024 files of a process only
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _receive(connection: socket.socket, received: bytes) -> tuple[Answer, bytes]:
    """An answer, of which this much was received before, and what has come behind it.

    Raises `OSError` where the connection ends, `ValueError` where this is no answer.
    """
    while (end := received.find(b"\r\n\r\n")) < 0:
        received += _some(connection)
    status_line, *lines = received[:end].decode("latin-1").split("\r\n")
    status = int(status_line.split(" ", 2)[1])
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = received[end + 4 :]
    if status in _BODILESS:
        return Answer(status, headers, b""), body
    if "content-length" not in headers:
        raise ValueError("an answer without a Content-Length")
    length = int(headers["content-length"])
    while len(body) < length:
        body += _some(connection)
    return Answer(status, headers, body[:length]), body[length:]


def _some(connection: socket.socket) -> bytes:
    received = connection.recv(65536)
    if not received:
        raise ConnectionError("the connection was closed")
    return received
