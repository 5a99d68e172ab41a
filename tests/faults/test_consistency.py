"""No promise is broken while servers are frozen, killed, promoted and delayed: tests/faults/consistency, in short."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster_fixtures import Service
from tests.faults.consistency.checker import check
from tests.faults.consistency.history import READS
from tests.faults.consistency.nemesis import SERVER_FAULTS, Schedule
from tests.faults.consistency.run import run, under_test, verdict
from tests.shard_servers import Servers

SEED = 2
# The one that holds the catalog as well: whatever goes wrong there goes wrong for more than its stores.
SHARD = "shard-0"


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Servers, Service]]:
    with under_test() as served:
        yield served


def test_nothing_is_stale_lost_or_done_twice_while_servers_fail(served: tuple[Servers, Service]) -> None:
    servers, service = served
    schedule = Schedule.draw(SEED, [SHARD], acts=len(SERVER_FAULTS), holds=100)
    history = run(servers, service, schedule, SEED)
    findings = check(history)
    assert not findings, verdict(history, findings)
    # The faults were there, and replicas answered: else nothing has been shown.
    verbs = {event.verb for event in history.events}
    assert {"kill", "freeze", "failover", "rejoin", "kill-worker"} <= verbs
    reads = [each for each in history.operations if each.kind in READS and each.good]
    answered = {each.served_by for each in reads if each.shard == SHARD}
    assert len(answered - {"cache"}) > 1
    assert "cache" in answered
    assert any(each.token for each in reads if each.carried)
