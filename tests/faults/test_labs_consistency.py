"""`flask lab`, on a small `make up`: experiments with orders, caches, replicas and failovers.

The suite runs two of them, one also without its cure, and stops a third in the middle. `EVERY_LAB=1` runs all, and
those with failovers too, which takes three minutes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from devcluster.control import clean
from lab.ground import open_ground
from lab.servers import Servers
from tests.cluster_fixtures import ROOT
from tests.supervised import Place, wait_until

LABS = ["double-order", "oversell", "stampede", "stale-cache-fill", "stale-read", "failover", "lost-timeline"]
EVERY_LAB = bool(os.environ.get("EVERY_LAB"))
CURED = LABS if EVERY_LAB else ["double-order", "stale-cache-fill"]
NOT_CURED = LABS if EVERY_LAB else ["double-order"]
STOPS = [signal.SIGTERM, signal.SIGINT] if EVERY_LAB else [signal.SIGTERM]
NODES = ["shard-0-a", "shard-0-b", "shard-0-c"]

_ALTERED = (
    "SELECT name, setting FROM pg_file_settings WHERE sourcefile LIKE '%postgresql.auto.conf' AND applied"
)
_GATES = "SELECT timeline FROM closed_timelines"


class ServedPlace(Place):
    """With the service, and two replicas: one that confirms commits, and one that is late."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, replicas=2)

    def start(self) -> subprocess.Popen[str]:
        small = ["--no-fsync", "--shards=1", f"--replicas={self.replicas}", "--locks=0"]
        return subprocess.Popen(
            [sys.executable, "-m", "devcluster", "up", *small],
            cwd=ROOT,
            env={**self.environ, "SEED": "0"},
            stdout=subprocess.DEVNULL,
            text=True,
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedPlace]:
    place = ServedPlace(tmp_path_factory.mktemp("labs"))
    with place.up() as process:
        wait_until(lambda: any(each["kind"] == "http" for each in Servers(place.var).processes()))
        yield place
    process.wait()
    clean(place.layout)


def lab(place: ServedPlace, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "app", "lab", *arguments],
        cwd=ROOT,
        env=place.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def state(place: ServedPlace) -> dict[str, Any]:
    """All that an experiment may have changed."""
    servers = Servers(place.var)
    primary = servers.primary("shard-0")
    servers.await_whole("shard-0")
    with open_ground(place.var) as ground:
        flags = ground.good("GET", "/v1/admin/flags", servers.operator).document
    with closing(redis.Redis.from_url(servers.url("redis"))) as client:
        keys = list(client.scan_iter("lab:*"))
    return {
        "flags": flags,
        "primary": primary,
        "paused": [node for node in servers.replicas("shard-0") if servers.is_paused(node)],
        "altered": {node: servers.sql(node, _ALTERED) for node in NODES},
        "gates": servers.sql(primary, _GATES),
        "stores": servers.sql(primary, "SELECT store_id FROM stores"),
        "products": servers.sql(primary, "SELECT id FROM products"),
        "schemas": servers.sql(primary, "SELECT nspname FROM pg_namespace WHERE nspname = 'lab'"),
        "keys": keys,
        "stopped": [
            each["name"]
            for each in servers.processes()
            if psutil.Process(each["pid"]).status() == psutil.STATUS_STOPPED
        ],
    }


@pytest.mark.parametrize("name", CURED)
def test_a_lab_gives_its_figures_and_leaves_the_cluster_as_it_was(place: ServedPlace, name: str) -> None:
    before = state(place)
    process = lab(place, name, "--json")
    said, complaints = process.communicate()
    assert process.returncode == 0, complaints
    found = json.loads(said)
    first, *_, last = found["variants"]
    assert found["without"] == first[found["figure"]] != last[found["figure"]] == found["with"]
    assert state(place) == before


@pytest.mark.parametrize("name", NOT_CURED)
def test_a_lab_without_its_cure_fails(place: ServedPlace, name: str) -> None:
    before = state(place)
    process = lab(place, name, "--without-cure")
    _, complaints = process.communicate()
    assert process.returncode == 1, complaints
    assert "the pattern did not hold" in complaints
    assert state(place) == before


@pytest.mark.parametrize("stop", STOPS)
def test_a_lab_that_is_stopped_while_a_replica_is_late_has_it_replay_again(
    place: ServedPlace, stop: signal.Signals
) -> None:
    before = state(place)
    servers = Servers(place.var)
    replicas = servers.replicas("shard-0")
    process = lab(place, "stale-read")
    wait_until(lambda: any(map(servers.is_paused, replicas)) or process.poll() is not None)
    process.send_signal(stop)
    _, complaints = process.communicate()
    assert process.returncode != 0, complaints
    assert "Traceback" not in complaints
    assert state(place) == before


def is_dead(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.skipif(not EVERY_LAB, reason="takes half a minute: EVERY_LAB=1")
def test_a_lab_that_is_stopped_while_the_primary_is_dead_leaves_the_shard_whole(place: ServedPlace) -> None:
    before = state(place)
    servers = Servers(place.var)
    primary = psutil.Process(place.pid(servers.primary("shard-0")))
    process = lab(place, "failover")
    wait_until(lambda: is_dead(primary) or process.poll() is not None)
    process.terminate()
    _, complaints = process.communicate()
    assert process.returncode != 0, complaints
    assert "Traceback" not in complaints
    assert state(place) == before
