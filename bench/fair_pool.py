"""One pool, one store that asks for more than it can have: what the others wait for a connection, by how it is shared.

    VAR=var .venv/bin/python -m bench.fair_pool

On the primary of a running cluster's first shard, by one gevent process as a worker is one. The whale's statements are
`pg_sleep`: they hold connections and no processor, so that the figures are of the pool alone. Requests come at fixed
rates, whether they are served or not. A table in Markdown, of docs/decisions/0019-hot-stores.md.
"""

# ruff: noqa: E402 - before psycopg is imported, which chooses then how it waits
from gevent import monkey

monkey.patch_all()

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import quantiles
from time import monotonic

import gevent

from bench.table import table
from commands.cluster import open_cluster
from config import Settings, load
from errors import PoolExhausted
from pools import Node, NodePool, PoolRegistry

WHALE = 1
OTHERS = range(2, 12)
# By STORE_POOL_SHARE.
WAYS = {0.0: "first come, first served", 1.0: "in turns", 0.75: "in turns, the last one kept for others"}


@dataclass(slots=True)
class Answers:
    """Milliseconds in line of those that were served, and how many were not."""

    waited: list[float] = field(default_factory=list)
    refused: int = 0

    def cells(self) -> tuple[str, str, str, str]:
        cuts = quantiles(self.waited, n=100, method="inclusive")
        return f"{cuts[49]:.2f}", f"{cuts[98]:.1f}", f"{max(self.waited):.0f}", f"{self.refused}"


def ask(pool: NodePool, store: int, sleeps_ms: float, answers: Answers) -> None:
    asked = monotonic()
    try:
        with pool.connection(store=store) as connection:
            answers.waited.append(1000 * (monotonic() - asked))
            connection.execute("SELECT pg_sleep(%s)", [sleeps_ms / 1000], prepare=True)
    except PoolExhausted:
        answers.refused += 1


def arrive(
    pool: NodePool, stores: Sequence[int], per_second: float, options: argparse.Namespace, answers: Answers
) -> None:
    """An open model: who comes does not wait for who came before."""
    chance, until = random.Random(options.random_seed), monotonic() + options.seconds  # noqa: S311 - not a secret
    sleeps_ms = options.whale_ms if WHALE in stores else 0
    due = monotonic()
    started = []
    while (due := due + chance.expovariate(per_second)) < until:
        gevent.sleep(max(0.0, due - monotonic()))
        started.append(gevent.spawn(ask, pool, chance.choice(stores), sleeps_ms, answers))
    gevent.joinall(started, raise_error=True)


def measure(
    settings: Settings, nodes: Sequence[Node], whale: float, options: argparse.Namespace
) -> list[str]:
    registry = PoolRegistry(settings, "bench")
    registry.apply(nodes)
    pool = registry.primary(nodes[0].shard)
    with gevent.Timeout(30):
        while pool.gauge().available < settings.pool_size:
            gevent.sleep(0.01)
    others, whales = Answers(), Answers()
    running = [gevent.spawn(arrive, pool, list(OTHERS), options.others, options, others)]
    if whale:
        running.append(gevent.spawn(arrive, pool, [WHALE], whale, options, whales))
    gevent.joinall(running, raise_error=True)
    registry.close()
    served = len(whales.waited) / options.seconds
    return [*others.cells(), f"{served:.0f}", f"{whales.refused}"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.fair_pool", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each row (%(default)s)")
    parser.add_argument("--others", type=float, default=40.0, help="requests a second (%(default)s)")
    parser.add_argument(
        "--whale-ms", type=float, default=20.0, help="a statement of the whale's (%(default)s)"
    )
    parser.add_argument("--random-seed", type=int, default=7, help="(%(default)s)")
    options = parser.parse_args()
    settings, shard_map = load(), open_cluster().snapshot().map
    nodes = [node for node in shard_map.nodes if node.shard == shard_map.first_shard]
    rows = []
    for size in (settings.pool_size, 2, 1):
        capacity = size / options.whale_ms * 1000
        for load_of_whale in (0.0, 0.9, 2.0):
            for share, way in WAYS.items():
                changed = replace(settings, pool_size=size, store_pool_share=share)
                cells = measure(changed, nodes, load_of_whale * capacity, options)
                rows.append([f"{size}", f"{load_of_whale:.0%}", way, *cells])
    heads = ["connections", "the whale asks for", "shared", "others wait: p50, ms", "p99, ms", "worst, ms"]
    print(table([*heads, "refused", "the whale: served a second", "refused"], rows))


if __name__ == "__main__":
    main()
