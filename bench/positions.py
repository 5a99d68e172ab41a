"""Measure what remembering a credential's position costs a request: beside redis-py's own ways of asking.

    VAR=var .venv/bin/python -m bench.positions

Prints a table from the Redis-compatible server of a running cluster, or of `REDIS_URL`: processor microseconds of this
process, the least of several rounds, as a gevent worker would spend them. It leaves one entry there, which expires.
"""

# ruff: noqa: E402 - before anything is imported that waits
from gevent import monkey

monkey.patch_all()

import os

from bench.pools import microseconds
from config import load
from ephemeral.client import connect
from ephemeral.positions import RememberedPositions
from ephemeral.round_trip import RoundTrips
from ephemeral.scripts import Script

CREDENTIAL = "st_of-the-benchmark"
ENTRY, MARKER = "position:{positions}:benchmark", "position-marker:{positions}"


def main() -> None:
    client = connect(os.environ.get("REDIS_URL") or load().redis_url)
    positions = RememberedPositions(RoundTrips(client), 120, lambda _moment: {7: (1, 1)})
    script = client.register_script(Script("position_remember").text)
    value = f"{1:010d}{2**40:020d}"

    def pipeline() -> None:
        with client.pipeline(transaction=False) as together:
            together.hgetall(ENTRY)
            together.getex(MARKER, persist=True)
            together.execute()

    rows = [
        ("recall", pipeline, lambda: positions.recall(CREDENTIAL)),
        (
            "remember",
            lambda: script(keys=[ENTRY], args=[120, f"{7:016x}", value]),
            lambda: positions.remember(CREDENTIAL, {7: (1, 2**40)}),
        ),
    ]
    assert positions.remember(CREDENTIAL, {7: (1, 2**40)})
    while positions.recall(CREDENTIAL)[0] is None:
        pass
    print("| CPU µs | redis-py | ephemeral/ |\n| --- | ---: | ---: |")
    for name, theirs, ours in rows:
        print(f"| {name} | {microseconds(theirs):.1f} | {microseconds(ours):.1f} |")


if __name__ == "__main__":
    main()
