"""What is remembered of a credential's writes: by one process, for every other, until it would not matter any more."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from ephemeral.client import connect
from ephemeral.positions import Place, Recalled, RememberedPositions
from ephemeral.round_trip import RoundTrips
from tests.shard_servers import until
from tests.valkey_server import ValkeyServer, running_valkey

SESSION, KEY = "st_of-a-shopper", "mk_of-a-merchant"
ONE, OTHER = 0x0102030405060708, 2**64 - 1
FLOOR = {ONE: (1, 100), OTHER: (1, 50)}
TTL_SECONDS = 120


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Process:
    """One process's view: its own connections, its own clock, and the floors its sampler has to offer."""

    def __init__(self, url: str, ttl_seconds: int = TTL_SECONDS) -> None:
        self.clock = Clock()
        self.samples: tuple[float, Mapping[int, Place]] | None = None
        self.positions = RememberedPositions(
            RoundTrips(connect(url, 1.0)), ttl_seconds, self._sample_floor, self.clock
        )

    def sample(self, floor: Mapping[int, Place] = FLOOR) -> None:
        """The primaries are sampled now, a moment after whatever has happened so far."""
        self.clock.now += 1
        self.samples = self.clock.now, floor

    def settle(self) -> Process:
        """Bring it to where it has a floor: it makes or finds the marker, sees it, then samples."""
        assert [self.recall(SESSION), self.recall(SESSION)] == [None, None]
        self.sample({})
        assert self.recall(SESSION) is not None
        return self

    def recall(self, credential: str) -> Recalled | None:
        return self.positions.recall(credential)[0]

    def _sample_floor(self, moment: float) -> Mapping[int, Place] | None:
        return self.samples[1] if self.samples and self.samples[0] > moment else None


@pytest.fixture(scope="module")
def running() -> Iterator[ValkeyServer]:
    with running_valkey() as server:
        yield server


@pytest.fixture
def server(running: ValkeyServer) -> ValkeyServer:
    running.admin.flushall()
    return running


@pytest.fixture
def here(server: ValkeyServer) -> Process:
    return Process(server.url).settle()


@pytest.fixture
def there(here: Process, server: ValkeyServer) -> Process:
    return Process(server.url).settle()


def entries(server: ValkeyServer) -> list[bytes]:
    return [key for key in server.admin.keys("*") if isinstance(key, bytes) and b"marker" not in key]


@pytest.mark.parametrize("credential", [SESSION, KEY])
def test_what_one_process_remembers_another_recalls(here: Process, there: Process, credential: str) -> None:
    assert here.positions.remember(credential, {ONE: (3, 2**40), OTHER: (1, 7)})
    assert there.recall(credential) == Recalled({ONE: (3, 2**40), OTHER: (1, 7)}, {})
    assert there.recall(credential + "x") == Recalled({}, {})


def test_nothing_is_kept_of_other_credentials(here: Process, server: ValkeyServer) -> None:
    assert here.positions.remember("the-operators", {ONE: (1, 1)})
    assert here.recall("the-operators") == Recalled({}, {})
    assert entries(server) == []


def test_a_credential_cannot_be_read_from_the_server(here: Process, server: ValkeyServer) -> None:
    here.positions.remember(SESSION, {ONE: (1, 1)})
    (entry,) = entries(server)
    assert SESSION[3:].encode() not in entry


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ((1, 1), (1, 2)),
        ((1, 9), (1, 10)),
        ((1, 2**53), (1, 2**53 + 1)),
        ((1, 2**64 - 2), (1, 2**64 - 1)),
        ((1, 2**64 - 1), (2, 0)),
        ((9, 10), (10, 9)),
        ((2**32 - 2, 5), (2**32 - 1, 4)),
    ],
)
def test_a_position_is_only_ever_raised(here: Process, earlier: Place, later: Place) -> None:
    for place in (earlier, later, earlier):
        assert here.positions.remember(SESSION, {ONE: place})
    assert here.recall(SESSION) == Recalled({ONE: later}, {})


def test_clusters_are_raised_apart_from_each_other(here: Process) -> None:
    here.positions.remember(SESSION, {ONE: (1, 10), OTHER: (2, 20)})
    here.positions.remember(SESSION, {ONE: (1, 11), OTHER: (2, 19)})
    here.positions.remember(SESSION, {})
    assert here.recall(SESSION) == Recalled({ONE: (1, 11), OTHER: (2, 20)}, {})


def test_of_positions_remembered_at_once_the_furthest_stay(here: Process, there: Process) -> None:
    places = [(timeline, random.randrange(2**64)) for timeline in (1, 2, 10) for _ in range(100)]
    random.shuffle(places)
    clusters = [{random.choice((ONE, OTHER)): place} for place in places]
    with ThreadPoolExecutor(8) as threads:
        remembered = threads.map(
            lambda turn: (here, there)[turn[0] % 2].positions.remember(KEY, turn[1]), enumerate(clusters)
        )
        assert all(remembered)
    furthest = {
        cluster: max(place for each in clusters for name, place in each.items() if name == cluster)
        for cluster in (ONE, OTHER)
    }
    assert there.recall(KEY) == Recalled(furthest, {})


