"""A worker's copy of the shard map and the flags, and the thread that keeps it fresh.

Requests read one attribute. The thread asks the catalog for its epoch a few times a second and loads
everything when it has risen. While the catalog is away, requests go on with the copy.

          ┌── poll: epoch as before ──┐                ┌── poll: no answer (said once) ──┐
          ▼                           │                ▼                                 │
    empty ──first answer──▶ fresh ────┴── no answer ──▶ on its own ──────────────────────┘
     current() raises         ▲                              │
     Unavailable              └──────── answers again ───────┘
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from time import monotonic

import psycopg

from errors import Unavailable
from routing.catalog import CatalogConnection, Snapshot, load, read_epoch

logger = logging.getLogger("routing")

Source = Callable[[], AbstractContextManager[CatalogConnection]]

# Workers that were started together must not ask together.
_JITTER = 0.2
# Patience with a catalog that is away; little, since a flag counts within a second once it is back.
_BACKOFF = 2.0
# What a request that met a stale epoch waits for a fresh map, at most.
REFRESH_SECONDS = 1.0


class MapCache:
    """Holds one `Snapshot`, replaced as a whole: a reader sees all of a change or none of it.

    `sources` are asked in order, the next where one does not answer: first the catalog's primary, then any
    node that has the catalog, so that a worker can start while the primary is away. A replica may be
    behind: a lower epoch never replaces a higher one. Opens nothing before `start`, which belongs after a
    fork.
    """

    def __init__(self, sources: Sequence[Source], poll_seconds: float) -> None:
        self._sources = sources
        self._poll_seconds = poll_seconds
        self._snapshot: Snapshot | None = None
        self._callbacks: list[Callable[[Snapshot], None]] = []
        self._thread: threading.Thread | None = None
        self._failing_since: float | None = None
        # Polls are numbered. `_begun` and `_ended` are the last ones that were; a refresh asks for one that
        # has not begun.
        self._turn = threading.Condition()
        self._begun = self._ended = self._wanted = 0
        self._sure = 0  # the last that the first source answered, which knows the newest
        self._stale_epoch = 0  # the highest that a refresh wants to leave behind
        self._closing = False

    def on_change(self, callback: Callable[[Snapshot], None]) -> None:
        """Have `callback` called with each new snapshot just before requests see it, in the polling thread.

        Where it raises, the snapshot is not put to use, and is tried again with the next poll.
        """
        self._callbacks.append(callback)

    def start(self) -> None:
        """Begin to poll; does not wait for an answer."""
        self._thread = threading.Thread(target=self._run, name="map-cache", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with self._turn:
            self._closing = True
            self._turn.notify_all()
        if self._thread is not None:
            self._thread.join(REFRESH_SECONDS)

    def current(self) -> Snapshot:
        """The copy in memory. No I/O, no lock. Raises `Unavailable` while the catalog has never answered."""
        snapshot = self._snapshot
        if snapshot is None:
            raise Unavailable("The shard map is not known yet.", retry_after_seconds=1)
        return snapshot

    def wait_until_loaded(self, timeout_seconds: float) -> bool:
        """Wait for the first snapshot; whether there is one."""
        with self._turn:
            return self._turn.wait_for(lambda: self._snapshot is not None, timeout_seconds)

    def refresh(
        self, stale_epoch: int, timeout_seconds: float = REFRESH_SECONDS, *, surely: bool = False
    ) -> Snapshot:
        """The snapshot after a look at the catalog, for whoever learned that `stale_epoch` is outdated.

        Returns at once where the copy is newer already; else waits for a poll that begins from now on,
        which all who ask meanwhile share. Its epoch may still be `stale_epoch`: where the catalog has
        nothing newer, does not answer, or not within `timeout_seconds`. With `surely` only the first of these:
        else it raises `Unavailable`.
        """
        with self._turn:
            poll = self._wanted = self._begun + 1
            self._stale_epoch = max(self._stale_epoch, stale_epoch)
            self._turn.notify_all()
            self._turn.wait_for(
                lambda: self._ended >= poll or self._epoch() > stale_epoch or self._closing, timeout_seconds
            )
            if surely and self._sure < poll and self._epoch() <= stale_epoch:
                raise Unavailable("The shard map cannot be read.", retry_after_seconds=1)
        return self.current()

    def _epoch(self) -> int:
        return 0 if self._snapshot is None else self._snapshot.map.epoch

    def _refresh_wanted(self) -> bool:
        return self._wanted > self._ended and self._epoch() <= self._stale_epoch

    def _run(self) -> None:
        while not self._closing:
            with self._turn:
                self._begun += 1
            try:
                self._poll()
            except Exception as error:  # noqa: BLE001  (whatever it is, the thread must live and try again)
                self._note_failure(error)
            else:
                self._note_success()
            pause = self._poll_seconds * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311
            if self._failing_since is not None:
                pause *= _BACKOFF
            with self._turn:
                self._ended = self._begun
                self._turn.notify_all()
                self._turn.wait_for(lambda: self._closing or self._refresh_wanted(), pause)

    def _poll(self) -> None:
        """Ask the first source that answers. Raises `Unavailable`, saying what each said, where none does."""
        failures: list[Exception] = []
        for number, source in enumerate(self._sources):
            try:
                with source() as connection:
                    snapshot = load(connection) if read_epoch(connection) > self._epoch() else None
            except (Unavailable, psycopg.Error) as error:
                failures.append(error)
            else:
                if snapshot is not None:
                    self._put_to_use(snapshot)
                if number == 0:
                    self._sure = self._begun
                return
        raise Unavailable("; ".join(map(str, failures))) from failures[0]

    def _put_to_use(self, snapshot: Snapshot) -> None:
        for callback in self._callbacks:
            callback(snapshot)
        self._snapshot = snapshot
        logger.info("shard map of epoch %d is in force", snapshot.map.epoch)

    def _note_failure(self, error: Exception) -> None:
        if self._failing_since is not None:
            return
        self._failing_since = monotonic()
        if self._snapshot is None:
            logger.error("no shard map yet: the catalog cannot be read, trying on: %s", error)
        else:
            logger.warning("going on with shard map of epoch %d: %s", self._epoch(), error)

    def _note_success(self) -> None:
        if self._failing_since is not None:
            logger.warning("the catalog is read again after %.1f s", monotonic() - self._failing_since)
            self._failing_since = None
