"""A greenlet is interrupted while it waits for a reply; run by test_positions_faults.py in a process of its own."""

# ruff: noqa: E402 - before anything is imported that waits
from gevent import monkey

monkey.patch_all()

import sys

import gevent

from ephemeral.client import connect
from ephemeral.round_trip import RoundTrips


def main(url: str) -> None:
    trips = RoundTrips(connect(url), max_connections=1)
    trips.ask(("PING",))
    try:
        with gevent.Timeout(0.02):
            trips.ask(("BLPOP", "nothing", "0.1"))  # below the client's own timeout
    except gevent.Timeout:
        print("interrupted")
    print(trips.ask(("ECHO", "right"))[0].value.decode())


if __name__ == "__main__":
    main(sys.argv[1])
