"""`make up` and its commands when a server was failed over: it comes back by itself, now or at the next start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from devcluster.control import clean, described
from tests.cluster_fixtures import ROOT
from tests.pseudo_terminal import terminal
from tests.supervised import PATIENCE_SECONDS, Place, wait_until

A, B = "shard-0-a", "shard-0-b"


class Shard:
    """One shard under a supervisor that runs, and what that has said."""

    def __init__(self, place: Place, up: subprocess.Popen[str]) -> None:
        self.place, self.up = place, up
        self.said: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.up.stdout is not None
        for line in self.up.stdout:
            self.said.append(line.strip())

    def heard(self, words: str) -> bool:
        return any(words in line for line in self.said)

    def signal(self, name: str, number: int) -> None:
        os.kill(self.place.pid(name), number)

    def promote(self, name: str) -> None:
        with self.place.connect(name) as connection:
            assert connection.execute("SELECT pg_promote()").fetchone() == (True,)

    def follows(self, name: str, primary: str) -> bool:
        ports = {each["port"]: each["name"] for each in described(self.place.layout)}
        with suppress(psycopg.Error, StopIteration), self.place.connect(name) as connection:
            row = connection.execute(
                "SELECT sender_port FROM pg_stat_wal_receiver WHERE status = 'streaming'"
            )
            return [ports[port] for (port,) in row] == [primary]
        return False

    def read(self, name: str) -> list[int]:
        with suppress(psycopg.Error):
            return self.place.read(name)
        return []


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    clean(place.layout)
    assert place.running() == []


@contextmanager
def shard_of(place: Place) -> Iterator[Shard]:
    with place.up() as up:
        shard = Shard(place, up)
        try:
            wait_until(lambda: shard.heard("Ctrl-C stops everything"))
            yield shard
        finally:
            up.terminate()
            shard.reader.join()


def test_a_primary_that_was_killed_and_failed_over_comes_back_by_itself(place: Place) -> None:
    with shard_of(place) as shard:
        place.write(1)
        before = place.pid(A)
        shard.signal(A, signal.SIGKILL)
        wait_until(lambda: shard.heard(f"{A} (process {before}) has died"))
        shard.promote(B)
        wait_until(lambda: shard.follows(A, B))
        assert shard.read(A) == [1]
        wait_until(lambda: shard.heard(f"{A} is a replica of {B} now"))
        wait_until(lambda: place.pid(A) != before)
        assert psutil.Process(place.pid(A)).name() == "postgres"
        assert [line for line in shard.said if line.startswith(A)][1:] == [
            f"{A} is not on the timeline of {B}: bringing it back as a replica",
            f"{A} is a replica of {B} now",
        ]


@pytest.mark.parametrize("recorded", [True, False])
def test_an_old_primary_that_runs_on_comes_back_whoever_started_it(place: Place, recorded: bool) -> None:
    with shard_of(place) as shard:
        place.write(1)
        shard.signal(A, signal.SIGSTOP)
        shard.promote(B)
        wait_until(lambda: shard.heard("is frozen"))
        if not recorded:
            (place.layout.records / f"{A}.json").unlink()
        shard.signal(A, signal.SIGCONT)
        wait_until(lambda: shard.follows(A, B))
        assert not shard.heard("has died")


def test_an_old_primary_that_was_left_behind_comes_back_at_the_next_start(place: Place) -> None:
    with shard_of(place) as shard:
        place.write(1)
        shard.signal(A, signal.SIGSTOP)
        shard.promote(B)
        shard.up.terminate()
        assert shard.up.wait(PATIENCE_SECONDS) == 0
    with shard_of(place) as shard:
        assert shard.heard(f"{A} is a replica of {B} now")
        assert shard.follows(A, B)
        wait_until(lambda: shard.read(A) == [1])


def test_a_stop_while_a_server_is_brought_back_leaves_nothing_running_and_nothing_broken(
    place: Place,
) -> None:
    with shard_of(place) as shard:
        place.write(1)
        shard.signal(A, signal.SIGKILL)
        shard.promote(B)
        wait_until(lambda: shard.heard("bringing it back") or shard.up.poll() is not None)
        shard.up.terminate()
        assert shard.up.wait(PATIENCE_SECONDS) == 0
        assert place.running() == []
    with shard_of(place) as shard:
        wait_until(lambda: shard.follows(A, B))
        wait_until(lambda: shard.read(A) == [1])


def test_psql_finds_the_primary_of_the_newest_timeline_while_an_old_one_accepts_writes(place: Place) -> None:
    with shard_of(place) as shard:
        place.write(1)
        shard.signal(A, signal.SIGSTOP)
        shard.promote(B)
        shard.up.kill()  # nobody brings it back
        shard.up.wait()
        shard.signal(A, signal.SIGCONT)
        asked = place.run("psql", "shard-0-primary", "-Atc", "SELECT current_setting('cluster_name')")
        assert (asked.stdout, asked.stderr) == (f"{B}\n", "")
        stale = [sys.executable, "-m", "devcluster", "psql", A]
        with terminal(stale, place.environ | {"NO_COLOR": "1"}, str(ROOT)) as screen:
            screen.until(f"{A} was-primary t1 marketplace=# ")
        with place.connect(A) as connection:
            assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (False,)
