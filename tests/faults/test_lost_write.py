"""A write is acknowledged, its primary dies, and the next one never had it: it is reported, and never called replayed.

    timeline 1   ──●──────●─── shard-0-a, detached, acknowledges at L and is killed
                   └──────────────●──▶ timeline 2, shard-0-b: its positions soon reach beyond L
                 the fork         L

By numbers alone shard-0-b has replayed L. So says GitLab's rule, which is put in the place of ours here, and the
checker finds the row that is gone.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.lineage import Lineage, Verdict
from routing.token import Position
from tests.cluster_fixtures import Service, fresh_databases, serving
from tests.faults.consistency.checker import check
from tests.faults.consistency.gitlab_rule import caught_up
from tests.faults.consistency.history import Event, History, Operation, Recorder
from tests.faults.consistency.market import Market, open_markets
from tests.faults.consistency.run import address_of, reported_lost, switch_on
from tests.faults.consistency.sessions import Carried, Session
from tests.faults.consistency.upkeep import Upkeep
from tests.shard_servers import Servers, running_servers, until

OLD, NEW, THIRD = "shard-0-a", "shard-0-b", "shard-0-c"
CLUSTER = 7_000_000_000_000_000_000
GITLAB = "tests.faults.consistency.gitlab_rule:create_app()"

lsns = st.integers(1, 2**63)


@given(fork=lsns, behind=lsns, grown=lsns)
def test_by_numbers_alone_a_lost_position_is_soon_replayed(fork: int, behind: int, grown: int) -> None:
    """For every fork, every position lost behind it, and however far the new timeline has come."""
    lineage = Lineage(CLUSTER, 2, {1: fork})
    lost, node = Position(CLUSTER, 1, fork + behind), Position(CLUSTER, 2, fork + grown)
    assert lineage.judge(lost) is Verdict.LOST
    assert not lineage.has(node, lost)
    assert caught_up(node, lost) == (grown >= behind)


@given(fork=lsns, before=st.integers(0, 2**63), grown=st.integers(0, 2**63))
def test_what_lies_before_the_fork_was_kept(fork: int, before: int, grown: int) -> None:
    lineage = Lineage(CLUSTER, 2, {1: fork})
    kept, node = Position(CLUSTER, 1, max(0, fork - before)), Position(CLUSTER, 2, fork + grown)
    assert lineage.has(node, kept)
    assert caught_up(node, kept)


@dataclass(frozen=True, slots=True)
class Loss:
    """A shard that has lost an acknowledged write. Both services lead to it; `writer` has the write's token."""

    servers: Servers
    ours: Service
    gitlabs: Service
    market: Market
    recorder: Recorder
    writer: Session
    write: Operation


@pytest.fixture(scope="module")
def loss() -> Iterator[Loss]:
    with (
        running_servers(shards=1, replicas=2) as servers,
        fresh_databases(servers.cluster) as databases,
        serving(databases.settings) as ours,
        serving(databases.settings, application=GITLAB) as gitlabs,
    ):
        switch_on(ours, "read_replicas")
        (market,) = open_markets(address_of(ours), ours.operator_token)
        recorder = Recorder()
        keys = {market.store: market.merchant}
        writer = Session("writer", address_of(ours), recorder, Random(1), "header", keys, [market])
        Upkeep(servers, ours.settings).await_replayed(market.shard)
        detach(servers)
        write = writer.change_price(market)
        writer.close()
        assert write.good
        promote(servers, beyond=_written(servers, OLD))
        yield Loss(servers, ours, gitlabs, market, recorder, writer, write)


def detach(servers: Servers) -> None:
    """Have the replicas hear no more of the primary, which waits for none of them any more."""
    servers.synchronous(OLD, "")
    for node in (THIRD, NEW):  # in this order: nobody follows a primary whose fork lies before what he has
        servers.sql(node, "ALTER SYSTEM SET primary_conninfo = ''")
        servers.sql(node, "SELECT pg_reload_conf()")
        until(partial(_hears_nobody, servers, node))


def _hears_nobody(servers: Servers, node: str) -> bool:
    return servers.sql(node, "SELECT pid FROM pg_stat_wal_receiver") == []


def promote(servers: Servers, beyond: int) -> None:
    """Kill the primary, promote a replica that lacks its last write, and have it write beyond that one's position."""
    servers.stop(OLD, signal.SIGKILL)
    servers.sql(NEW, "SELECT pg_promote()")
    servers.sql(THIRD, "ALTER SYSTEM RESET primary_conninfo")
    servers.sql(THIRD, "SELECT pg_reload_conf()")
    until(lambda: servers.sql(NEW, "SELECT pid FROM pg_stat_replication") != [])
    while _written(servers, NEW) <= beyond:
        servers.sql(NEW, "SELECT pg_logical_emit_message(true, 'growth', repeat('x', 10000))")


def _written(servers: Servers, node: str) -> int:
    [[lsn]] = servers.sql(node, "SELECT (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint")
    return int(lsn)


def told_by(loss: Loss, service: Service) -> History:
    """What a reader is told who has the write's token, by replicas and primary."""
    name = f"reader-at-{service.base_url}"
    handed = Carried((str(loss.write.token), loss.write.number))
    reader = Session(name, address_of(service), loss.recorder, Random(2), "handed", {}, [loss.market], handed)
    until(lambda: reader.list_products(loss.market).good)  # the service has found the new primary
    for _ in range(30):
        reader.list_products(loss.market)
    reader.close()
    told = tuple(each for each in loss.recorder.operations() if each.session == name)
    killed = Event("kill", loss.market.shard, OLD, loss.write.ended, loss.write.ended)
    made = {"reported": reported_lost(service)}
    return History(made, loss.market.stocks, (loss.write, *told), (killed,))


def test_gitlabs_rule_calls_a_lost_write_replayed_and_the_checker_finds_it(loss: Loss) -> None:
    history = told_by(loss, loss.gitlabs)
    assert {finding.rule for finding in check(history)} == {"stale-read"}
    assert all(finding.operations[0] == loss.write.number for finding in check(history))
    # From replicas, as what they had replayed.
    assert THIRD in {each.served_by for each in history.operations}
    assert history.reported == []


def test_our_rule_reports_a_lost_write_and_calls_nothing_replayed(loss: Loss) -> None:
    history = told_by(loss, loss.ours)
    assert history.reported
    assert set(history.reported) == {loss.write.token}
    assert check(history) == []
    # Whoever asks for what nobody has is answered by the primary; from then on for what that has told.
    first = next(each for each in history.operations[1:] if each.good)
    assert first.carried == (loss.write.number,)
    assert first.served_by == NEW
