"""The ground of a run: a cluster of its own with the service on it, seeded once, in a folder that goes with the run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.run.budgets import tree_pids
from bench.run.options import Options
from bench.service import free_ports
from config import ROOT
from lab.servers import Servers, wait_for
from lab.wire import DroppedError, Wire

_PREFIX = "infinite-scaling-bench-"
# Two shards of three, Redis, three lock nodes; and the service.
_PORTS = 11
_STOP_SECONDS = 90.0
# All of the load comes from one address, and each merchant's prices from one key; quotas of people would refuse it.
_LARGE_QUOTA = "100000/10"


@dataclass(frozen=True, slots=True)
class Ground:
    """`keys` has a line of JSON a store, the one drawn most often first; `store_ids` are in the same order."""

    servers: Servers
    keys: Path
    store_ids: tuple[str, ...]

    @property
    def base_url(self) -> str:
        return f"http://{self.servers.address}"

    def pids(self) -> dict[str, tuple[str, int]]:
        """Kind and main process of each server."""
        return {each["name"]: (each["kind"], int(each["pid"])) for each in self.servers.processes()}

    def tree(self, name: str) -> list[int]:
        return tree_pids(self.pids()[name][1])

    def redis_url(self) -> str:
        return next(str(each["dsn"]) for each in self.servers.processes() if each["kind"] == "redis")


@contextmanager
def prepared(options: Options, report: Callable[[str], object]) -> Iterator[Ground]:
    """Until the block ends."""
    _remove_abandoned()
    var = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    var.chmod(0o711)  # the servers' account must get through, where root runs this
    first = free_ports(_PORTS)
    environ = {
        **os.environ,
        "VAR": str(var),
        "CLUSTER_PORT": str(first),
        "PORT": str(first + _PORTS - 1),
        "SEED": "0",
        "WORKERS": str(options.workers),
        "MOVE_UNDO_SECONDS": "0",
        "MOVE_ROWS_PER_SECOND": "0",
        "RATE_LIMIT_ADDRESS": _LARGE_QUOTA,
        "RATE_LIMIT_KEY": _LARGE_QUOTA,
        "RATE_LIMIT_STORE": _LARGE_QUOTA,
    }
    environ.pop("OPERATOR_TOKEN", None)  # made up, and found in the folder
    try:
        with _cluster(var, environ, durable=options.durable):
            report("the cluster is up")
            yield _seeded(var, environ, options, report)
    finally:
        _run(environ, "-m", "devcluster", "clean")
        shutil.rmtree(var, ignore_errors=True)


@contextmanager
def _cluster(var: Path, environ: Mapping[str, str], *, durable: bool) -> Iterator[None]:
    command = [sys.executable, "-m", "devcluster", "up", *(() if durable else ("--no-fsync",))]
    said = var / "said"
    with said.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # a Ctrl-C is for this process, which stops the cluster in order
        )
    try:
        wait_for(lambda: process.poll() is not None or _is_ready(var), "the cluster is ready")
        if process.poll() is not None:
            raise SystemExit(f"the cluster did not start:\n{said.read_text()}")
        yield
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)


def _is_ready(var: Path) -> bool:
    with suppress(OSError, ValueError, DroppedError):
        described = json.loads((var / "cluster.json").read_text())
        if any(each["kind"] == "http" for each in described["processes"]):
            with Wire(described["base_url"].partition("//")[2]) as wire:
                return wire.request("GET", "/readyz").good
    return False


def _seeded(
    var: Path, environ: Mapping[str, str], options: Options, report: Callable[[str], object]
) -> Ground:
    keys = var / "keys"
    numbers = {"stores": options.stores, "products": options.products, "orders": options.orders}
    arguments = [f"--{name}={number}" for name, number in numbers.items()]
    arguments += [f"--random-seed={options.seed}", f"--keys={keys}"]
    flask(environ, "seed", *arguments)
    ids = tuple(json.loads(line)["store_id"] for line in keys.read_text().splitlines())
    report(f"seeded {len(ids)} stores, {options.products:,} products, {options.orders:,} orders")
    servers = Servers(var)
    for shard in servers.shards:
        with servers.connect(servers.primary(shard)) as connection:
            connection.execute("VACUUM (ANALYZE)")
        servers.await_whole(shard)
    return Ground(servers, keys, ids)


def flask(environ: Mapping[str, str], *arguments: str) -> str:
    """A command of the service. Raises `SystemExit` with what it said where it failed."""
    ran = _run(environ, "-m", "flask", "--app", "app", *arguments)
    if ran.returncode:
        raise SystemExit(f"flask {' '.join(arguments)}: {ran.stdout}{ran.stderr}")
    return ran.stdout


def _run(environ: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )


def _remove_abandoned() -> None:
    """Clusters of runs that were killed: their folders have the process that made them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        maker = folder.name.removeprefix(_PREFIX).partition("-")[0]
        ours = maker.isdecimal() and folder.is_dir() and folder.stat().st_uid == os.geteuid()
        if ours and not psutil.pid_exists(int(maker)):
            _run({**os.environ, "VAR": str(folder)}, "-m", "devcluster", "clean")
            shutil.rmtree(folder, ignore_errors=True)
