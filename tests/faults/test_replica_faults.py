"""Replicas that freeze and die, primaries that are replaced: reads go on, and nobody is told an old story."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from devcluster.bootstrap import SHARD_DATABASE
from errors import ApiError
from routing.lineage import Verdict
from routing.token import Position
from tests.shard_servers import Servers, running_servers, until
from tests.workers import Worker
from tests.workers import worker as running_worker

REPLICAS = {"shard-0-b", "shard-0-c"}
SHUT = """
SELECT pg_advisory_xact_lock(hashtext('closed_timelines'));
INSERT INTO closed_timelines SELECT wal_timeline(), clock_timestamp() + interval '1 minute'
"""


@pytest.fixture
def servers() -> Iterator[Servers]:
    with running_servers(shards=1, replicas=2) as servers:
        yield servers


@pytest.fixture
def worker(servers: Servers) -> Iterator[Worker]:
    with running_worker(servers.settings()) as worker:
        until(lambda: set(worker.market.replay.shard("shard-0").replicas) == REPLICAS)
        yield worker


def until_answer(servers: Servers, node: str, question: str, answer: int) -> None:
    """Wait until a node says so."""
    until(lambda: servers.sql(node, question, database=SHARD_DATABASE) == [(answer,)])


@contextmanager
def readers(worker: Worker, count: int = 4) -> Iterator[list[str | Exception]]:
    """Reads without a pause for the length of the block: the node that answered each, or what it failed with."""
    answers: list[str | Exception] = []
    done = threading.Event()

    def run() -> None:
        while not done.is_set():
            try:
                answers.append(worker.read(worker.scope())[1])
            except ApiError as error:
                answers.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_a_frozen_replica_costs_no_reader_an_error_and_takes_its_turns_again_when_it_thaws(
    servers: Servers, worker: Worker
) -> None:
    with readers(worker) as answers:
        until(lambda: set(map(str, answers)) >= REPLICAS)
        servers.freeze("shard-0-b")
        try:
            until(lambda: set(worker.market.replay.shard("shard-0").replicas) == {"shard-0-c"})
            # Those that were under way were told, and asked elsewhere.
            until(lambda: worker.market.pools.replica("shard-0-b").gauge().waiting == 0)
            before = len(answers)
            until(lambda: len(answers) > before + 50)
            assert set(answers[before + 4 :]) == {"shard-0-c"}
        finally:
            servers.thaw("shard-0-b")
        before = len(answers)
        until(lambda: "shard-0-b" in answers[before:])
        until(lambda: worker.market.pools.replica("shard-0-b").gauge().size == 2)
    assert [answer for answer in answers if isinstance(answer, Exception)] == []


def test_a_killed_replica_costs_no_reader_an_error_and_comes_back_by_itself(
    servers: Servers, worker: Worker
) -> None:
    with readers(worker) as answers:
        until(lambda: set(map(str, answers)) >= REPLICAS)
        servers.stop("shard-0-b", signal.SIGKILL)
        until(lambda: set(worker.market.replay.shard("shard-0").replicas) == {"shard-0-c"})
        servers.start("shard-0-b")
        before = len(answers)
        until(lambda: "shard-0-b" in answers[before:])
    assert [answer for answer in answers if isinstance(answer, Exception)] == []


def test_reads_go_on_while_the_primary_is_dead(servers: Servers, worker: Worker) -> None:
    scope = worker.scope()
    version = worker.write(scope, 5)
    until(lambda: worker.read(worker.scope(scope.positions))[1] in REPLICAS)
    servers.stop("shard-0-a", signal.SIGKILL)
    until(lambda: worker.market.replay.states()["shard-0-a"].role == "unknown")
    with readers(worker) as answers:
        until(lambda: len(answers) > 200)
        assert worker.read(worker.scope(scope.positions))[0] == version
    assert set(answers) == REPLICAS


def test_a_lost_write_is_reported_and_never_called_fresh(
    servers: Servers, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    """Acknowledged at L by a primary that its replicas had left; then the new timeline grows past L."""
    servers.synchronous("shard-0-a", "")
    for name in sorted(REPLICAS):
        servers.sql(name, "ALTER SYSTEM SET primary_conninfo = ''")
        servers.sql(name, "SELECT pg_reload_conf()")
        until_answer(servers, name, "SELECT count(*) FROM pg_stat_wal_receiver", 0)
    lost = worker.scope()
    lost_version = worker.write(lost, 6)
    (written,) = lost.positions.values()
    servers.stop("shard-0-a", signal.SIGKILL)
    servers.sql("shard-0-b", "SELECT pg_promote()")
    servers.synchronous("shard-0-b", "")
    servers.sql("shard-0-b", "CREATE TABLE grown AS SELECT generate_series(1, 10000)")
    until(lambda: worker.market.replay.states()["shard-0-b"].role == "primary")
    until(lambda: worker.market.replay.states()["shard-0-b"].lsn > written.lsn)
    until(lambda: (lineage := worker.market.replay.shard("shard-0").lineage) and lineage.timeline == 2)

    lineage = worker.market.replay.shard("shard-0").lineage
    assert lineage is not None
    assert lineage.judge(written) is Verdict.LOST
    for _ in range(3):
        asks_for_it = worker.scope(lost.positions)
        version, node = worker.read(asks_for_it)
        assert (version, node) == (lost_version - 1, "shard-0-b")
    reports = [record for record in caplog.records if "has lost a write" in record.message]
    assert len(reports) == 1
    # What it has seen now is of the new timeline: it asks for the lost one no more.
    assert all(place.timeline == 2 for place in asks_for_it.positions.values())


def test_a_replica_that_was_not_promoted_is_read_again_when_it_follows_the_new_timeline(
    servers: Servers, worker: Worker
) -> None:
    servers.stop("shard-0-a", signal.SIGKILL)
    servers.sql("shard-0-c", "SELECT pg_promote()")
    until(lambda: worker.market.replay.states()["shard-0-c"].role == "primary")
    scope = worker.scope()
    until(lambda: _written(worker, scope))
    (position,) = scope.positions.values()
    assert position.timeline == 2
    until(lambda: worker.read(worker.scope(scope.positions))[1] == "shard-0-b")


def _written(worker: Worker, scope: object) -> bool:
    try:
        worker.write(scope, 1)  # type: ignore[arg-type]
    except ApiError:
        return False
    return True


def test_a_position_of_a_timeline_nobody_here_has_seen_is_not_answered_by_the_primary_before_it(
    worker: Worker,
) -> None:
    scope = worker.scope()
    worker.write(scope, 1)
    (position,) = scope.positions.values()
    newer = {
        position.system_identifier: Position(position.system_identifier, position.timeline + 1, position.lsn)
    }
    with pytest.raises(ApiError) as refused:
        worker.read(worker.scope(newer))
    assert refused.value.status == 503
    # Signed, it can only be true: whoever is on the older timeline writes no more through this worker.
    with pytest.raises(ApiError):
        worker.write(worker.scope(), 2)


def test_a_write_at_the_shut_gate_waits_for_the_next_primary_and_is_done_once(
    servers: Servers, worker: Worker
) -> None:
    before = worker.read(worker.scope())[0]
    servers.sql("shard-0-a", SHUT, database=SHARD_DATABASE)
    versions: list[int] = []
    writers = [
        threading.Thread(target=lambda: versions.append(worker.write(worker.scope(), 3))) for _ in range(8)
    ]
    for writer in writers:
        writer.start()
    for name in sorted(REPLICAS):
        until_answer(servers, name, "SELECT count(*) FROM closed_timelines", 1)
    assert versions == []
    servers.sql("shard-0-b", "SELECT pg_promote()")
    servers.synchronous("shard-0-b", "")  # the other replica follows the old primary still
    for writer in writers:
        writer.join()

    assert sorted(versions) == list(range(before + 1, before + 9))
    assert worker.market.replay.states()["shard-0-a"].role == "unknown"
    assert Counter(worker.read(worker.scope())[1] for _ in range(3))["shard-0-a"] == 0


def test_a_gate_that_opens_again_lets_the_waiting_write_pass(servers: Servers, worker: Worker) -> None:
    servers.sql("shard-0-a", SHUT, database=SHARD_DATABASE)
    versions: list[int] = []
    writer = threading.Thread(target=lambda: versions.append(worker.write(worker.scope(), 3)))
    writer.start()
    servers.sql("shard-0-a", "DELETE FROM closed_timelines", database=SHARD_DATABASE)
    writer.join()
    assert len(versions) == 1
