"""Remembered positions while their server is frozen, dead, full, read-only or back with another memory."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from ephemeral.client import connect
from ephemeral.node import LONGEST_PROBE_SECONDS
from ephemeral.positions import Place, Recalled, RememberedPositions
from ephemeral.round_trip import PROBE_SECONDS, RoundTrips
from tests.cluster_fixtures import free_ports
from tests.shard_servers import until
from tests.valkey_server import ValkeyServer, running_valkey

ROOT = Path(__file__).resolve().parents[2]
SESSION = "st_of-a-shopper"
ONE = 7
FLOOR: dict[int, Place] = {ONE: (1, 100)}


@pytest.fixture(scope="module")
def running() -> Iterator[ValkeyServer]:
    with running_valkey() as server:
        yield server


@pytest.fixture
def server(running: ValkeyServer) -> ValkeyServer:
    running.admin.flushall()
    return running


class Process:
    """One process's view. `samples` says whether its sampler reaches the primaries."""

    def __init__(self, url: str, probe_seconds: float = PROBE_SECONDS) -> None:
        self.samples = True
        trips = RoundTrips(connect(url), probe_seconds=probe_seconds)
        self.positions = RememberedPositions(trips, 120, lambda _moment: FLOOR if self.samples else None)

    def settle(self) -> Process:
        until(lambda: self.recall() is not None)
        return self

    def remember(self, place: Place) -> bool:
        return self.positions.remember(SESSION, {ONE: place})

    def recall(self) -> Recalled | None:
        return self.positions.recall(SESSION)[0]


@pytest.fixture
def process(server: ValkeyServer) -> Process:
    return Process(server.url).settle()


def several_lines(process: Process) -> None:
    """Leave it with more than one connection open."""
    barrier = threading.Barrier(8)

    def recall(_number: int) -> None:
        barrier.wait()
        process.recall()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(recall, range(8)))


def connects(server: ValkeyServer) -> bool:
    """On a new connection."""
    with redis.Redis.from_url(server.url) as client:
        return bool(client.ping())


# Another memory than before


def test_after_a_restart_without_its_memory_nothing_is_known_until_the_floor(
    process: Process, server: ValkeyServer
) -> None:
    assert process.remember((1, 50))
    process.samples = False
    server.restart()
    assert [process.recall() for _ in range(3)] == [None] * 3
    process.samples = True
    assert process.recall() == Recalled({}, FLOOR)


def test_after_a_restart_with_an_old_memory_nothing_is_known_until_the_floor(
    process: Process, server: ValkeyServer
) -> None:
    """The marker is in the snapshot, the latest write is not."""
    assert process.remember((1, 40))
    server.admin.save()
    assert process.remember((1, 50))
    process.samples = False
    server.restart(with_snapshot=True)
    assert [process.recall() for _ in range(3)] == [None] * 3
    process.samples = True
    assert process.recall() == Recalled({ONE: (1, 40)}, FLOOR)


def test_a_restart_fails_nobody_who_comes_when_it_is_over(process: Process, server: ValkeyServer) -> None:
    several_lines(process)
    server.restart()
    assert process.remember((1, 50))
    assert [process.recall() for _ in range(2)] == [None] * 2  # the marker is made, then seen
    assert process.recall() == Recalled({ONE: (1, 50)}, FLOOR)


# Away


def test_while_it_is_frozen_nothing_is_known_and_afterwards_everything(
    process: Process, server: ValkeyServer
) -> None:
    assert process.remember((1, 50))
    before = process.recall()
    with server.frozen():
        assert process.recall() is None
        assert not process.remember((1, 60))
        assert process.recall() is None
    until(lambda: process.recall() is not None)
    assert before == Recalled({ONE: (1, 50)}, FLOOR)
    assert process.remember((1, 70))
    assert process.recall() == Recalled({ONE: (1, 70)}, FLOOR)


def test_who_finds_it_frozen_spares_the_others(server: ValkeyServer) -> None:
    """Counted at the server, which sees every connection that was tried when it goes on."""
    process = Process(server.url, probe_seconds=3600).settle()

    def tried() -> int:
        return int(server.admin.info("stats")["total_connections_received"])

    def ask(_number: int) -> bool:
        return process.recall() is None and not process.remember((1, 60))

    before = tried()
    with server.frozen(), ThreadPoolExecutor(20) as threads:
        assert process.recall() is None  # over the connection there was
        assert all(threads.map(ask, range(200)))
    assert connects(server)  # after whoever else tried
    assert tried() == before + 1


