"""The parts of one worker, put together: what `create_app` builds, `start` opens after the fork and `stop` closes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping

import psycopg

import logs
import metrics
import sql
from config import Settings, parse_weights
from ephemeral.cache import Cache
from ephemeral.carts import Carts
from ephemeral.limiter import Limiter
from ephemeral.locks import TEND_SECONDS, Locks
from ephemeral.round_trip import RoundTrips
from errors import Unavailable
from moves.process import MoverProcess
from operations.control_room import ControlRoom
from operations.control_room.room import LOOK_SECONDS, SHARDS_SECONDS
from operations.credentials import Credentials
from operations.housekeeping import Housekeeping
from operations.load import REPORT_SECONDS, Load, WorkerLoad, read_load
from operations.moves import count_moves
from operations.pages import Cursors
from operations.passwords import PasswordHasher
from pools.node import NodeState
from pools.registry import PoolRegistry
from routing.cached_reads import CachedReads
from routing.catalog import Catalog
from routing.every_shard import EveryShard
from routing.map_cache import MapCache
from routing.memory import TEND_SECONDS as MEMORY_SECONDS
from routing.memory import SessionMemory
from routing.replay import Limits, ReplayPositions
from routing.replica_reads import ReplicaReads
from routing.router import Router
from routing.scope import Scope
from routing.token import TokenCodec

logger = logs.get_logger("marketplace")

COUNT_STORES = sql.query("count_stores")

METRICS_SECONDS = 1.0
# Between two looks at the catalog for how many moves there are.
MOVES_SECONDS = 5.0
# Between two looks at how much memory the cache's server uses: a few dozen megabytes come in meanwhile, at most.
WEIGH_SECONDS = 1.0
SWEEP_SECONDS = 60.0
# Between two looks whether stores are to be moved and nobody does it, as when a mover has died.
MOVER_SECONDS = 1.0
# A catalog that answers does so in milliseconds; one that does not is not worth a longer start.
FIRST_MAP_SECONDS = 5.0
# Sentinels and clusters answer in a tenth of it; while they do not, the worker does without.
FIND_REDIS_SECONDS = 1.0


class Marketplace:
    """Everything the operations need. Nothing in it has a connection or a thread before `start`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tokens = TokenCodec(settings.secret_key)
        self.cursors = Cursors(settings.secret_key)
        self.credentials = Credentials(
            settings.secret_key, settings.operator_token, settings.session_ttl_seconds
        )
        self.passwords = PasswordHasher(settings.scrypt_log2_n)
        # One for all that the request's path asks that server: who finds it away spares the others.
        self.redis = RoundTrips.to(settings.redis_url, settings.redis_patience_seconds)
        self.carts = Carts(self.redis, settings.cart_ttl_seconds)
        self.limiter = Limiter(self.redis, settings.workers)
        self.locks = Locks(settings.lock_urls, settings.lock_ttl_seconds)
        self.pools = PoolRegistry(settings)
        sources = [
            lambda: self.pools.catalog().connection(),
            lambda: self.pools.catalog(writable=False).connection(),
        ]
        self.maps = MapCache(sources, settings.catalog_poll_seconds)
        self.catalog = Catalog(sources[0])
        weights = parse_weights(settings.replica_weights)
        self.replay = ReplayPositions(
            self.pools.connect,
            limits=Limits(settings.replica_max_lag_bytes, settings.replica_max_lag_seconds, weights),
            interval_seconds=settings.replay_sample_seconds,
            changed=self._follow,
        )
        self.memory = SessionMemory(self.redis, settings.position_ttl_seconds, self.replay)
        for follow in (
            lambda snapshot: self.pools.apply(snapshot.map.nodes),
            lambda snapshot: self.replay.apply(snapshot.map.nodes),
            self.memory.follow,
        ):
            self.maps.on_change(follow)
        replica_reads = ReplicaReads(
            self.pools, self.replay, weights=weights, wait_seconds=settings.replica_wait_seconds
        )
        self.router = Router(self.pools, self.maps, self.replay, replica_reads, self.memory)
        self._cache = Cache(self.redis, settings.cache_ttl_seconds, settings.cache_max_bytes)
        self.reads = CachedReads(self._cache, self.router, self.replay, self.memory)
        self.ping_shards = EveryShard(self.router.ping)
        self.count_stores = EveryShard(self._count_stores)
        self.load = WorkerLoad(self.catalog, self.router.shard_of)
        # Of one: the catalog's patience is that of a shard's.
        self._read_load = EveryShard(lambda _: read_load(self.catalog))
        self.mover = MoverProcess(settings, self.catalog)
        self._housekeeping = Housekeeping(self.router, self.maps, self.credentials)
        self.control_room = ControlRoom(
            settings,
            catalog=self.catalog,
            maps=self.maps,
            replay=self.replay,
            router=self.router,
            count_stores=self.count_stores,
            away=self.away,
        )
        self._stopping = threading.Event()
        self._refreshing = threading.Lock()
        self._moves: Mapping[str, int] | None = None  # by state, as far as the catalog said

    def start(self, worker: str, began: float | None = None) -> None:
        """Open the pools and begin to follow the catalog. `worker` names it to PostgreSQL; `began`: when the service
        did, in seconds since 1970; None where this process serves nobody.

        Waits for the shard map, so that no worker takes a request which it cannot route while another could; but
        not for long: while the catalog is away the worker has to live, and to say so.
        """
        self.pools.name_worker(worker)
        self.load.name_worker(worker, self.settings.port)
        self.redis.start(FIND_REDIS_SECONDS)
        self.maps.start()
        self.replay.start()
        self._every(self.settings.revocation_poll_seconds, self._housekeeping.hear_revocations)
        self._every(SWEEP_SECONDS, self._housekeeping.sweep)
        self._every(WEIGH_SECONDS, self._weigh_cache)
        if self.mover.is_possible:
            self._every(MOVER_SECONDS, self.mover.look)
        self._every(REPORT_SECONDS, self.load.report)
        self._every(TEND_SECONDS, self.locks.tend)
        self._every(MEMORY_SECONDS, self.memory.tend)
        self._every(MEMORY_SECONDS, self._cache.tend)
        self._every(METRICS_SECONDS, self.refresh_metrics)
        self._every(MOVES_SECONDS, self._count_moves)
        self._every(LOOK_SECONDS, self.control_room.look)
        self._every(LOOK_SECONDS, self.control_room.look_at_moves)
        self._every(SHARDS_SECONDS, self.control_room.look_at_shards)
        self.maps.wait_until_loaded(FIRST_MAP_SECONDS)
        self.refresh_metrics()
        if began is not None:
            self.control_room.begin(worker, os.getpid(), began)

    def stop(self) -> None:
        """Close what `start` opened."""
        self._stopping.set()
        self.refresh_metrics()  # what was sent since the last time counts too
        self.load.leave()
        self.mover.stop()
        self.maps.close()
        self.replay.stop()
        self.redis.close()
        self.pools.close()
        self.locks.close()

    def read_load(self) -> Load | None:
        """What all workers do for which stores; None where the catalog does not say."""
        return self._read_load(["catalog"])["catalog"]

    def refresh_metrics(self) -> None:
        """Tell the metrics how this worker is now. Asks no server."""
        with self._refreshing:
            metrics.refresh(self.pools, self.replay.states(), self.away(), self._moves)

    def away(self) -> dict[str, bool]:
        """Which Redis-compatible servers are done without, by name."""
        return {**self.redis.away(), **self.locks.away()}

    def _count_moves(self) -> None:
        try:
            self._moves = count_moves(self.catalog)
        except (Unavailable, psycopg.Error):
            self._moves = None

    def _follow(self, states: Mapping[str, NodeState]) -> None:
        self.pools.follow(states)
        self.memory.follow_states(states)

    def _weigh_cache(self) -> None:
        if self.maps.current().flags.redis_cache:
            self._cache.weigh()

    def _count_stores(self, shard: str) -> int:
        count: int = self.router.on_shard(Scope(self.maps.current().flags), shard, COUNT_STORES, {})[0][0]
        return count

    def _every(self, seconds: float, work: Callable[[], None]) -> None:
        def run() -> None:
            while not self._stopping.wait(seconds):
                try:
                    work()
                except Exception:
                    # Whatever it was, the next round is due all the same; the line says what to mend.
                    logger.exception("background work failed", work=work.__qualname__)

        threading.Thread(target=run, name=work.__qualname__, daemon=True).start()
