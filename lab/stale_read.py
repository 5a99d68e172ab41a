"""A shopper changes something and looks at once: on a replica that has not replayed it yet, it was never changed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from functools import partial

from lab.experiment import Experiment, Figures, Found, Variant
from lab.ground import Ground, Shop
from lab.picture import bars

WRITES = 3
# After each write: so many reads at once, and as many when the guess says that every replica has it.
READS = 10
GUESS_SECONDS = 0.1
# When both replicas are well again.
CALM_READS = 30
TOKEN = "Consistency-Token"  # noqa: S105 - a header's name

_TABLES = """
CREATE TABLE IF NOT EXISTS goods (price integer);
TRUNCATE goods;
INSERT INTO goods VALUES (0)
"""

# What a session does: change the price, and read it, from which node.
Write = Callable[[int], None]
Read = Callable[[], tuple[int, str]]


def _by_a_rule(ground: Ground, *, from_primary: Callable[[float], bool]) -> Figures:
    """`from_primary` decides by how many seconds ago the session has written; else the replicas take turns."""
    shard = ground.servers.shards[-1]
    primary, name = ground.sandbox(shard), ground.primary(shard)
    primary.execute(_TABLES)
    ground.servers.await_whole(shard)
    connections = {name: primary}
    for node in ground.servers.replicas(shard):
        connections[node] = ground.undo.enter_context(ground.servers.connect(node))
    turns = itertools.cycle(ground.servers.replicas(shard))
    wrote_at = 0.0

    def write(price: int) -> None:
        nonlocal wrote_at
        primary.execute("UPDATE goods SET price = %s", [price])
        wrote_at = time.monotonic()

    def read() -> tuple[int, str]:
        node = name if from_primary(time.monotonic() - wrote_at) else next(turns)
        (price,) = connections[node].execute("SELECT price FROM lab.goods").fetchone() or (0,)
        return price, node

    return _session(ground, shard, write, read)


def _by_position(ground: Ground) -> Figures:
    ground.flags(read_replicas=True, redis_cache=False, rate_limit=False)
    shop = ground.new_shop()
    write, read = _shopper(ground, shop)
    return _session(ground, shop.shard, write, read)


def _shopper(ground: Ground, shop: Shop) -> tuple[Write, Read]:
    """Brings the token of the last answer along, and nothing else that tells who it is."""
    path, token = f"{shop.path}/products/{ground.new_product(shop, stock=1, price=0)}", dict[str, str]()

    def write(price: int) -> None:
        answer = ground.good("PATCH", path, shop.merchant, {"price": price})
        token[TOKEN] = answer.headers[TOKEN.lower()]

    def read() -> tuple[int, str]:
        answer = ground.good("GET", path, token)
        token[TOKEN] = answer.headers.get(TOKEN.lower(), token[TOKEN])
        return int(answer.document["price"]), answer.headers["x-served-by"]

    return write, read


def _session(ground: Ground, shard: str, write: Write, read: Read) -> Figures:
    """Write and read while one replica replays nothing, then read when it is well again."""
    late, *_ = ground.servers.replicas(shard)
    primary = ground.primary(shard)
    ground.servers.await_whole(shard)
    ground.pause_replay(late)
    stale, nodes = 0, list[str]()
    for price in range(1, WRITES + 1):
        write(price)
        for number in range(2 * READS):
            if number == READS:
                time.sleep(GUESS_SECONDS)
            seen, node = read()
            stale += seen != price
            nodes.append(node)
    ground.servers.resume_replay(late)
    ground.servers.await_whole(shard)
    calm = [read()[1] for _ in range(CALM_READS)]
    return {
        "stale_reads": stale,
        "reads": len(nodes),
        "on_the_primary_percent": 100 * nodes.count(primary) / len(nodes),
        "on_the_primary_when_all_is_well_percent": 100 * calm.count(primary) / len(calm),
    }


def _picture(found: Sequence[Found]) -> str:
    stale = bars("stale_reads", f"of {WRITES * 2 * READS} reads stale")
    cost = bars("on_the_primary_when_all_is_well_percent", "% of reads on the primary when all is well")
    return f"{stale(found)}\n\n{cost(found)}"


EXPERIMENT = Experiment(
    name="stale-read",
    shows="who has written reads it from any replica that has it, and from no other",
    story=(
        "A merchant changes a price and looks at it. One of the replicas is late: it receives the log and replays none"
        " of it. Whoever asks any replica sees the old price half of the time; so does whoever waits for a while that"
        " every replica is guessed to need. To stay with the primary for good is right, and takes from the primary"
        " nothing at all: the replicas stand idle. Here an answer to a write carries the position behind it, and a"
        " replica answers once it has replayed that: the one that is well does so at once, the late one is passed over."
    ),
    figure="stale_reads",
    naive=(
        Variant("any replica", partial(_by_a_rule, from_primary=lambda _: False)),
        Variant("a guess by time", partial(_by_a_rule, from_primary=lambda ago: ago < GUESS_SECONDS)),
        Variant("always the primary", partial(_by_a_rule, from_primary=lambda _: True)),
    ),
    cure=Variant("by position in the log", _by_position),
    held=lambda without, cured: without > 0 and cured == 0,
    picture=_picture,
)
