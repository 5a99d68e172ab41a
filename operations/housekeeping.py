"""What a worker does beside its requests: hear which keys were revoked, forget what was kept long enough."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import logs
import sql
from errors import Unavailable
from operations.credentials import REVOCATION_WINDOW_SECONDS, Credentials
from routing.map_cache import MapCache
from routing.router import Router
from routing.scope import Scope

LIST_REVOKED_KEYS = sql.query("list_revoked_keys")
SWEEPS = (sql.query("sweep_idempotency_keys"), sql.query("sweep_revoked_sessions"))

# Rows a statement: few enough that it holds its locks for milliseconds.
BATCH = 500

logger = logs.get_logger("housekeeping")


class Housekeeping:
    """Runs over every shard; one that does not answer is passed over until the next round."""

    def __init__(self, router: Router, maps: MapCache, credentials: Credentials) -> None:
        self._router = router
        self._maps = maps
        self._credentials = credentials

    def hear_revocations(self) -> None:
        """Ask every shard, side by side, which keys were revoked lately."""
        shards = self._shards()
        if shards:
            with ThreadPoolExecutor(len(shards)) as threads:
                list(threads.map(self._hear, shards))

    def _hear(self, shard: str) -> None:
        asked_at = time.monotonic()
        try:
            rows = self._router.on_shard(
                self._scope(), shard, LIST_REVOKED_KEYS, {"window_seconds": REVOCATION_WINDOW_SECONDS}
            )
        except Unavailable:
            return  # keys of that shard are looked up one by one until it answers (operations/credentials.py)
        self._credentials.heard_revocations(shard, asked_at, [row[0] for row in rows])

    def sweep(self) -> None:
        """Delete one batch of each kind on each shard. Two workers that meet delete different rows or none."""
        for shard in self._shards():
            for query in SWEEPS:
                try:
                    self._router.run_on_shard(self._scope(), shard, query, {"batch": BATCH})
                except Unavailable as error:
                    logger.info("sweep put off", shard=shard, query=query.name, reason=error.detail)

    def _shards(self) -> list[str]:
        try:
            return list(self._router.shards())
        except Unavailable:
            return []  # no shard map yet

    def _scope(self) -> Scope:
        return Scope(self._maps.current().flags)