def test_it_is_forgotten_when_every_replica_that_is_read_has_replayed_it(server: ValkeyServer) -> None:
    process = Process(server.url, ttl_seconds=1).settle()
    process.positions.remember(SESSION, {ONE: (1, 1)})
    assert process.recall(SESSION) is not None
    until(lambda: entries(server) == [])
    assert process.recall(SESSION) == Recalled({}, {})


def test_each_write_begins_the_time_anew(here: Process, server: ValkeyServer) -> None:
    here.positions.remember(SESSION, {ONE: (1, 2)})
    (entry,) = entries(server)
    server.admin.expire(entry, 5)
    here.positions.remember(SESSION, {ONE: (1, 1)})
    assert 5 < server.admin.ttl(entry) <= TTL_SECONDS


# Trusting a memory


def test_nothing_is_known_until_there_is_a_floor(server: ValkeyServer) -> None:
    process = Process(server.url)
    assert process.positions.remember(SESSION, {ONE: (1, 200)})
    process.sample()
    assert [process.recall(SESSION) for _ in range(5)] == [None] * 5
    process.sample()
    assert process.recall(SESSION) == Recalled({ONE: (1, 200)}, FLOOR)
    assert process.recall(KEY) == Recalled({}, FLOOR)


def test_a_memory_that_was_lost_is_replaced_by_a_floor(
    here: Process, there: Process, server: ValkeyServer
) -> None:
    here.positions.remember(SESSION, {ONE: (1, 90)})
    server.admin.flushall()
    for process in (here, there):
        process.sample({})
        assert [process.recall(SESSION) for _ in range(3)] == [None] * 3
        process.sample()
        assert process.recall(SESSION) == Recalled({}, FLOOR)


def test_a_loss_that_another_process_has_mended_is_noticed(
    here: Process, there: Process, server: ValkeyServer
) -> None:
    server.admin.flushall()
    there.settle()
    assert here.recall(SESSION) is None
    here.sample()
    assert here.recall(SESSION) == Recalled({}, FLOOR)


def test_a_floor_is_owed_for_as_long_as_what_was_lost_would_have_been_kept(
    here: Process, server: ValkeyServer
) -> None:
    server.admin.flushall()
    assert [here.recall(SESSION), here.recall(SESSION)] == [None, None]
    here.sample()
    assert here.recall(SESSION) == Recalled({}, FLOOR)
    here.clock.now += TTL_SECONDS - 0.1
    assert here.recall(SESSION) == Recalled({}, FLOOR)
    here.clock.now += 0.1
    assert here.recall(SESSION) == Recalled({}, {})


def test_distrust_lasts_and_ends_with_a_new_floor(here: Process) -> None:
    here.positions.remember(SESSION, {ONE: (1, 1)})
    here.positions.distrust(10)
    here.positions.distrust(2)
    for _ in range(9):
        assert here.recall(SESSION) is None
        here.sample()
    here.clock.now += 1
    assert [here.recall(SESSION) for _ in range(3)] == [None] * 3
    here.sample()
    assert here.recall(SESSION) == Recalled({ONE: (1, 1)}, FLOOR)


def test_a_floor_from_within_the_distrust_does_not_count(here: Process) -> None:
    """An answer that was under way when the distrust began is the first that sees the memory again."""
    here.positions.distrust(10)
    here.positions._settle(_name_of(here))
    here.sample()
    here.clock.now += 10
    assert [here.recall(SESSION) for _ in range(3)] == [None] * 3
    here.sample()
    assert here.recall(SESSION) == Recalled({}, FLOOR)


def _name_of(process: Process) -> tuple[bytes, str]:
    (marker,) = process.positions._server.ask(("GET", "position-marker:{positions}"))
    return marker.value, marker.server.run_id


def test_no_answer_misses_a_write_while_the_memory_is_lost_again_and_again(server: ValkeyServer) -> None:
    """What was remembered before an answer began is in it or below its floor, or the answer is that it is not known."""
    log_end, written = [0], [0] * 4
    lock, over = threading.Lock(), threading.Event()
    answers = [0, 0]

    def sample_floor(_moment: float) -> Mapping[int, Place] | None:
        return {ONE: (1, log_end[0])} if random.random() < 0.3 else None

    def work(number: int) -> None:
        mine = RememberedPositions(RoundTrips(connect(server.url, 1.0)), TTL_SECONDS, sample_floor)
        for _ in range(600):
            shopper = random.randrange(len(written))
            if random.random() < 0.3:
                with lock:
                    log_end[0] += 1
                    position = log_end[0]
                if mine.remember(f"st_{shopper}", {ONE: (1, position)}):
                    with lock:
                        written[shopper] = max(written[shopper], position)
            else:
                wanted = written[shopper]
                recalled = mine.recall(f"st_{shopper}")[0]
                answers[recalled is not None] += 1
                if recalled is not None:
                    seen = [places.get(ONE, (1, 0)) for places in (recalled.positions, recalled.floor)]
                    assert max(seen) >= (1, wanted)

    def lose() -> None:
        while not over.wait(0.02):
            server.admin.flushall()

    loser = threading.Thread(target=lose)
    loser.start()
    try:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(work, range(4)))
    finally:
        over.set()
        loser.join()
    assert min(answers) > 0


