"""A worker that may be stopped for a while (SIGSTOP): says for each line it reads whether positions are known."""

from __future__ import annotations

import sys

from ephemeral.positions import RememberedPositions
from ephemeral.round_trip import RoundTrips


def main(url: str) -> None:
    trips = RoundTrips.to(url)
    trips.start(30.0)
    positions = RememberedPositions(trips, 120, lambda _moment: {})
    for _ in sys.stdin:
        recalled = positions.recall("st_of-a-shopper")[0]
        print("unknown" if recalled is None else f"known {dict(recalled.positions)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
