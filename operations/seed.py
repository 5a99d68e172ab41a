"""Seeding: Faker data for every shard at once; the same random seed makes the same rows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import ids
from operations.seeding.keys_file import write_keys
from operations.seeding.load import SeedError, ShardLoad, load, vacuum
from operations.seeding.plan import PlannedStore
from operations.seeding.rows import Row, api_key_row, store_rows
from operations.seeding.vocabulary import Vocabulary
from routing.catalog import Catalog, Snapshot
from routing.shard_map import ShardMap

# Every seeded customer signs in with it. Public, so it has no place in a shop that is not a demo.
DEMO_PASSWORD = "demo-password"  # noqa: S105

NewKey = Callable[[UUID, UUID], tuple[str, bytes]]  # (store, key) -> (the key's text, what is kept of it)


@dataclass(frozen=True, slots=True)
class Seeded:
    """What a run made. `seconds` is from the first row to the last commit; `stores` counts by shard."""

    stores: Mapping[str, int]
    products: int
    customers: int
    orders: int
    rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SeedPlan:
    """`stores` in order, the `words` their rows are written with, and the hash of `DEMO_PASSWORD`."""

    stores: tuple[PlannedStore, ...]
    words: Vocabulary
    password_hash: str

    @property
    def rows(self) -> int:
        """What `progress` will have counted at the end, without merchant keys."""
        return sum(store.rows for store in self.stores)


def seed(
    plan: SeedPlan,
    catalog: Catalog,
    dsn_of: Callable[[ShardMap, str], str],
    *,
    new_key: NewKey,
    keys_file: Path | None = None,
    progress: Callable[[int], None],
) -> Seeded:
    """Make every planned store on the shard it belongs to; all of them or, with `SeedError`, none.

    `dsn_of` gives the DSN of a shard's primary. `keys_file` gets a line of JSON for each store,
    `{"store_id", "api_key"}`, before the commit, so that no key is lost. `progress` is told of rows as they
    are sent.
    """
    snapshot = catalog.load()
    homes = _homes(plan, snapshot)
    keys = {store.store_id: _merchant_key(store, new_key) for store in plan.stores} if keys_file else {}
    key_lines = {store_id: line for store_id, (_, line) in keys.items()}
    loads = tuple(_loads(plan, snapshot.map, homes, dsn_of, key_lines))

    @contextmanager
    def committing() -> Iterator[None]:
        # No map can change while the lock is held; had it changed before, stores would be where nobody looks.
        with catalog.placement_lock() as epoch:
            if epoch != snapshot.map.epoch and _homes(plan, catalog.load()) != homes:
                raise SeedError("the shard map changed meanwhile: nothing was seeded, run it again")
            if keys_file is not None:
                write_keys(keys_file, {store_id: text for store_id, (text, _) in keys.items()})
            yield

    started = time.monotonic()
    rows = load(loads, committing, progress)
    seconds = time.monotonic() - started
    vacuum(loads)
    return Seeded(
        stores=Counter(homes.values()),
        products=sum(store.products for store in plan.stores),
        customers=sum(store.customers for store in plan.stores),
        orders=sum(store.orders for store in plan.stores),
        rows=rows,
        seconds=seconds,
    )


def _homes(plan: SeedPlan, snapshot: Snapshot) -> dict[UUID, str]:
    shard_map, sharding = snapshot.map, snapshot.flags.sharding
    return {s.store_id: shard_map.route(s.store_id, sharding=sharding).shard for s in plan.stores}


def _loads(
    plan: SeedPlan,
    shard_map: ShardMap,
    homes: Mapping[UUID, str],
    dsn_of: Callable[[ShardMap, str], str],
    key_lines: Mapping[UUID, str],
) -> Iterator[ShardLoad]:
    for shard in sorted(set(homes.values())):
        stores = [store for store in plan.stores if homes[store.store_id] == shard]
        yield ShardLoad(
            shard,
            dsn_of(shard_map, shard),
            tuple(store.store_id for store in stores),
            _rows(stores, shard_map.epoch, plan, key_lines),
        )


def _merchant_key(store: PlannedStore, new_key: NewKey) -> tuple[str, str]:
    """(the key's text, its line of the table api_keys).

    Random, unlike the rest: a key that follows from a number on a command line is none.
    """
    key_id = ids.new_id()
    text, secret_hash = new_key(store.store_id, key_id)
    return text, api_key_row(store.store_id, key_id, secret_hash, datetime.now(UTC))


def _rows(
    stores: Iterable[PlannedStore], epoch: int, plan: SeedPlan, key_lines: Mapping[UUID, str]
) -> Iterator[Row]:
    for store in stores:
        yield from store_rows(store, epoch, plan.words, plan.password_hash)
        if store.store_id in key_lines:
            yield "api_keys", key_lines[store.store_id]
