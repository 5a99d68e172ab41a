"""`kills`, `freezes`, `switchovers`: what clients see when a shard's primary goes, and what becomes of their orders."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import psycopg

from bench.replicas.load import READ, WRITE, Load, Sample
from bench.replicas.stores import AUDIT_HEADS, Store, audit, open_stores
from bench.table import table
from lab.servers import Servers, wait_for

WORST_SECONDS = 5.0
GOOD_READS = 0.999
PRODUCTS = 20
# Good answers of the shard before each blow: the load is there again.
WARM = 200


@dataclass(slots=True)
class Round:
    """One blow. `back_seconds`: from the failover command to the first good write."""

    shard: str
    old: str
    began: float = 0.0
    command_seconds: float = 0.0
    back_seconds: float = 0.0
    by_old: int = 0  # writes the old primary acknowledged, when it should not
    samples: list[Sample] = field(default_factory=list)

    def of(self, kind: str) -> list[Sample]:
        return [each for each in self.samples if each.kind == kind and each.shard == self.shard]

    @property
    def elsewhere(self) -> list[Sample]:
        return [each for each in self.samples if each.shard != self.shard]


Blow = Callable[[Servers, Load, Store, Round], None]


def kills(servers: Servers, options: argparse.Namespace) -> bool:
    """kill -9 of the primary, failover, its return; so many times."""

    def blow(servers: Servers, load: Load, _store: Store, this: Round) -> None:
        servers.kill(this.old)
        _fail_over(servers, load, this)

    rounds, kept = _rounds(servers, options, blow)
    worst = max(each.back_seconds for each in rounds)
    reads = [sample for each in rounds for sample in each.of(READ)]
    share = sum(sample.good for sample in reads) / len(reads)
    disturbed = sum(not sample.good for each in rounds for sample in each.elsewhere)
    _print(rounds)
    print(f"reads of the shard, from the blow until it is whole: {len(reads)}, good {share:.3%}")
    print(f"errors on the other shard: {disturbed} of {sum(len(each.elsewhere) for each in rounds)}")
    return kept and worst <= WORST_SECONDS and share >= GOOD_READS and not disturbed


def freezes(servers: Servers, options: argparse.Namespace) -> bool:
    """SIGSTOP of the primary, failover, SIGCONT: does the old one acknowledge anything? Also to who stayed with it."""

    def blow(servers: Servers, load: Load, store: Store, this: Round) -> None:
        with _faithful(servers, store, this) as ask:
            servers.freeze(this.old)
            _fail_over(servers, load, this)
            since = time.monotonic()
            servers.thaw(this.old)
            ask()
            servers.await_whole(this.shard)
        # X-Served-By says who it was; one that had begun before is a write in doubt, and no write of the old one.
        this.by_old += sum(
            each.good and each.node == this.old for each in load.since(since) if each.kind == WRITE
        )

    rounds, kept = _rounds(servers, options, blow)
    by_old = sum(each.by_old for each in rounds)
    _print(rounds)
    print(f"writes acknowledged by the old primary after the failover: {by_old}")
    return kept and by_old == 0


def switchovers(servers: Servers, options: argparse.Namespace) -> bool:
    """Failover while the primary is well, under load: errors, and the pause as clients saw it."""

    def blow(servers: Servers, load: Load, _store: Store, this: Round) -> None:
        _fail_over(servers, load, this)

    rounds, kept = _rounds(servers, options, blow)
    _print(rounds)
    errors = sum(not sample.good for each in rounds for sample in each.samples)
    rows = []
    for kind in (WRITE, READ):
        longest = [max(sample.seconds for sample in each.of(kind)) for each in rounds]
        rows.append((kind, f"{median(longest):.2f}", f"{max(longest):.2f}"))
    print(table(("longest request of a switchover, s", "median", "worst"), rows))
    print(f"errors: {errors}")
    return kept and not errors


def _rounds(servers: Servers, options: argparse.Namespace, blow: Blow) -> tuple[list[Round], bool]:
    """So many blows, to one shard after the other or always to one, under load; then whether all orders are there."""
    servers.switch("read_replicas", enabled=True)
    stores = open_stores(servers, PRODUCTS)
    rounds = []
    with Load(servers.address, stores, options.clients, options.pause_ms / 1000) as load:
        for number in range(options.times):
            store = next((s for s in stores if s.shard == options.shard), stores[number % len(stores)])
            load.await_good(store.shard, WARM)
            this = Round(store.shard, servers.primary(store.shard), time.monotonic())
            blow(servers, load, store, this)
            servers.await_whole(store.shard)
            this.samples = load.since(this.began)
            rounds.append(this)
            print(
                f"{number + 1}: {this.old} → {servers.primary(store.shard)}, {_line(this)}", file=sys.stderr
            )
    kept = audit(servers, stores, load.placed)
    print(table(AUDIT_HEADS, [kept.row]))
    bad = Counter(
        (each.kind, each.status, each.said) for this in rounds for each in this.samples if not each.good
    )
    if bad:
        rows = [
            (f"{kind} {status}: {said or 'the connection ended'}", count)
            for (kind, status, said), count in bad.items()
        ]
        print(table(("not good", "times"), rows))
    return rounds, kept.clean


def _line(this: Round) -> str:
    bad = Counter(sample.status for sample in this.samples if not sample.good)
    return f"first good write after {this.back_seconds:.2f} s; not good: {dict(bad) or 'none'}"


def _fail_over(servers: Servers, load: Load, this: Round) -> None:
    began = time.monotonic()
    this.command_seconds = servers.fail_over(this.shard)
    this.back_seconds = load.await_write(this.shard, began, but=this.old).ended - began


@contextmanager
def _faithful(servers: Servers, store: Store, this: Round) -> Iterator[Callable[[], None]]:
    """A client of the old primary who knows of no failover, and writes to it when told to.

    It counts as acknowledged by the old one if it is told that its commit is done. It may wait for that until the old
    one is stopped, on its way back as a replica.
    """
    connection = servers.connect(this.old)

    def write() -> None:
        try:
            with connection:
                connection.execute(
                    "UPDATE products SET description = 'by the old one' WHERE store_id = %s", [store.store_id]
                )
        except psycopg.Error:
            return
        this.by_old += 1

    thread = threading.Thread(target=write)
    try:
        yield thread.start
        wait_for(lambda: not thread.is_alive(), "the old primary lets its last client go")
    finally:
        connection.close()


def _print(rounds: Sequence[Round]) -> None:
    rows = []
    for name, values in (
        ("the command", [each.command_seconds for each in rounds]),
        ("from the command to the first good write", [each.back_seconds for each in rounds]),
    ):
        rows.append((name, f"{median(values):.2f}", f"{max(values):.2f}"))
    print(table((f"{len(rounds)} times, s", "median", "worst"), rows))
