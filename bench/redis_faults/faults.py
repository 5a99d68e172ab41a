"""What befalls the Redis-compatible servers: each fault, how it begins and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from bench.limiter import Server
from bench.replicas.slow_network import proxies_to
from bench.service import free_port

DELAY_MS = 300


@dataclass(frozen=True, slots=True)
class Fault:
    """`kinds` are the requests that meet it; empty: all."""

    name: str
    begin: Callable[[], object]
    end: Callable[[], object]
    kinds: tuple[str, ...] = ()


def of_server(server: Server) -> list[Fault]:
    """All but the slow network."""

    def restart() -> None:
        server.stop("dead")
        server.go_on("dead")

    return [
        Fault("SIGSTOP", lambda: server.stop("frozen"), lambda: server.go_on("frozen")),
        Fault("kill -9", lambda: server.stop("dead"), lambda: server.go_on("dead")),
        Fault("restart, empty", restart, lambda: None),
        Fault(
            "`OOM` answers",
            lambda: server.admin.config_set("maxmemory", "1"),
            lambda: server.admin.config_set("maxmemory", "0"),
        ),
        Fault(
            "a read-only replica",
            lambda: server.admin.replicaof("127.0.0.1", str(free_port())),
            lambda: server.admin.replicaof("NO", "ONE"),
        ),
    ]


def of_locks(servers: Sequence[Server]) -> list[Fault]:
    """Of one lock server, and of all of them."""

    def freeze(count: int) -> None:
        for server in servers[:count]:
            server.stop("frozen")

    def thaw(count: int) -> None:
        for server in servers[:count]:
            server.go_on("frozen")

    return [
        Fault(
            f"SIGSTOP of {count} of {len(servers)} lock servers",
            partial(freeze, count),
            partial(thaw, count),
            ("order placed",),
        )
        for count in (1, len(servers))
    ]


@contextmanager
def slow_network(target: int) -> Iterator[tuple[int, Fault]]:
    """A port that leads to the target, and what makes the way there long."""
    with proxies_to({"redis": str(target)}, 0) as between:
        fault = Fault(f"latency of {DELAY_MS} ms", lambda: between.delay(DELAY_MS), lambda: between.delay(0))
        yield between.ports["redis"], fault
