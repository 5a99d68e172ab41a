"""Keys that were revoked while a worker heard nothing, as one that was frozen."""

from __future__ import annotations

from time import monotonic

import pytest

from errors import Unauthorized
from operations.credentials import REVOCATION_WINDOW_SECONDS
from operations.housekeeping import LIST_REVOKED_KEYS
from operations.stores import create_api_key
from tests.cluster_fixtures import Databases
from tests.moving import stage

NEVER = 3600.0
MERCHANT = frozenset({"merchant"})


def test_a_key_revoked_while_a_worker_slept_is_refused_when_it_wakes(databases: Databases) -> None:
    """It slept for longer than the window of revocations that it asks for."""
    with stage(databases, revocation_poll_seconds=NEVER) as place:
        market = place.market
        router, credentials = market.router, market.credentials
        store_id, shard = place.new_store(rows=0)
        fell_asleep = monotonic()
        credentials.heard_revocations(shard, fell_asleep, [])
        key_id, key = create_api_key(router, credentials, place.scope(), store_id)

        def authenticate() -> None:
            credentials.authenticate(place.scope(), router, key, MERCHANT, store_id)

        authenticate()
        revoke = "UPDATE api_keys SET revoked_at = now() - %s * interval '1 second' WHERE key_id = %s"
        place.sql(shard, revoke, REVOCATION_WINDOW_SECONDS + 5, key_id)
        authenticate()  # it does not know yet
        window = {"window_seconds": REVOCATION_WINDOW_SECONDS}
        heard = router.on_shard(place.scope(), shard, LIST_REVOKED_KEYS, window)
        woke = fell_asleep + REVOCATION_WINDOW_SECONDS + 10
        credentials.heard_revocations(shard, woke, [row[0] for row in heard])
        with pytest.raises(Unauthorized):
            authenticate()
