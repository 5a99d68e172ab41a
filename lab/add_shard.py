"""One more shard: how many stores have to move for it, by what says where a store lives; then one, live."""

from __future__ import annotations

import threading
import time
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from uuid import UUID

import ids
from lab.experiment import Experiment, Figures, Variant
from lab.ground import Ground, Shop
from lab.grown_ring import NEW, GrownRing
from lab.picture import bars
from lab.wire import DroppedError, Wire
from operations.placement import Placement
from routing.ring import assign, partition_of

# The cluster's own stores, and made-up ones beside them, so that chance has no say in the figures.
STORES = 10_000
# Of the experiment's own: so many that at least these belong on the new shard, and are moved there.
TO_MOVE = 3
CLIENTS, PAUSE_SECONDS = 4, 0.05

# A shard's name, of a store.
Lookup = Callable[[UUID], str]


def _modulo(ground: Ground) -> Figures:
    names = _names(ground)

    def lookup(names: Sequence[str]) -> Lookup:
        return lambda store: names[_hash(store.bytes) % len(names)]

    return _on_paper(ground, lookup(names), lookup([*names, NEW]))


def _points(ground: Ground) -> Figures:
    """Consistent hashing as first thought of: each shard is a point on a circle, each store the next point's."""
    names = _names(ground)

    def lookup(names: Sequence[str]) -> Lookup:
        points = sorted((_hash(name.encode()), name) for name in names)
        return lambda store: points[bisect(points, (_hash(store.bytes), "")) % len(points)][1]

    return _on_paper(ground, lookup(names), lookup([*names, NEW]))


def _partitions(ground: Ground) -> Figures:
    """The service's ring: on paper, then by adding a shard, moving stores there under load, and removing it."""
    names = _names(ground)
    before = assign(dict.fromkeys(names, 1.0))
    after = assign(dict.fromkeys([*names, NEW], 1.0), before)
    paper = _on_paper(
        ground, lambda store: before[partition_of(store)], lambda store: after[partition_of(store)]
    )
    # One address asks for all of them.
    ground.flags(sharding=True, rate_limit=False)
    return {**paper, **_live(ground)}


def _names(ground: Ground) -> list[str]:
    """Of the cluster's shards; of a single one half moves, whatever the rule, so there are two on paper then."""
    return ground.servers.shards if len(ground.servers.shards) > 1 else ["shard-0", "shard-1"]


def _hash(text: bytes) -> int:
    return int.from_bytes(blake2b(text, digest_size=8).digest())


def _on_paper(ground: Ground, before: Lookup, after: Lookup) -> Figures:
    stores = _real_stores(ground)
    real = len(stores)
    stores += [ids.new_id() for _ in range(STORES - real)]
    homes = Counter(after(store) for store in stores)
    moved = [store for store in stores if before(store) != after(store)]
    between_old = sum(after(store) != NEW for store in moved)
    return {
        "moved_percent": 100 * len(moved) / len(stores),
        "between_old_shards_percent": 100 * between_old / len(stores),
        "fullest_shard_percent": 100 * max(homes.values()) / len(stores),
        "stores": len(stores),
        "of_them_real": real,
    }


def _real_stores(ground: Ground) -> list[UUID]:
    return [
        store
        for shard in ground.servers.shards
        for (store,) in ground.servers.sql(ground.primary(shard), "SELECT store_id FROM stores")
    ]


def _live(ground: Ground) -> Figures:
    ring = GrownRing(ground)
    shard_map = ring.map
    before = Placement.of(shard_map)
    weights = {shard.name: shard.weight for shard in shard_map.shards if shard_map.share(shard.name)}
    after = assign({**weights, NEW: 1.0}, before.partitions)
    shops, belong = list[Shop](), list[UUID]()
    while len(belong) < TO_MOVE:
        shops.append(ground.new_shop())
        store = UUID(shops[-1].store_id)
        if after[partition_of(store)] == NEW:
            belong.append(store)
    stores = _real_stores(ground)
    ground.undo.callback(ring.forget, [UUID(shop.store_id) for shop in shops])
    homes = ring.homes(stores)
    products = [f"{shop.path}/products/{ground.new_product(shop, stock=1)}" for shop in shops]
    began = time.monotonic()
    with _shoppers(ground, products) as (answered, failed):
        with ring.grown():
            ring.move(belong)
            grown = ring.homes(stores)
        seconds = time.monotonic() - began
    if failed:
        raise SystemExit(f"{len(failed)} requests failed while the ring grew: {failed[0]}")
    astray = [store for store in stores if grown[store] != (NEW if store in belong else homes[store])]
    if astray:
        raise SystemExit(f"{len(astray)} stores moved that nobody moved")
    return {
        "live_stores": len(stores),
        "live_moved": len(belong),
        "live_answered": len(answered),
        "live_failed": 0,
        "live_seconds": seconds,
    }


@contextmanager
def _shoppers(ground: Ground, products: Sequence[str]) -> Iterator[tuple[list[None], list[str]]]:
    """Read the products again and again; what was answered, and what failed."""
    over, answered, failed = threading.Event(), list[None](), list[str]()

    def shop(number: int) -> None:
        with Wire(ground.servers.address, lasts=50) as wire:
            while not over.wait(PAUSE_SECONDS):
                number += 1
                try:
                    answer = wire.request("GET", products[number % len(products)])
                except DroppedError as error:
                    failed.append(str(error))
                    continue
                if answer.good:
                    answered.append(None)
                else:
                    failed.append(f"{answer.status} {answer.body.decode()}")

    threads = [threading.Thread(target=shop, args=[number], daemon=True) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield answered, failed
    finally:
        over.set()
        for thread in threads:
            thread.join()


EXPERIMENT = Experiment(
    name="add-shard",
    shows="one more shard takes its share of the stores, and no other store moves",
    story=(
        "A shard is added. Where a store's home is its hash modulo the number of shards, most stores get another home,"
        " most of them on shards that were there before. With a circle of points only the new shard gains any, but how"
        " many is chance, and the fullest may hold most. Here a store's hash says one of 4,096 partitions for good, and"
        " a table who owns each: the new shard gets its share of them, a few of every other. Then it is done, under"
        " load: a shard joins, some stores of this experiment move there, and it leaves. Nobody else's store moves."
    ),
    figure="moved_percent",
    naive=(
        Variant("hash modulo shards", _modulo),
        Variant("a circle, a point a shard", _points),
    ),
    cure=Variant("4,096 partitions, a table", _partitions),
    held=lambda without, cured: cured < 0.75 * without,
    picture=bars("moved_percent", "% of the stores move"),
)
