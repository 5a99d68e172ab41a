"""A server freezes under a gevent worker; run by test_pools_greenlets.py, and told as pools_greenlets.py is.

Also told `pid`, the server's main process. Writes `{"waits_c": whether psycopg would block the loop, "outcomes": what
became of the requests of the frozen shard, "others": how many of the other shard were answered meanwhile, "ticks": how
often another greenlet ran while all connections waited, "after": what a request got when the server was back}`.
"""

# ruff: noqa: E402 - before psycopg is imported, which chooses then how it waits
from gevent import monkey

monkey.patch_all()

import json
import sys

import gevent
import psutil
from psycopg import waiting

from config import load
from errors import Unavailable
from pools import Node, NodePool, PoolRegistry


def ask(pool: NodePool) -> str:
    try:
        with pool.connection() as connection:
            connection.execute("SELECT 1")
    except Unavailable as error:
        return type(error).__name__
    return "answered"


def main() -> None:
    told = json.load(sys.stdin)
    registry = PoolRegistry(load(told["settings"]), "greenlets")
    registry.apply([Node(*node) for node in told["nodes"]])
    frozen, well = registry.primary("shard-0"), registry.primary("shard-1")
    with gevent.Timeout(20):
        while not (frozen.gauge().available == well.gauge().available == 5):
            gevent.sleep(0.01)
    server = psutil.Process(told["pid"])
    server.suspend()
    processes = [server, *server.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        stuck = [gevent.spawn(ask, frozen) for _ in range(5)]
        ticks = others = 0
        while not all(greenlet.ready() for greenlet in stuck):
            ticks += 1
            others += ask(well) == "answered"
            gevent.sleep(0)
        outcomes = [greenlet.value for greenlet in stuck] + [ask(frozen) for _ in range(20)]
    finally:
        for process in reversed(processes):
            process.resume()
    with gevent.Timeout(20):
        while (after := ask(frozen)) != "answered":
            gevent.sleep(0.001)
    report = {"outcomes": outcomes, "others": others, "ticks": ticks, "after": after}
    print(json.dumps({"waits_c": waiting.wait is waiting.wait_c, **report}))
    registry.close()


main()
