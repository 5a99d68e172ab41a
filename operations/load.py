"""Which stores the service works for: what each worker counts, and all workers' figures together.

A worker counts in memory, at no cost to any server (docs/hot-stores.md says what it costs a request), and reports to
the catalog every few seconds. No answer to a shop depends on it: while the catalog is away the figures are unknown.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any
from uuid import UUID

import psycopg

import logs
import sql
from errors import Unavailable
from operations.space_saving import Entry, SpaceSaving
from routing.catalog import Catalog
from routing.scope import Scope

logger = logs.get_logger("load")

PUT_WORKER_LOAD = sql.query("put_worker_load")
DELETE_WORKER_LOAD = sql.query("delete_worker_load")
LIST_WORKER_LOADS = sql.query("list_worker_loads")

# What was done a minute ago counts half: long enough that a burst of seconds moves no store, short enough that a list
# is of today's whale. citus_stat_tenants counts in periods of 60 s too.
HALF_LIFE_SECONDS = 60.0
# Between two reports of a worker: what a list may be behind. A report is one statement.
REPORT_SECONDS = 5.0
# A report older than this is of a worker that is gone; one that could not report twice is not.
EXPIRES_SECONDS = 3 * REPORT_SECONDS
# Stores that a worker tells apart, each once a shard: who takes more than a thousandth of its time is among them.
CAPACITY = 1024
# And reports: a row of some 10 kB.
REPORTED = 100
# What a request costs besides PostgreSQL: about its processor time in the worker, so that a store which is all answered
# from the cache is one of the heavy ones too.
REQUEST_SECONDS = 0.0005
# A worker that stops does not wait longer than this to say so.
FAREWELL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Rate:
    """What goes on in a second. `postgres_seconds`: how long connections to PostgreSQL were in use for it."""

    requests: float = 0.0
    statements: float = 0.0
    postgres_seconds: float = 0.0

    def __add__(self, other: Rate) -> Rate:
        return Rate(
            self.requests + other.requests,
            self.statements + other.statements,
            self.postgres_seconds + other.postgres_seconds,
        )

    def __sub__(self, other: Rate) -> Rate:
        return self + Rate(-other.requests, -other.statements, -other.postgres_seconds)


NOTHING = Rate()


@dataclass(frozen=True, slots=True)
class Load:
    """All workers' figures. `shards` have everything; `stores`, by the shard that did the work, the heaviest alone."""

    shards: Mapping[str, Rate]
    stores: Mapping[tuple[UUID, str], Rate]


