"""The cycles of `python -m bench.locks` with pottery's Redlock; run by whatever Python has it, and by itself.

    PYTHON bench/lock_cycles_pottery.py COUNT PREFIX SECONDS URL [URL ...]

Prints as JSON how long each cycle took in milliseconds, and how many failed.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import sys
from time import perf_counter, process_time

import redis
from pottery import ReleaseUnlockedLock  # type: ignore[import-not-found]
from pottery.redlock import Redlock  # type: ignore[import-not-found]


def main() -> None:
    logging.disable()
    count, prefix, seconds, *urls = sys.argv[1:]
    clients = {redis.Redis.from_url(url, socket_timeout=0.05, socket_connect_timeout=0.05) for url in urls}
    # pottery has a name for its servers that this repository does not use.
    servers = list(inspect.signature(Redlock).parameters)[1]
    taken, failed = [], 0
    cpu = process_time()
    for number in range(int(count)):
        began = perf_counter()
        lock = Redlock(key=f"{prefix}{number}", auto_release_time=float(seconds), **{servers: clients})
        try:
            if lock.acquire(blocking=False):
                lock.release()
            else:
                failed += 1
        except ReleaseUnlockedLock:
            failed += 1
        taken.append((perf_counter() - began) * 1000)
    print(json.dumps({"ms": taken, "failed": failed, "cpu_ms": (process_time() - cpu) * 1000}), flush=True)
    # Its threads wait for the frozen server; that is its matter and not this one's.
    os._exit(0)


if __name__ == "__main__":
    main()
