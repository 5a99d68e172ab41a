"""What each layer costs and saves a request: processor time, and round trips to the servers, with it off and on.

    make up                                    # in another terminal
    .venv/bin/python -m bench.layers           # prints a table in Markdown

One client sends one request after another to one worker, a service of its own before the running servers, with a
catalog of its own, so that flags are turned for nobody else. Each layer is turned off and on in turns, a block of each
kind of request each time; a figure is the median of the blocks.

Processor time is the operating system's: of the worker, of all PostgreSQL servers of the store's shard, of the
Redis-compatible server and those of the locks. What they take while nobody asks is subtracted. A round trip is the
worker speaking to a server after it was answered by it, counted by a proxy in between; the three servers of the locks
are asked side by side, which is one. What the worker asks them on its own account is subtracted as well.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import psutil

import config
from bench.layer_requests import KINDS, PRODUCTS, WARM, Kind, Request, open_store
from bench.replicas.slow_network import Proxies, catalog, proxies, proxies_to
from bench.replicas.stores import good
from bench.service import HOST, service
from bench.table import table
from lab.servers import Servers, wait_for
from lab.wire import Answer, Wire
from routing.memory import OFF_SECONDS

LAYERS = {
    "`read_replicas`": ("read_replicas",),
    "`redis_cache`": ("redis_cache",),
    "`rate_limit`": ("rate_limit",),
    "`distributed_locks`": ("distributed_locks",),
    # But for sharding, which is a look into memory.
    "everything": ("read_replicas", "redis_cache", "rate_limit", "distributed_locks"),
}
FLAGS = LAYERS["everything"]
# A block that was disturbed, by a server that did not answer in time or an entry that expired, is done again.
ATTEMPTS = 4
# By then a cached answer has expired, and a server that did not answer was found again.
AGAIN_SECONDS = 2.0
IDLE_SECONDS = 4.0
# By default a worker asks every node 20 times a second where it stands, which is no request's cost.
SAMPLE_SECONDS = "0.5"
# Of the answers that should come from the cache, or should not. The rest had expired.
SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Figures:
    """Milliseconds of processor time and round trips, so far or of one request."""

    service: float
    postgres: float
    redis: float
    postgres_trips: float
    redis_trips: float
    lock_trips: float

    def values(self) -> tuple[float, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def since(self, before: Figures, idle: Figures, seconds: float, count: float) -> Figures:
        """Of each of `count` requests that took so long, beside what goes on anyway (`idle`, a second)."""
        parts = zip(self.values(), before.values(), idle.values(), strict=True)
        return Figures(*((now - then - rate * seconds) / count for now, then, rate in parts))


NOTHING = Figures(0, 0, 0, 0, 0, 0)


class DisturbedError(Exception):
    """Something else than what was to be measured came in between."""


class Bench:
    """A service with one worker, before the running servers."""

    def __init__(self, servers: Servers, address: str, pid: int, counters: tuple[Proxies, ...]) -> None:
        self.wire = Wire(address)
        self.operator = servers.operator
        self._pid = pid
        self._nodes, self._redis, self._locks = counters
        described = servers.processes()
        self._postgres = {each["name"]: each["pid"] for each in described if each["kind"] == "postgres"}
        self._memory = [each["pid"] for each in described if each["kind"] in ("redis", "lock")]
        self.store = open_store(self.wire, self.operator)
        servers.await_whole(self.store.shard)
        self._primary = servers.primary(self.store.shard)
        self._on: tuple[str, ...] = ()
        self._shoppers = cycle(self.store.sessions)
        self._idle = self._of_a_second()

    def _of_a_second(self) -> Figures:
        """Of a second in which nobody asks."""
        processes = self._processes()
        before, began = self._so_far(processes), time.perf_counter()
        time.sleep(IDLE_SECONDS)
        return self._so_far(processes).since(before, NOTHING, 0, time.perf_counter() - began)

    def block(self, kind: Kind, count: int, *, cached: bool) -> Figures:
        """One request after another; what each costs."""
        for left in reversed(range(ATTEMPTS)):
            try:
                return self._block(kind, count, cached=cached)
            except DisturbedError as error:
                if not left:
                    raise SystemExit(str(error)) from error
                time.sleep(AGAIN_SECONDS)
        raise AssertionError

    def _block(self, kind: Kind, count: int, *, cached: bool) -> Figures:
        requests = kind.requests(self.store)
        for _ in range(kind.warm):
            self._send(next(requests))
        processes = self._processes()
        before, began = self._so_far(processes), time.perf_counter()
        answers = [self._send(next(requests)) for _ in range(count)]
        seconds = time.perf_counter() - began
        figures = self._so_far(processes).since(before, self._idle, seconds, count)
        if cached and kind.x_cache:
            share = sum(answer.headers["x-cache"] == kind.x_cache for answer in answers) / count
            if share < SHARE:
                raise DisturbedError(f"{kind.name}: only {share:.0%} of the answers were a {kind.x_cache}")
        return figures

    def turn(self, on: tuple[str, ...]) -> None:
        """Have these flags on and the others off, and wait until the worker goes by them."""
        for flag in FLAGS:
            body = {"enabled": flag in on}
            good(self.wire, "PUT", f"/v1/admin/flags/{flag}", self.operator, body)
        wait_for(lambda: self._are_on(on), f"{on} in force")
        # What is remembered of a credential counts a moment after somebody began to remember.
        if "redis_cache" in on:
            wait_for(lambda: self._says("x-cache") != "bypass", "the cache is read")
        elif "read_replicas" in on:
            wait_for(lambda: self._says("x-served-by") != self._primary, "replicas are read")
        elif self._on:
            time.sleep(OFF_SECONDS)  # it remembers for as long as other workers may not have heard
        self._on = on

    def _says(self, header: str) -> str:
        page = f"{self.store.path}/products?limit=1"
        return self.wire.request("GET", page, next(self._shoppers)).headers.get(header, "")

    def _are_on(self, on: tuple[str, ...]) -> bool:
        flags = good(self.wire, "GET", "/v1/admin/flags", self.operator)
        return all(flags[flag] == (flag in on) for flag in FLAGS)

    def _send(self, request: Request) -> Answer:
        answer = self.wire.request(*request)
        if not answer.good:
            raise DisturbedError(f"{request[0]} {request[1]}: {answer.status} {answer.body.decode()}")
        return answer

    def _processes(self) -> list[list[psutil.Process]]:
        """The service's, PostgreSQL's and those of Redis and the locks."""
        shard = [pid for name, pid in self._postgres.items() if name.startswith(self.store.shard)]
        children: dict[int, list[psutil.Process]] = {}
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess):
                children.setdefault(process.ppid(), []).append(process)
        return [
            children[self._pid],
            [process for pid in shard for process in (psutil.Process(pid), *children[pid])],
            [psutil.Process(pid) for pid in self._memory],
        ]

    def _so_far(self, processes: list[list[psutil.Process]]) -> Figures:
        service, postgres, redis = (sum(map(_cpu_ms, each)) for each in processes)
        locks = self._locks.round_trips() / len(self._locks.ports)
        return Figures(service, postgres, redis, self._nodes.round_trips(), self._redis.round_trips(), locks)


@contextmanager
def bench(servers: Servers) -> Iterator[Bench]:
    settings = config.load()
    redis = {"redis": str(urlsplit(settings.redis_url).port)}
    urls = settings.lock_urls.split(",")
    locks = {url: str(urlsplit(url).port) for url in urls}
    with ExitStack() as opened:
        counters = (
            opened.enter_context(proxies(servers, 0)),
            opened.enter_context(proxies_to(redis, 0)),
            opened.enter_context(proxies_to(locks, 0)),
        )
        served = opened.enter_context(
            service(
                servers.var,
                CATALOG_DSN=opened.enter_context(catalog(servers, counters[0].ports)),
                REDIS_URL=_through(settings.redis_url, counters[1].ports["redis"]),
                LOCK_URLS=",".join(_through(url, counters[2].ports[url]) for url in urls),
                REPLAY_SAMPLE_SECONDS=SAMPLE_SECONDS,
                WORKERS="1",
            )
        )
        yield Bench(servers, served.address, served.pid, counters)


def _through(url: str, port: int) -> str:
    parts = urlsplit(url)
    credential, at, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{credential}{at}{HOST}:{port}").geturl()


def _cpu_ms(process: psutil.Process) -> float:
    """Processor time so far; of one that has ended, none."""
    with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        if os.access("/proc/self/schedstat", os.R_OK):  # to the nanosecond; psutil has hundredths of a second
            tasks = Path(f"/proc/{process.pid}/task").iterdir()
            return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e6
        return float(sum(process.cpu_times()[:2])) * 1000
    return 0.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.layers", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100, help="requests in a block (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="blocks of each kind, off and on (%(default)s)")
    arguments = parser.parse_args()
    if not 0 < arguments.count < PRODUCTS:
        parser.error(f"--count: below {PRODUCTS}")
    rows = []
    with bench(Servers(config.load().var)) as measured:
        for flags in ((), FLAGS):  # statements are prepared, connections made
            measured.turn(flags)
            for kind in KINDS:
                measured.block(kind, WARM, cached=False)
        for layer, flags in LAYERS.items():
            print(layer, file=sys.stderr)
            rows += [(layer, *row) for row in _compare(measured, flags, arguments.count, arguments.rounds)]
    heads = ["layer", "request", "service, ms", "PostgreSQL, ms", "Redis, ms"]
    print(table([*heads, *(f"round trips to {each}" for each in ("PostgreSQL", "Redis", "locks"))], rows))


def _compare(measured: Bench, flags: tuple[str, ...], count: int, rounds: int) -> list[tuple[str, ...]]:
    """A row for each kind of request."""
    caches = "redis_cache" in flags
    kinds = [kind for kind in KINDS if caches or kind.x_cache != "miss"]
    taken: dict[tuple[Kind, bool], list[Figures]] = {}
    for _ in range(rounds):
        for on in (False, True):
            measured.turn(flags if on else ())
            for kind in kinds:
                figures = measured.block(kind, count, cached=on and caches)
                taken.setdefault((kind, on), []).append(figures)
    return [
        (
            kind.called(cached=caches),
            *map(
                _cell,
                _median(taken[kind, False]).values(),
                _median(taken[kind, True]).values(),
                (2, 2, 2, 1, 1, 1),
            ),
        )
        for kind in kinds
    ]


def _median(figures: list[Figures]) -> Figures:
    return Figures(*(median(column) for column in zip(*(each.values() for each in figures), strict=True)))


def _cell(off: float, on: float, digits: int) -> str:
    return f"{max(0.0, off):.{digits}f} → {max(0.0, on):.{digits}f}"


if __name__ == "__main__":
    main()
