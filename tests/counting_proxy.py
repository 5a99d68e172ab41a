"""A TCP proxy in this process that counts round trips."""

from __future__ import annotations

import socket
import threading


class CountingProxy:
    """Passes bytes on to a server, and counts how often the client speaks after the server has."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.round_trips = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            # Of each connection by itself: a sample that is under way must not hide a request's turn.
            spoke = threading.Event()
            threading.Thread(target=self._pass, args=(client, server, spoke, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, spoke, False), daemon=True).start()

    def _pass(
        self, source: socket.socket, sink: socket.socket, client_spoke: threading.Event, from_client: bool
    ) -> None:
        while True:
            try:
                data = source.recv(65536)
                with self._lock:
                    if not from_client:
                        client_spoke.clear()
                    elif not client_spoke.is_set():
                        self.round_trips += 1
                        client_spoke.set()
                sink.sendall(data)
            except OSError:
                data = b""
            if not data:
                source.close()
                sink.close()
                return

    def close(self) -> None:
        self._listener.close()
