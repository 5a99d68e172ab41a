"""Reads through the cache: whom an entry may be shown, who makes a new one, and what a write voids.

For a reader with a position (a token's, or remembered for the credential) an entry counts only where it has seen all
up to there, by the shard's lineage. Who is shown one has seen what it has seen: the reader's position is raised, so
that nothing of it vanishes on the next read, wherever that goes.

A miss is made once: the server gives one caller the lease. The others of the same worker wait for one of theirs, who
waits for the entry; after `PATIENCE_SECONDS` they read by themselves.

    look ─ hit ──────────────────────────────▶ shown
     │ └── wait ─▶ (a moment) ─▶ look
     └──── lease ─▶ read, with bounds ─▶ fill ─▶ shown
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from time import monotonic
from uuid import UUID

import metrics
from ephemeral.cache import LOWEST_ID, Cache, Kept, Kind, Lease, Look, Name, Stamp
from ephemeral.client import EphemeralUnavailable
from ephemeral.positions import Place
from ephemeral.scripts import Call, Command
from errors import CommitInDoubt, TooManyRequests
from routing.lineage import Lineage, Verdict
from routing.memory import SessionMemory
from routing.replay import ReplayPositions
from routing.replica_reads import wanted_lsn
from routing.router import Router
from routing.scope import Scope
from routing.token import Position, merge

# Longer than a lease: should whoever holds it die, one of those who wait makes the entry, and the others still get it.
PATIENCE_SECONDS = 3.5
# Between two looks of one who waits; a read takes about the first.
PAUSES_SECONDS = (0.002, 0.004, 0.008, 0.016, 0.032)
# Each look that comes to nothing has taught the reader more; there is not more than this to learn.
LOOKS = 4
# A read from a replica further behind is not kept. With an entry's life it bounds how old an answer may be that nobody
# has voided: the default of 1.5 s and this are below 2 s.
MAX_LAG_SECONDS = 0.3

Load = Callable[[], Kept]


@dataclass(slots=True)
class _Flight:
    """One entry that is being made, or waited for, by one request of this worker."""

    landed: threading.Event = field(default_factory=threading.Event)
    made: tuple[Kept, Stamp] | None = None
    began_at: float = inf  # the read


@dataclass(frozen=True, slots=True)
class _Seen:
    """An answer to show, a lease to make one, or neither: another one makes it."""

    kept: Kept | None = None
    stamp: Stamp | None = None
    lease: Lease | None = None


@dataclass(slots=True)
class Change:
    """What a write changes: products by id, or any where none is named. `lists`: also which products there are, or by
    which words they are found. `happened`: it may turn out that there was nothing to do."""

    products: Sequence[UUID] = ()
    lists: bool = False
    happened: bool = True


class CachedReads:
    """Reads answers of stores through the cache, and voids them. One for each worker."""

    def __init__(self, cache: Cache, router: Router, replay: ReplayPositions, memory: SessionMemory) -> None:
        self._cache = cache
        self._router = router
        self._replay = replay
        self._memory = memory
        self._flights: dict[Name, _Flight] = {}
        self._lock = threading.Lock()

    def read(self, scope: Scope, store_id: UUID, text: str, load: Load) -> Kept:
        """The store's answer of this name, from the cache or as `load` makes it; what came of it is `scope.cache`."""
        kept = None
        if scope.flags.redis_cache:
            with suppress(EphemeralUnavailable):
                kept = self._through(scope, Name(store_id, text), load)
        if kept is None:
            scope.settle()
            scope.cache = "bypass"
            kept = load()
        metrics.count_cache(scope.cache)
        return kept

    @contextmanager
    def changing(self, scope: Scope, store_id: UUID, change: Change) -> Iterator[None]:
        """Around a write: what it changed is void when it is committed, or may have been, before anybody is told."""
        before = scope.written
        try:
            yield
        except CommitInDoubt:
            self._void(scope, store_id, None, change)
            raise
        if scope.written is not before and change.happened:
            self._void(scope, store_id, scope.written, change)

    # Inside.

    def _void(self, scope: Scope, store_id: UUID, written: Position | None, change: Change) -> None:
        if not scope.flags.redis_cache or scope.route is None:
            return
        place = (written.timeline, written.lsn) if written is not None else None
        kind: Kind = "S" if change.lists else "C"
        changes: list[tuple[Kind, UUID]] = [(kind, product_id) for product_id in change.products]
        with (
            suppress(EphemeralUnavailable),
            scope.timed("cache"),
        ):  # its entries live no longer than their time
            told = self._cache.change(
                store_id,
                scope.route.epoch,
                place,
                changes or [("S", LOWEST_ID)],
                *self._memory.saying(scope),
            )
            self._memory.said(scope, told)

    def _through(self, scope: Scope, name: Name, load: Load) -> Kept | None:
        """The answer; None where the cache can say nothing, or not in time."""
        give_up = monotonic() + PATIENCE_SECONDS
        if scope.credential is None and (shown := self._join(scope, name, give_up)):
            return shown
        while True:
            seen = self._look(scope, name)
            if seen is None or seen.kept is not None:
                return seen.kept if seen is not None else None
            if seen.lease is None and (shown := self._join(scope, name, give_up)):
                return shown
            if seen.lease is not None or monotonic() < give_up:
                made = self._lead(scope, name, seen.lease, load, give_up)
                if made is not None:
                    return made
            if monotonic() >= give_up:
                return self._miss(scope, load)

    def _look(self, scope: Scope, name: Name) -> _Seen | None:
        """What there is for this reader: an answer, a lease, or another's lease. None: the cache cannot tell."""
        ignore = False
        for _ in range(LOOKS):
            epoch = self._router.route(scope, name.store_id)
            lineage = self._lineage(scope)
            lsn = wanted_lsn(scope, lineage) if lineage is not None else None
            if lineage is None or lsn is None:
                return None
            look, known = self._ask(scope, name, epoch, (lineage.timeline, lsn), ignore=ignore)
            if self._router.is_outdated(scope, epoch):
                if look.lease is not None:
                    self._cache.release(name, look.lease)
                continue
            if not known or look.outcome in ("moved", "refused"):
                if look.lease is not None:
                    self._cache.release(name, look.lease)
                return None
            if look.kept is None or look.stamp is None:
                return _Seen(lease=look.lease)
            if self._may_see(scope, look.stamp):
                return _Seen(self._show(scope, look.kept, look.stamp), look.stamp)
            # By what the server was told it was good enough: what is remembered of the credential, which came with the
            # same answer, asks for more. Or it is of another cluster.
            ignore = look.stamp.system_identifier != lineage.system_identifier
        return None

    def _ask(self, scope: Scope, name: Name, epoch: int, wanted: Place, *, ignore: bool) -> tuple[Look, bool]:
        """In one packet: the entry, what the credential has seen, and whether the request is admitted.

        Also whether it is known what the credential has seen. Raises `TooManyRequests`, `EphemeralUnavailable`.
        """
        questions, admission = self._memory.questions(scope), scope.take_admission()
        beside: list[Command | Call] = [*questions]
        if admission is not None:
            beside.append(admission.question)
        try:
            with scope.timed("cache"):
                look, replies = self._cache.look(name, epoch, wanted, *beside, ignore=ignore)
        except EphemeralUnavailable:
            if admission is not None:
                admission.hear(None)
            raise
        if admission is not None:
            try:
                admission.hear(replies.pop())
            except TooManyRequests:
                with suppress(EphemeralUnavailable):  # away by now: refused all the same
                    if look.lease is not None:
                        self._cache.release(name, look.lease)
                raise
        return look, self._memory.hear(scope, replies)

    def _lineage(self, scope: Scope) -> Lineage | None:
        assert scope.route is not None
        return self._replay.shard(scope.route.shard).lineage

    def _may_see(self, scope: Scope, stamp: Stamp) -> bool:
        """Whether an answer has seen all that this reader must."""
        lineage = self._lineage(scope)
        wanted = wanted_lsn(scope, lineage) if lineage is not None else None
        if lineage is None or wanted is None or stamp.timeline != lineage.timeline:
            return False
        return stamp.system_identifier == lineage.system_identifier and stamp.at_least >= wanted

    def _show(self, scope: Scope, kept: Kept, stamp: Stamp) -> Kept:
        scope.reached(Position(stamp.system_identifier, stamp.timeline, stamp.at_most))
        self._router.saw_arrival(scope)
        scope.cache = "hit"
        return kept

    def _miss(self, scope: Scope, load: Load) -> Kept:
        scope.cache = "miss"
        return load()

    def _join(self, scope: Scope, name: Name, give_up: float) -> Kept | None:
        """What another request of this worker is making or waiting for, if this reader may see it."""
        flight = self._flights.get(name)
        if flight is None:
            return None
        scope.settle()
        with scope.timed("cache"):
            landed = flight.landed.wait(max(0.0, give_up - monotonic()))
        if not landed or flight.made is None:
            return None
        kept, stamp = flight.made
        self._router.route(scope, name.store_id)
        # One that took so long is as good as expired.
        in_time = monotonic() - flight.began_at < self._cache.ttl_seconds
        return self._show(scope, kept, stamp) if in_time and self._may_see(scope, stamp) else None

    def _lead(self, scope: Scope, name: Name, lease: Lease | None, load: Load, give_up: float) -> Kept | None:
        """Get the entry for all of this worker who want it: make it, or wait for another worker that does.

        None where another request of this worker leads already, and nothing is to be made.
        """
        flight = _Flight()
        with self._lock:
            leads = self._flights.setdefault(name, flight) is flight
        if lease is None and not leads:
            return None
        try:
            looks = 0
            while lease is None:
                if monotonic() >= give_up:
                    return None
                with scope.timed("cache"):
                    flight.landed.wait(PAUSES_SECONDS[min(looks, len(PAUSES_SECONDS) - 1)])
                looks += 1
                looked_at = monotonic()
                seen = self._look(scope, name)
                if seen is None:
                    return None
                if seen.kept is not None and seen.stamp is not None:
                    flight.made, flight.began_at = (seen.kept, seen.stamp), looked_at
                    return seen.kept
                lease = seen.lease
            return self._make(scope, name, lease, load, flight)
        finally:
            if leads:
                with self._lock:
                    del self._flights[name]
            flight.landed.set()

    def _make(self, scope: Scope, name: Name, lease: Lease, load: Load, flight: _Flight) -> Kept:
        """Read, and fill it in."""
        lineage, filled = self._lineage(scope), False
        try:
            if lease.after is not None and lineage is not None:
                # A replica must be that far: what one read before would be refused.
                after = Position(lineage.system_identifier, *lease.after)
                scope.floors = merge(scope.floors, {after.system_identifier: after})
            scope.asks_bounds, scope.bounds = True, None
            flight.began_at = monotonic()
            kept = self._miss(scope, load)
            stamp = self._stamp(scope, lease)
            if stamp is not None:
                filled = True
                with suppress(EphemeralUnavailable), scope.timed("cache"):
                    # One that is too late or too much to be kept is good for those who wait for it.
                    if self._cache.fill(name, lease, stamp, kept) != "refused":
                        flight.made = kept, stamp
        finally:
            scope.asks_bounds = False
            if not filled:
                with suppress(EphemeralUnavailable):
                    self._cache.release(name, lease)
        return kept

    def _stamp(self, scope: Scope, lease: Lease) -> Stamp | None:
        """What the read has seen, as positions of the newest timeline; None where it is not to be kept."""
        bounds, lineage = scope.bounds, self._lineage(scope)
        assert scope.route is not None
        if bounds is None or lineage is None or bounds.lag_seconds > MAX_LAG_SECONDS:
            return None
        if scope.route.epoch != lease.epoch:  # the store has moved meanwhile
            return None
        if any(lineage.judge(place) is not Verdict.KEPT for place in (bounds.at_least, bounds.at_most)):
            return None
        # What is kept of an older timeline is part of the newest, under the same numbers.
        return Stamp(lineage.system_identifier, lineage.timeline, bounds.at_least.lsn, bounds.at_most.lsn)
