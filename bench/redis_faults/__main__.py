"""What a broken Redis costs a request: the first one that meets it, all later ones, and how soon all is well again.

    .venv/bin/python -m bench.redis_faults [--theirs PYTHON]

It starts a small cluster, Valkeys and the service with all five flags on, all of its own, and breaks the Valkeys. Of
each kind of request one a worker is sent as the fault begins, the later ones at a low rate. `--theirs` names a Python
that has flask-limiter: that and bare redis-py are measured on a frozen Valkey beside it. Tables in Markdown.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from select import select
from statistics import quantiles

from bench.limiter import Server
from bench.redis_faults.faults import Fault, of_locks, of_server, slow_network
from bench.redis_faults.requests import CARTS, Figures, Shoppers
from bench.replicas.stores import open_stores
from bench.service import free_port, free_ports, service
from bench.table import table
from config import ROOT
from lab.servers import Servers

FLAGS = ("sharding", "read_replicas", "redis_cache", "rate_limit", "distributed_locks")
PRODUCTS = 30
QUOTA = 100_000
# A lock server counts once it has been up for longer than a lease.
LOCK_TTL_SECONDS = 1
# A flag is in force everywhere, and what is remembered of credentials counts.
SETTLE_SECONDS = 3.0
SERVER_ERROR = 500
SUMMARY_HEADS = (
    "fault",
    "first request, ms",
    "later, extra ms: p50",
    "p99",
    "5xx without a cart",
    "carts",
    "well again after, s",
)

Found = dict[str, Figures]  # by kind


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.redis_faults", description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2, help="of the service (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each fault, and before (%(default)s)")
    parser.add_argument("--faults", nargs="+", default=[], metavar="WORD", help="only those with such a name")
    parser.add_argument("--theirs", metavar="PYTHON", help="a Python that has flask-limiter")
    parser.add_argument("--theirs-seconds", type=float, default=65.0, help="at most, each (%(default)s)")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with ExitStack() as running:
        folders = [running.enter_context(tempfile.TemporaryDirectory()) for _ in range(4)]
        server, *locks = (running.enter_context(closing(Server(folder))) for folder in folders)
        if options.theirs:
            print(theirs(server, options.theirs, options.theirs_seconds), end="\n\n", flush=True)
        servers = running.enter_context(cluster())
        lock_urls = ",".join(each.url for each in locks)
        settings = {"REDIS_URL": server.url, "LOCK_URLS": lock_urls}
        rows = run(servers, settings, [*of_server(server), *of_locks(locks)], options)
        port, slow = running.enter_context(slow_network(int(server.admin.get_connection_kwargs()["port"])))
        rows += run(servers, settings | {"REDIS_URL": f"redis://127.0.0.1:{port}/0"}, [slow], options)
    print(table(SUMMARY_HEADS, rows))


def run(
    servers: Servers, settings: dict[str, str], faults: Sequence[Fault], options: argparse.Namespace
) -> list[list[object]]:
    """Each fault on a service with these settings; prints what was found, and returns a row for each."""
    faults = [
        each for each in faults if not options.faults or any(word in each.name for word in options.faults)
    ]
    if not faults:
        return []
    quotas = {f"RATE_LIMIT_{whom}": f"{QUOTA}/10" for whom in ("SESSION", "KEY", "ADDRESS", "STORE")}
    own = {"WORKERS": str(options.workers), "LOCK_TTL_SECONDS": str(LOCK_TTL_SECONDS)}
    rows = []
    with service(servers.var, **settings, **own, **quotas) as served:
        served_servers = servers.served_at(served.address)
        for flag in FLAGS:
            served_servers.switch(flag, enabled=True)
        store = open_stores(served_servers, PRODUCTS)[0]
        shoppers = Shoppers(served, store, options.workers, QUOTA)
        time.sleep(SETTLE_SECONDS)
        for each in faults:
            found, well = measure(shoppers, each, each.kinds or list(shoppers.kinds), options.seconds)
            load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
            print(f"**{each.name}** ({load})\n\n{by_kind(found)}\n", flush=True)
            rows.append(summary(each, found, well))
    return rows


def measure(
    shoppers: Shoppers, fault: Fault, kinds: Sequence[str], seconds: float
) -> tuple[Found, list[float]]:
    """The fault once for each kind, which meets it first; and each time the seconds until all is well again."""
    found: Found = {kind: Figures() for kind in kinds}
    well = []

    def later(kind: str, milliseconds: float, status: int) -> None:
        found[kind].later.append(milliseconds)
        found[kind].statuses[status] += 1

    for first in kinds:
        shoppers.until_well()
        shoppers.steadily(seconds, kinds, lambda kind, ms, _status: found[kind].before.append(ms))
        fault.begin()
        try:
            for wire in shoppers.wires:
                milliseconds, status = shoppers.ask(first, wire)
                found[first].first.append(milliseconds)
                found[first].statuses[status] += 1
            shoppers.steadily(seconds, kinds, later)
        finally:
            fault.end()
        well.append(shoppers.until_well())
    return found, well


def by_kind(found: Found) -> str:
    rows = []
    for kind, figures in found.items():
        before, later = (_middle_and_tail(times) for times in (figures.before, figures.later))
        said = ", ".join(f"{status}: {count}" for status, count in sorted(figures.statuses.items()))
        rows.append(
            [
                kind,
                *(f"{number:.1f}" for number in (max(figures.first), *before, *later, *_extra(figures))),
                said,
            ]
        )
    heads = ("first, ms", "before, p50", "p99", "later, p50", "p99", "extra, p50", "p99", "answers")
    return table(("request", *heads), rows)


def summary(fault: Fault, found: Found, well: Sequence[float]) -> list[object]:
    """The worst of all kinds."""
    extra = [_extra(figures) for figures in found.values()]
    failed = sum(
        count
        for kind, figures in found.items()
        for status, count in figures.statuses.items()
        if kind not in CARTS and (status >= SERVER_ERROR or not status)
    )
    carts = Counter[int]()
    for kind in CARTS:
        carts += found[kind].statuses if kind in found else Counter()
    return [
        fault.name,
        f"{max(max(figures.first) for figures in found.values()):.0f}",
        f"{max(middle for middle, _ in extra):.1f}",
        f"{max(tail for _, tail in extra):.1f}",
        failed,
        ", ".join(str(status) for status in sorted(carts)) or "",
        f"{max(well):.2f}",
    ]


def _extra(figures: Figures) -> tuple[float, float]:
    (middle, tail), (later_middle, later_tail) = map(_middle_and_tail, (figures.before, figures.later))
    return later_middle - middle, later_tail - tail


def _middle_and_tail(times: Sequence[float]) -> tuple[float, float]:
    cuts = quantiles(times, n=100)
    return cuts[49], cuts[98]


def theirs(server: Server, python: str, seconds: float) -> str:
    """What the packages' calls take on a frozen server, for so many seconds each."""
    rows = []
    for kind in ("flask-limiter", "redis-py"):
        command = [python, str(Path(__file__).with_name("theirs.py")), kind, server.url]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdout.readline()
            server.stop("frozen")
            try:
                process.stdin.write(b"go\n")
                process.stdin.flush()
                began, times = time.monotonic(), []
                while (left := began + seconds - time.monotonic()) > 0:
                    if select([process.stdout], [], [], left)[0]:
                        times.append(float(process.stdout.readline()) / 1000)
            finally:
                server.go_on("frozen")
                process.kill()
        first = f"{times[0]:.2f}" if times else f"more than {seconds:.0f}"
        slow = Counter(f"{each:.0f}" for each in times[1:] if each >= 1)
        rows.append(
            [kind, first, len(times[1:]), ", ".join(f"{n} of {s} s" for s, n in slow.items()) or "none"]
        )
    return table(("frozen Valkey", "first call, s", "later calls", "of these a second or longer"), rows)


@contextmanager
def cluster() -> Iterator[Servers]:
    """PostgreSQL for the service, in a folder of its own, as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="infinite-scaling-bench-") as folder:
        Path(folder).chmod(0o711)  # the servers' account must get through, where root runs this
        var = Path(folder) / "var"
        environment = {
            **os.environ,
            "VAR": str(var),
            "CLUSTER_PORT": str(free_ports(4)),
            "PORT": str(free_port()),
        }
        command = [sys.executable, "-m", "devcluster"]
        shape = ["--servers-only", "--no-fsync", "--shards", "1", "--replicas", "2", "--locks", "0"]
        process = subprocess.Popen(
            [*command, "up", *shape], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            if not any(line.startswith("up in") for line in iter(process.stdout.readline, "")):
                raise SystemExit("the cluster did not start")
            yield Servers(var)
        finally:
            process.terminate()
            process.communicate()
            subprocess.run(
                [*command, "clean"], cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL
            )


if __name__ == "__main__":
    main()
