"""The embedded cluster grows and shrinks by `flask shards add` and `remove`, through kills of whoever is at it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from commands.cluster import Cluster
from config import load
from devcluster.control import clean
from tests.cluster_fixtures import ROOT
from tests.commandline import flask
from tests.supervised import Place, wait_until


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    clean(place.layout)
    assert place.running() == []
    assert not place.var.exists()


def flask_process(place: Place, *arguments: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "flask", "--app", "app", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, cwd=ROOT, env=place.environ, stdout=pipe, stderr=pipe, text=True)


def run(place: Place, *arguments: str) -> str:
    answer = flask(load({"VAR": str(place.var)}), *arguments)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@contextmanager
def killed(place: Place, *arguments: str) -> Iterator[None]:
    """A command, killed at the end of the block with all that it has started but servers."""
    with flask_process(place, *arguments) as process:
        yield
        found = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
        for each in found:
            with suppress(psutil.NoSuchProcess):
                each.kill()


def catalog(place: Place) -> Any:
    return Cluster(load({"VAR": str(place.var)})).catalog.load().map


def shares(place: Place) -> dict[str, float]:
    shard_map = catalog(place)
    return {shard.name: shard_map.share(shard.name) for shard in shard_map.shards}


def servers(place: Place) -> set[str]:
    return {process.name for process in place.running()}


def test_a_shard_comes_and_goes_whoever_is_killed_on_the_way(place: Place) -> None:
    first = {"shard-0-a", "shard-0-b", "redis"}
    with place.up() as up:
        with killed(place, "shards", "add", "grown"):
            wait_until((place.layout.data / ".making-grown-b").exists)
        assert shares(place) == {"shard-0": 1}
        assert "grown (grown-a, grown-b) owns 50.0% of the ring." in run(place, "shards", "add", "grown")
        assert servers(place) == {*first, "grown-a", "grown-b"}
        assert shares(place) == {"shard-0": 0.5, "grown": 0.5}
        psutil.Process(place.pid("grown-b")).kill()
        assert up.stdout is not None
        assert any("grown-b" in line and "has died" in line for line in up.stdout)
        up.kill()
        up.wait()
    place.layout.processes.unlink()
    with place.up():
        assert servers(place) == {*first, "grown-a", "grown-b"}
        refused = place.run("remove-shard", "grown")
        assert "grown is in the shard map" in refused.stderr
        run(place, "seed", "--stores", "6", "--products", "6", "--orders", "6", "--random-seed", "1")
        with place.connect("grown-a") as connection:
            assert connection.execute("SELECT FROM stores").rowcount > 0
        with killed(place, "shards", "remove", "grown"):
            wait_until(lambda: shares(place) == {"shard-0": 1, "grown": 0})
        assert "grown has left the ring" in run(place, "shards", "remove", "grown")
        assert shares(place) == {"shard-0": 1}
        assert servers(place) == first
        assert not list(place.layout.data.glob("grown-*"))
        described = json.loads(place.layout.processes.read_text())["processes"]
        assert {each["name"] for each in described} == first
        with place.connect() as connection:
            assert connection.execute("SELECT FROM stores").rowcount == 6


def test_a_cluster_stops_while_a_shard_is_being_made_and_starts_without_it(place: Place) -> None:
    with place.up() as up, flask_process(place, "shards", "add", "grown") as adding:
        wait_until((place.layout.data / ".making-grown-b").exists)
        up.terminate()
        assert up.wait() == 0
        assert adding.wait() == 1
    assert place.running() == []
    with place.up():
        assert servers(place) == {"shard-0-a", "shard-0-b", "redis"}
        assert shares(place) == {"shard-0": 1}
        assert list(place.layout.data.glob("grown-*"))
        run(place, "shards", "remove", "grown")
        assert not list(place.layout.data.glob("grown-*"))
        assert json.loads(place.layout.shards.read_text()) == {}
