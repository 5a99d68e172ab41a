"""The delaying proxy: what passes it is what was sent, later; and it counts round trips."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster_fixtures import ROOT, free_ports

DELAY_SECONDS = 0.02


@contextmanager
def echo() -> Iterator[int]:
    """A server that sends back what it gets; its port."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # closed: the test is over
            with connection:
                while received := connection.recv(65536):
                    connection.sendall(received)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def proxy() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The proxy in front of an echo, and its port."""
    port = free_ports(1)
    with echo() as target:
        command = [sys.executable, "-m", "tests.delay_proxy", "--delay-ms", str(DELAY_SECONDS * 1000)]
        with subprocess.Popen(
            [*command, f"{port}:{target}"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == f"listening at {port}\n"
            yield process, port
            process.terminate()


def asked(connection: socket.socket, sent: bytes) -> bytes:
    connection.sendall(sent)
    received = b""
    while len(received) < len(sent):
        received += connection.recv(65536)
    return received


def test_a_round_trip_takes_twice_the_delay_and_is_counted(proxy: tuple[subprocess.Popen[str], int]) -> None:
    process, port = proxy
    with socket.create_connection(("127.0.0.1", port)) as connection:
        began = time.monotonic()
        for number in range(5):
            assert asked(connection, b"%d" % number) == b"%d" % number
        assert time.monotonic() - began >= 5 * 2 * DELAY_SECONDS
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("?\n")
    process.stdin.flush()
    assert process.stdout.readline() == "5\n"


def test_the_delay_can_be_changed_for_connections_that_there_are(
    proxy: tuple[subprocess.Popen[str], int],
) -> None:
    process, port = proxy
    with socket.create_connection(("127.0.0.1", port)) as connection:
        assert asked(connection, b"before") == b"before"
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{3 * DELAY_SECONDS * 1000}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "1\n"
        began = time.monotonic()
        assert asked(connection, b"after") == b"after"
        assert time.monotonic() - began >= 2 * 3 * DELAY_SECONDS


def test_much_at_once_arrives_whole_and_in_order_and_so_does_the_end(
    proxy: tuple[subprocess.Popen[str], int],
) -> None:
    _, port = proxy
    sent = b"".join(b"%08d" % number for number in range(200_000))

    def send() -> None:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)

    with socket.create_connection(("127.0.0.1", port)) as connection:
        sender = threading.Thread(target=send)
        sender.start()
        received = b"".join(iter(lambda: connection.recv(65536), b""))
        sender.join()
    assert received == sent


def test_it_ends_with_whoever_started_it(proxy: tuple[subprocess.Popen[str], int]) -> None:
    process, _ = proxy
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(10) == 0
