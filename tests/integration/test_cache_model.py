"""Random orders of events against the real scripts; `bench/cache_model.py` says what is checked, and runs more."""

from __future__ import annotations

from bench.cache_model import search
from ephemeral.client import connect
from ephemeral.round_trip import RoundTrips
from tests.valkey_server import running_valkey

# One of these finds a commit called seen that still waited for its replica, should the cache do so.
SEED, INTERLEAVINGS = 1000, 1500


def test_no_order_of_events_shows_anybody_the_past() -> None:
    with running_valkey() as server:
        seen = search(RoundTrips(connect(server.url, 1.0)), INTERLEAVINGS, SEED)
    assert (
        min(seen[event] for event in ("hit", "stored", "refused", "wait", "present")) > INTERLEAVINGS // 10
    ), seen