# What is not what it should be


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (f"{ONE:016x}".encode(), b"garbage"),
        (f"{ONE:016x}".encode(), b"x" * 30),
        (f"{ONE:016x}".encode(), b"\xff\xfe" * 15),
        (f"{ONE:016x}".encode(), b""),
        (f"{ONE:016x}".encode(), b"9" * 31),
    ],
)
def test_an_entry_that_cannot_be_read_says_nothing_and_is_replaced(
    here: Process, server: ValkeyServer, field: bytes, value: bytes
) -> None:
    here.positions.remember(SESSION, {ONE: (1, 1)})
    (entry,) = entries(server)
    server.admin.hset(entry, field, value)
    assert here.recall(SESSION) is None
    assert here.recall(KEY) == Recalled({}, {})
    here.positions.remember(SESSION, {ONE: (1, 2)})
    assert here.recall(SESSION) == Recalled({ONE: (1, 2)}, {})


@pytest.mark.parametrize("field", [b"garbage", b"\xff" * 16, b"x" * 16, b""])
def test_a_field_that_cannot_be_read_says_nothing(here: Process, server: ValkeyServer, field: bytes) -> None:
    here.positions.remember(SESSION, {ONE: (1, 1)})
    server.admin.hset(entries(server)[0], field, b"1" * 30)
    assert here.recall(SESSION) is None


def test_an_entry_of_another_kind_concerns_its_credential_only(here: Process, server: ValkeyServer) -> None:
    here.positions.remember(SESSION, {ONE: (1, 1)})
    (entry,) = entries(server)
    server.admin.set(entry, "text")
    assert here.recall(SESSION) is None
    assert not here.positions.remember(SESSION, {ONE: (1, 2)})
    assert here.positions.remember(KEY, {ONE: (1, 3)})
    assert here.recall(KEY) == Recalled({ONE: (1, 3)}, {})


def test_after_a_doubt_every_process_goes_by_a_new_floor(here: Process, server: ValkeyServer) -> None:
    there = Process(server.url).settle()
    here.positions.doubt()
    assert here.recall(SESSION) is None
    assert there.recall(SESSION) == Recalled({}, {})
    server.admin.config_set("maxmemory", "1")  # that it is full does not keep it from this
    try:
        here.positions.tend()
        assert there.recall(SESSION) is None
    finally:
        server.admin.config_set("maxmemory", "0")
    for each in (here, there):
        assert [each.recall(SESSION), each.recall(SESSION)] == [None, None]
        each.sample()
        assert each.recall(SESSION) == Recalled({}, FLOOR)


def test_a_marker_of_another_kind_is_none(here: Process, server: ValkeyServer) -> None:
    server.admin.delete("position-marker:{positions}")
    server.admin.hset("position-marker:{positions}", "a", "b")
    assert [here.recall(SESSION) for _ in range(3)] == [None] * 3


def test_a_script_that_the_server_has_forgotten_is_sent_again(here: Process, server: ValkeyServer) -> None:
    here.positions.remember(SESSION, {ONE: (1, 1)})
    server.admin.script_flush()
    assert here.positions.remember(SESSION, {ONE: (1, 2)})
    assert here.recall(SESSION) == Recalled({ONE: (1, 2)}, {})


def test_a_server_that_evicts_is_not_believed(server: ValkeyServer, caplog: pytest.LogCaptureFixture) -> None:
    server.admin.config_set("maxmemory", "100mb")
    server.admin.config_set("maxmemory-policy", "volatile-lru")
    try:
        process = Process(server.url)
        for _ in range(4):
            assert process.recall(SESSION) is None
            process.sample()
    finally:
        server.admin.config_set("maxmemory-policy", "noeviction")
        server.admin.config_set("maxmemory", "0")
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_server_that_may_not_be_asked_about_is_not_believed(server: ValkeyServer) -> None:
    server.admin.acl_setuser(
        "bounded", enabled=True, passwords=["+x"], keys=["*"], commands=["+@all", "-info"]
    )
    process = Process(server.url.replace(":of-a-test", "bounded:x"))
    for _ in range(4):
        assert process.recall(SESSION) is None
        process.sample()
    assert process.positions.remember(SESSION, {ONE: (1, 1)})
