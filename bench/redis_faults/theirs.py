"""flask-limiter, or bare redis-py with its default settings, on a server that freezes; run by a Python that has them.

    PYTHON bench/redis_faults/theirs.py KIND URL

KIND is `flask-limiter` (fallback to memory, errors swallowed) or `redis-py`. Two calls go well, then it prints a line
and waits for one; then each call is printed as it ends, in milliseconds, until it is killed.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from time import perf_counter, sleep


def flask_limiter(url: str) -> Callable[[], object]:
    from flask import Flask  # noqa: PLC0415
    from flask_limiter import Limiter  # type: ignore[import-not-found]  # noqa: PLC0415

    app = Flask("theirs")
    Limiter(
        lambda: "somebody",
        app=app,
        default_limits=["100000 per hour"],
        storage_uri=url,
        in_memory_fallback_enabled=True,
        swallow_errors=True,
        headers_enabled=True,
    )
    app.add_url_rule("/", view_func=lambda: "")
    client = app.test_client()
    return lambda: client.get("/")


def redis_py(url: str) -> Callable[[], object]:
    import redis  # noqa: PLC0415

    client = redis.Redis(port=int(url.rpartition(":")[2].partition("/")[0]))

    def get() -> object:
        try:
            return client.get("a")
        except redis.RedisError as error:
            return error

    return get


def main() -> None:
    logging.disable()
    kind, url = sys.argv[1:]
    call = {"flask-limiter": flask_limiter, "redis-py": redis_py}[kind](url)
    call()
    call()
    print("ready", flush=True)
    sys.stdin.readline()
    while True:
        began = perf_counter()
        call()
        print((perf_counter() - began) * 1000, flush=True)
        sleep(0.02)


if __name__ == "__main__":
    main()
