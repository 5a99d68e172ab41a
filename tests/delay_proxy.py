"""A TCP proxy that makes a network slower: everything that passes it arrives so many milliseconds later.

    .venv/bin/python -m tests.delay_proxy --delay-ms 5 15432:24320 15433:24321

takes connections at each first port and leads them to the second; each direction is delayed on its own, so a round
trip costs twice as much. It delays and does not throttle: what was sent together arrives together. Prints a line
when it listens, and the round trips so far whenever a line is written to its standard input; a line that is a number is
the delay from then on. Ends with SIGTERM, or when its standard input, if that is a pipe, is closed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import stat
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

HOST = "127.0.0.1"
_CHUNK = 65536

Line = asyncio.Queue[tuple[float, bytes]]  # when it is due, and what


class DelayProxy:
    """Leads each connection to `target` and hands on what comes, `delay_seconds` after it came.

    `round_trips` counts how often a client spoke after it had been answered, on all connections.
    """

    def __init__(self, target: int, delay_seconds: float) -> None:
        self._target = target
        self.delay_seconds = delay_seconds
        self.round_trips = 0

    async def listen(self, port: int) -> asyncio.Server:
        return await asyncio.start_server(self._serve, HOST, port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            onward = await asyncio.open_connection(HOST, self._target)
        except OSError:
            writer.transport.abort()  # as the server itself would: refused
            return
        for stream in (writer, onward[1]):
            stream.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        waits = False  # for an answer

        def asked() -> None:
            nonlocal waits
            self.round_trips += not waits
            waits = True

        def answered() -> None:
            nonlocal waits
            waits = False

        await asyncio.gather(self._lead(reader, onward[1], asked), self._lead(onward[0], writer, answered))
        for stream in (writer, onward[1]):
            stream.close()

    async def _lead(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, heard: Callable[[], None]
    ) -> None:
        # What came before still waits while more is taken: a delay, not a turnstile.
        line: Line = asyncio.Queue()
        await asyncio.gather(self._take(source, line, heard), self._hand_on(line, sink))

    async def _take(self, source: asyncio.StreamReader, line: Line, heard: Callable[[], None]) -> None:
        loop, received = asyncio.get_running_loop(), b"-"
        while received:  # an empty one last: the connection's end is delayed as well
            try:
                received = await source.read(_CHUNK)
            except ConnectionError:
                received = b""
            if received:
                heard()
            line.put_nowait((loop.time() + self.delay_seconds, received))

    async def _hand_on(self, line: Line, sink: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, received = await line.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if sink.is_closing():
                return
            if not received:
                with suppress(OSError):  # reset by the other side meanwhile
                    sink.write_eof()
                return
            sink.write(received)


async def serve(routes: Sequence[tuple[int, int]], delay_seconds: float) -> None:
    """Until the process ends. Routes are (port to listen at, port to lead to)."""
    proxies = [DelayProxy(target, delay_seconds) for _, target in routes]
    servers = [await proxy.listen(port) for proxy, (port, _) in zip(proxies, routes, strict=True)]
    print(f"listening at {', '.join(str(port) for port, _ in routes)}", flush=True)

    def told() -> None:
        said = os.read(sys.stdin.fileno(), _CHUNK).decode()
        if not said:
            os._exit(0)  # whoever started this has ended
        with suppress(ValueError):
            delay_ms = float(said)
            for proxy in proxies:
                proxy.delay_seconds = delay_ms / 1000
        print(sum(proxy.round_trips for proxy in proxies), flush=True)

    if stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), told)
    await asyncio.gather(*(server.serve_forever() for server in servers))


def _route(text: str) -> tuple[int, int]:
    port, _, target = text.partition(":")
    return int(port), int(target)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.delay_proxy", description=__doc__.splitlines()[0])
    parser.add_argument("--delay-ms", type=float, required=True, help="added to each direction")
    parser.add_argument("route", type=_route, nargs="+", metavar="PORT:TARGET")
    options = parser.parse_args()
    asyncio.run(serve(options.route, options.delay_ms / 1000))


if __name__ == "__main__":
    main()
