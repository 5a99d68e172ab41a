"""Who is the mover: a lease in the catalog, with a term that rises from one to the next.

With a mover that dies goes the connection by which it took the lease, and with that the lease; one that is frozen or
cut off lets it run out, finds a higher term when it comes back, and nothing it then tries is done, in the catalog nor
on a shard (moves/side.py).
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from time import monotonic

import psycopg

from errors import Unavailable
from moves.errors import MoverReplaced
from moves.servers import CatalogConnections
from pools.connection import ShardConnection
from sql import query

logger = logging.getLogger("moves")

# So long it takes until another one takes over from a mover that is frozen; renewed four times in between.
LEASE_SECONDS = 4.0
RENEW_SECONDS = 1.0


class Lease:
    """Held from `take` to `release`, by a thread that renews it."""

    def __init__(self, catalog: CatalogConnections) -> None:
        self._catalog = catalog
        self._over = threading.Event()
        self._lasts_until = 0.0
        self._guard: ShardConnection | None = None
        self._thread = threading.Thread(target=self._keep, name="mover-lease", daemon=True)
        self.term = 0

    def take(self) -> bool:
        """Become the mover. False while another one is, or a migration runs."""
        self._guard = connection = self._catalog.new()
        try:
            taken = self._take(connection)
        except BaseException:
            connection.close()
            raise
        if not taken:
            connection.close()
            return False
        self._thread.start()
        return True

    def _take(self, connection: ShardConnection) -> bool:
        (admitted,) = connection.execute(query("lock_out_migrations").text).fetchone() or (False,)
        holder = f"{socket.gethostname()}/{os.getpid()}"
        asked = monotonic()
        values = {"holder": holder, "seconds": LEASE_SECONDS}
        row = connection.execute(query("take_mover_lease").text, values).fetchone() if admitted else None
        if row is None:
            return False
        self.term = row[0]
        self._lasts_until = asked + LEASE_SECONDS
        return True

    def check(self) -> None:
        """Raises `MoverReplaced` unless this is still the mover."""
        if self._over.is_set() or monotonic() > self._lasts_until:
            raise MoverReplaced("the mover's lease is over")

    def release(self) -> None:
        """Let another one take over at once."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        try:
            with self._catalog() as connection:
                connection.execute(query("release_mover_lease").text, {"term": self.term})
        except (psycopg.Error, Unavailable) as error:
            logger.info("the mover's lease runs out by itself: %s", error)
        if self._guard is not None:
            self._guard.close()

    def _keep(self) -> None:
        while not self._over.wait(RENEW_SECONDS):
            asked = monotonic()
            values = {"term": self.term, "seconds": LEASE_SECONDS}
            assert self._guard is not None
            try:
                # By this very connection: with it goes the lock that keeps migrations out.
                row = self._guard.execute(query("renew_mover_lease").text, values).fetchone()
            except (psycopg.Error, Unavailable) as error:
                logger.warning("the mover's lease could not be renewed: %s", error)
                row = None
            if row is None:
                self._over.set()
                return
            self._lasts_until = asked + LEASE_SECONDS
