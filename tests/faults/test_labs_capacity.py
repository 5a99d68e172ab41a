"""`flask lab`, on a small `make up`: experiments with limits, locks, Redis, pools and shards.

The suite runs one of them, and stops another in the middle; `EVERY_LAB=1` runs all, which takes minutes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psutil
import psycopg
import pytest
import redis

from config import load
from devcluster.control import clean
from lab.grown_ring import NEW
from lab.servers import Servers
from routing.catalog import Catalog, Snapshot
from tests.cluster_fixtures import ROOT, free_ports
from tests.supervised import Place, wait_until

LABS = ["limiter-burst", "lock-fencing", "frozen-redis", "hot-store", "add-shard", "pool-size"]
EVERY = bool(os.environ.get("EVERY_LAB"))
RUN = LABS if EVERY else ["hot-store"]
SIGNALS = [signal.SIGTERM, signal.SIGINT] if EVERY else [signal.SIGTERM]
LOCKS = 3
# Of one more shard, and the service's.
MORE_PORTS = 3


class ServedPlace(Place):
    """With the service and the lock servers, and room for one more shard."""

    def __init__(self, folder: Any) -> None:
        super().__init__(folder)
        self.first_port = free_ports(self.replicas + 2 + LOCKS + MORE_PORTS)

    @property
    def environ(self) -> dict[str, str]:
        port = self.first_port + self.replicas + 2 + LOCKS + MORE_PORTS - 1
        return {**super().environ, "PORT": str(port), "SEED": "0"}

    def start(self) -> subprocess.Popen[str]:
        small = ["--no-fsync", "--shards=1", f"--replicas={self.replicas}", f"--locks={LOCKS}"]
        return subprocess.Popen(
            [sys.executable, "-m", "devcluster", "up", *small],
            cwd=ROOT,
            env=self.environ,
            stdout=subprocess.DEVNULL,
            text=True,
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedPlace]:
    folder = tmp_path_factory.mktemp("labs")
    place = ServedPlace(folder)
    with place.up() as process:
        wait_until(lambda: is_served(place))
        yield place
    process.wait()
    clean(place.layout)


def is_served(place: ServedPlace) -> bool:
    return any(each["kind"] == "http" for each in Servers(place.var).processes())


def lab(place: ServedPlace, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "app", "lab", *arguments],
        cwd=ROOT,
        env=place.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def catalog(place: ServedPlace) -> Snapshot:
    conninfo = load({"VAR": str(place.var)}).catalog_dsn
    return Catalog(lambda: psycopg.connect(conninfo, autocommit=True)).load()


def state(place: ServedPlace) -> dict[str, Any]:
    """All that an experiment may have changed, but for the epoch."""
    servers = Servers(place.var)
    found = catalog(place)
    with closing(redis.Redis.from_url(servers.url("redis"))) as client:
        keys = list(client.scan_iter("lab:*"))
    return {
        "flags": found.flags,
        "map": (found.map.shards, found.map.nodes, found.map.partitions, dict(found.map.pins)),
        "stores": servers.sql("shard-0-a", "SELECT store_id FROM stores"),
        "orders": servers.sql("shard-0-a", "SELECT id FROM orders"),
        "schemas": servers.sql("shard-0-a", "SELECT nspname FROM pg_namespace WHERE nspname = 'lab'"),
        "keys": keys,
        "processes": [(each["name"], each["pid"]) for each in servers.processes()],
        "stopped": [
            each["name"]
            for each in servers.processes()
            if psutil.Process(each["pid"]).status() == psutil.STATUS_STOPPED
        ],
    }


@pytest.mark.parametrize("name", RUN)
def test_a_lab_gives_its_figures_and_leaves_the_cluster_as_it_was(place: ServedPlace, name: str) -> None:
    before = state(place)
    process = lab(place, name, "--json")
    said, complaints = process.communicate()
    assert process.returncode == 0, complaints
    found = json.loads(said)
    first, *_, last = found["variants"]
    assert found["without"] == first[found["figure"]] != last[found["figure"]] == found["with"]
    assert state(place) == before


@pytest.mark.skipif(not EVERY, reason="takes as long again; EVERY_LAB=1 runs it")
@pytest.mark.parametrize("name", RUN)
def test_a_lab_without_its_cure_fails(place: ServedPlace, name: str) -> None:
    before = state(place)
    process = lab(place, name, "--without-cure")
    _, complaints = process.communicate()
    assert (process.returncode, complaints.splitlines()[-1].partition(":")[0]) == (1, "Error")
    assert "the pattern did not hold" in complaints
    assert state(place) == before


@pytest.mark.parametrize("stop", SIGNALS)
def test_a_lab_that_is_stopped_while_redis_is_frozen_leaves_it_running(
    place: ServedPlace, stop: signal.Signals
) -> None:
    before = state(place)
    frozen = psutil.Process(place.pid("redis"))
    process = lab(place, "frozen-redis")
    wait_until(lambda: frozen.status() == psutil.STATUS_STOPPED or process.poll() is not None)
    process.send_signal(stop)
    _, complaints = process.communicate()
    assert process.returncode != 0, complaints
    assert "Traceback" not in complaints
    assert state(place) == before


def has_servers(place: ServedPlace) -> bool:
    return any(each["name"] == f"{NEW}-a" for each in Servers(place.var).processes())


def has_joined(place: ServedPlace) -> bool:
    return any(shard.name == NEW for shard in catalog(place).map.shards)


@pytest.mark.skipif(not EVERY, reason="takes twenty seconds; EVERY_LAB=1 runs it")
@pytest.mark.parametrize("there", [has_servers, has_joined])
def test_a_lab_that_is_stopped_with_one_more_shard_takes_it_away(
    place: ServedPlace, there: Callable[[ServedPlace], bool]
) -> None:
    before = state(place)
    process = lab(place, "add-shard")
    wait_until(lambda: there(place) or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    _, complaints = process.communicate()
    assert process.returncode != 0, complaints
    assert "Traceback" not in complaints
    assert state(place) == before