def test_while_it_loads_its_memory_it_is_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It answers who it is, and nothing else yet: taken for an answer, that would make it come and go all the time."""
    slow = "--key-load-delay", "500", "--loading-process-events-interval-bytes", "1024"
    server = ValkeyServer(tmp_path, *slow)
    server.start()
    process = Process(server.url).settle()
    server.admin.mset({f"key-{number}": "x" * 100 for number in range(2000)})
    server.admin.save()
    server.kill()
    with ThreadPoolExecutor(1) as thread:
        started = thread.submit(server.start)
        until(lambda: process.recall() is None and started.done())
    until(lambda: process.recall() is not None)
    server.kill()
    said = [record.getMessage() for record in caplog.records]
    assert [sum(words in each for each in said) for words in ("is away", "answers again")] == [1, 1]


def test_one_that_is_lost_again_and_again_is_looked_for_less_often(server: ValkeyServer) -> None:
    """Each time it is let back in costs a request its patience."""
    process, pauses = Process(server.url, probe_seconds=0.2).settle(), []
    for _ in range(4):
        with server.frozen():
            assert process.recall() is None
            pauses.append(process.positions._server._fleet.only()._pause_seconds)  # type: ignore[union-attr]
        until(lambda: process.recall() is not None)
    assert pauses == sorted(pauses)
    assert pauses[0] < pauses[-1] <= LONGEST_PROBE_SECONDS


def test_nobody_there_is_no_error(server: ValkeyServer) -> None:
    nowhere = Process(f"redis://127.0.0.1:{free_ports(1)}/0")
    assert nowhere.recall() is None
    assert not nowhere.remember((1, 1))
    nowhere.positions.distrust(0)
    assert nowhere.recall() is None


def test_who_could_not_reach_it_and_who_could_agree_afterwards(server: ValkeyServer) -> None:
    """The write of the one that could not was told to be unknown; the other's is there."""
    here, there = Process(server.url).settle(), Process(server.url).settle()
    with server.frozen():
        assert not here.remember((1, 60))
    assert there.remember((1, 50))
    until(lambda: here.recall() == there.recall() is not None)


# There, and refusing


def test_a_full_server_stores_nothing_and_still_tells(process: Process, server: ValkeyServer) -> None:
    assert process.remember((1, 50))
    server.admin.config_set("maxmemory", "1")
    try:
        assert not process.remember((1, 60))
        assert process.recall() == Recalled({ONE: (1, 50)}, FLOOR)
    finally:
        server.admin.config_set("maxmemory", "0")
    assert process.remember((1, 60))


def test_a_server_that_has_become_a_replica_is_not_believed(process: Process, server: ValkeyServer) -> None:
    assert process.remember((1, 50))
    server.admin.replicaof("127.0.0.1", str(free_ports(1)))
    try:
        assert process.recall() is None
        assert not process.remember((1, 60))
        assert Process(server.url).recall() is None
    finally:
        server.admin.replicaof("NO", "ONE")
    process.samples = False  # what it has now may be what the other one had
    assert [process.recall() for _ in range(3)] == [None] * 3
    process.samples = True
    assert process.recall() == Recalled({ONE: (1, 50)}, FLOOR)


def test_one_that_was_met_busy_with_a_script_is_believed_when_that_has_ended(server: ValkeyServer) -> None:
    """Busy, it does not say who it is; a connection that was made then would never know."""
    server.admin.config_set("lua-time-limit", "1")
    with redis.Redis.from_url(server.url) as client, ThreadPoolExecutor(1) as threads:
        script = threads.submit(client.eval, "while true do end", 0)
        try:
            until(lambda: is_busy(server))
            process = Process(server.url)
            assert process.recall() is None
        finally:
            server.admin.script_kill()
        assert isinstance(script.exception(), redis.ResponseError)
    process.settle()


def is_busy(server: ValkeyServer) -> bool:
    try:
        server.admin.ping()
    except redis.ResponseError:
        return True
    return False


def test_a_wrong_password_is_no_error(server: ValkeyServer) -> None:
    stranger = Process(server.url.replace("of-a-test", "wrong"))
    assert stranger.recall() is None
    assert not stranger.remember((1, 1))


def test_a_greenlet_that_is_interrupted_takes_no_connection_with_it(server: ValkeyServer) -> None:
    """With one connection: what is left unread on it would be the next one's answer, and losing it would be the end."""
    finished = subprocess.run(
        [sys.executable, "-m", "tests.faults.positions_greenlets", server.url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (finished.returncode, finished.stdout) == (0, "interrupted\nright\n"), finished.stderr