class WorkerLoad:
    """One worker's figures. Counted by its greenlets, which do not interrupt each other here."""

    def __init__(
        self,
        catalog: Catalog,
        shard_of: Callable[[Scope, UUID], str],
        *,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._catalog = catalog
        self._shard_of = shard_of
        self._now = now
        self._worker = ""
        self._stores: SpaceSaving[tuple[int, str]] = SpaceSaving(CAPACITY)
        self._shards: dict[str, Entry] = {}
        self._faded_at = now()
        self._seconds = 0.0  # what the figures are of, faded as they are

    def name_worker(self, worker: str, port: int) -> None:
        """Under which name it reports: a worker that takes another one's place takes its name, and so its row."""
        self._worker = f"{socket.gethostname()}:{port}/{worker}"
        self._faded_at = self._now()

    def count(self, scope: Scope) -> None:
        """Count one request that was answered, where it is about a store."""
        store_id = scope.store_id
        if store_id is None:
            return
        shard = scope.route.shard if scope.route is not None else self._shard_of(scope, store_id)
        statements, seconds = scope.statements, scope.seconds.get("db", 0.0)
        self._stores.add((store_id.int, shard), REQUEST_SECONDS + seconds, statements, seconds)
        total = self._shards.get(shard)
        if total is None:
            total = self._shards[shard] = Entry()
        total.requests += 1
        total.statements += statements
        total.seconds += seconds

    def report(self) -> None:
        """Tell the catalog, and fade what was counted. Where the catalog is away, the next report tells."""
        document = self.take()
        values = {"worker": self._worker, "load": json.dumps(document), "expires_seconds": EXPIRES_SECONDS}
        try:
            with self._catalog.connect() as connection:
                connection.execute(PUT_WORKER_LOAD.text, values, prepare=True)
        except (Unavailable, psycopg.Error) as error:
            logger.info("load not reported", reason=str(error))

    def take(self) -> dict[str, Any]:
        """The report as of now; what was counted until now has faded a little."""
        elapsed = self._now() - self._faded_at
        self._faded_at += elapsed
        factor = 0.5 ** (elapsed / HALF_LIFE_SECONDS)
        # Counts and the time they are of fade alike, so that their ratio is right from the first second on.
        self._seconds = (self._seconds + elapsed) * factor
        self._stores.fade(factor)
        for entry in self._shards.values():
            entry.requests *= factor
            entry.statements *= factor
            entry.seconds *= factor
        seconds = max(self._seconds, 1e-9)
        return {
            "shards": {shard: _rates(entry, seconds) for shard, entry in self._shards.items()},
            "stores": [
                [str(UUID(int=store)), shard, *_rates(entry, seconds)]
                for (store, shard), entry in self._stores.heaviest(REPORTED)
            ],
        }

    def leave(self) -> None:
        """Take the report back, if the catalog is quick: who stops is not to be counted beside who comes instead."""
        thread = threading.Thread(target=self._delete, name="farewell", daemon=True)
        thread.start()
        thread.join(FAREWELL_SECONDS)

    def _delete(self) -> None:
        try:
            with self._catalog.connect() as connection:
                connection.execute(DELETE_WORKER_LOAD.text, {"worker": self._worker})
        except (Unavailable, psycopg.Error):
            pass  # it expires


def _rates(entry: Entry, seconds: float) -> list[float]:
    return [round(count / seconds, 6) for count in (entry.requests, entry.statements, entry.seconds)]


def read_load(catalog: Catalog) -> Load:
    """The figures of all workers of all machines. Raises what the catalog's connection does."""
    with catalog.connect() as connection:
        rows = connection.execute(LIST_WORKER_LOADS.text, {"expires_seconds": EXPIRES_SECONDS}).fetchall()
    return merge([row[0] for row in rows])


def merge(reports: list[Any]) -> Load:
    """All workers' reports as one. A store that some of them did not find heavy enough to report has a little more."""
    shards: dict[str, Rate] = {}
    stores: dict[tuple[UUID, str], Rate] = {}
    for report in reports:
        for shard, rates in report["shards"].items():
            shards[shard] = shards.get(shard, NOTHING) + Rate(*rates)
        for store_id, shard, *rates in report["stores"]:
            key = UUID(store_id), shard
            stores[key] = stores.get(key, NOTHING) + Rate(*rates)
    return Load(shards, stores)


def load_by_store(catalog: Catalog) -> Mapping[UUID, float]:
    """Each store's share, 0 to 1, of the time that all shards together spend on requests; for planning moves.

    It has the heaviest stores of each worker alone: what is missing to 1 is shared by all others. Empty where nothing
    is known yet. Raises as `read_load`.
    """
    load = read_load(catalog)
    total = sum(rate.postgres_seconds for rate in load.shards.values())
    shares: dict[UUID, float] = {}
    if total > 0:
        for (store_id, _), rate in load.stores.items():
            shares[store_id] = shares.get(store_id, 0.0) + rate.postgres_seconds / total
    return shares


@dataclass(frozen=True, slots=True)
class HotStore:
    """`share`: of what its shard does, 0 to 1."""

    store_id: UUID
    rate: Rate
    share: float


def hot_stores(load: Load, home: Callable[[UUID], str], most: int) -> dict[str, list[HotStore]]:
    """By shard, the stores that take most of its time, the heaviest first.

    A store that has moved counts where it is now, `home`, with what it did before: so would a plan see it.
    """
    stores: dict[UUID, Rate] = {}
    shards = dict(load.shards)
    for (store_id, shard), rate in load.stores.items():
        stores[store_id] = stores.get(store_id, NOTHING) + rate
        shards[shard] = shards.get(shard, NOTHING) - rate
        lives = home(store_id)
        shards[lives] = shards.get(lives, NOTHING) + rate
    found: dict[str, list[HotStore]] = {shard: [] for shard in shards}
    ordered = sorted(stores.items(), key=lambda item: (-item[1].postgres_seconds, -item[1].requests, item[0]))
    for store_id, rate in ordered:
        shard = home(store_id)
        if len(found[shard]) < most:
            all_of_it = shards[shard].postgres_seconds
            share = min(1.0, rate.postgres_seconds / all_of_it) if all_of_it > 0 else 0.0
            found[shard].append(HotStore(store_id, rate, share))
    return found
