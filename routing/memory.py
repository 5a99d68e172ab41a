"""What a credential has written and seen, for the requests that bring nothing but the credential."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from time import monotonic

import metrics
from ephemeral import unremembered
from ephemeral.positions import Recalled, RememberedPositions
from ephemeral.round_trip import Reply, RoundTrips
from ephemeral.scripts import Call, Command
from pools.node import NodeState
from routing.catalog import Snapshot
from routing.replay import ReplayPositions
from routing.scope import Scope
from routing.token import Position, merge

logger = logging.getLogger("routing")

# A flag is in force on every worker within a second, and a request that began before then may still be writing:
# nobody has remembered anything for certain before both are over.
SETTLE_SECONDS = 2.0
# A flag that goes off is off on every worker within this.
OFF_SECONDS = 1.0
# For so long, after the server is back, another worker may show a credential less than it saw meanwhile.
TEND_SECONDS = 0.1
# How long a write whose position could not be remembered waits for the replicas before it is answered.
CATCH_UP_SECONDS = 1.0


@dataclass(slots=True)
class _Layer:
    """A layer that may serve what is older than a credential's last request: while its flag is on, and a bit longer."""

    until: float = -inf

    def turn(self, now: float, *, enabled: bool) -> bool:
        """Follow its flag; whether it has just gone on."""
        was_on = self.until == inf
        if enabled:
            self.until = inf
        elif was_on:
            self.until = now + OFF_SECONDS
        return enabled and not was_on

    def counts(self, now: float) -> bool:
        return now < self.until


class SessionMemory:
    """Remembers positions for credentials while replicas or the cache are read. One for each worker."""

    def __init__(self, server: RoundTrips, ttl_seconds: int, replay: ReplayPositions) -> None:
        self._remembered = RememberedPositions(server, ttl_seconds, self._floor)
        self._replay = replay
        self._replicas, self._cache = _Layer(), _Layer()
        self._timelines: dict[int, int] = {}
        self._floor_is_certain = False
        self._shards: frozenset[str] = frozenset()

    def follow(self, snapshot: Snapshot) -> None:
        """While both flags are off nobody remembers; so when one goes on, what is remembered is not all there is.

        With replicas alone, reads that all of them can repeat are not remembered: so the cache's going on counts, too.
        When one goes off, other workers may not have heard of it yet.
        """
        flags, now = snapshot.flags, monotonic()
        began = [
            self._replicas.turn(now, enabled=flags.read_replicas),
            self._cache.turn(now, enabled=flags.redis_cache),
        ]
        if any(began):
            self._remembered.distrust(SETTLE_SECONDS)
        shards, self._shards = self._shards, frozenset(shard.name for shard in snapshot.map.shards)
        if shards and self._shards - shards:
            self._remembered.distrust(0)  # others may have written there before the floor there is

    def follow_states(self, states: Mapping[str, NodeState]) -> None:
        """A floor from a primary that had been replaced, unknown to this worker, is too low: take another."""
        primaries = [state for state in states.values() if state.role == "primary"]
        rose = [
            state.timeline > self._timelines.get(state.system_identifier, state.timeline)
            for state in primaries
        ]
        self._timelines.update({state.system_identifier: state.timeline for state in primaries})
        if any(rose) and not self._floor_is_certain:
            self._remembered.distrust(0)

    def recall(self, scope: Scope) -> bool:
        """Put what the request's credential has seen into its positions; False where that is not known."""
        if scope.recalled is None:
            scope.recalled = scope.credential is None or self._recall(scope, scope.credential)
        return scope.recalled

    def questions(self, scope: Scope) -> tuple[Command, ...]:
        """What to ask the server for beside something else, so that `hear` can do what `recall` does."""
        if scope.recalled is not None or scope.credential is None:
            return ()
        return self._remembered.questions(scope.credential)

    def hear(self, scope: Scope, replies: Sequence[Reply]) -> bool:
        """`recall`, from the replies to the `questions`."""
        if scope.recalled is None:
            scope.recalled = scope.credential is None or self._take(
                scope, self._remembered.hear(scope.credential, replies)
            )
        return scope.recalled

    def _recall(self, scope: Scope, credential: str) -> bool:
        admission = scope.take_admission()
        beside = [admission.question] if admission is not None else []
        with scope.timed("session"):
            recalled, replies = self._remembered.recall(credential, *beside)
        if admission is not None:
            admission.hear(replies[0] if replies else None)
        return self._take(scope, recalled)

    @staticmethod
    def _take(scope: Scope, recalled: Recalled | None) -> bool:
        if recalled is None:
            return False
        scope.positions = merge(_positions(recalled.positions), scope.positions)
        scope.floors = _positions(recalled.floor)
        return True

    def keep(self, scope: Scope) -> None:
        """Remember for the credential what the request wrote, or saw, before it is answered.

        What was only seen is left out where the client keeps it in its token. Without the cache also where every
        replica has it; a cached answer may be older than all of them, and so may those of a store's old home.
        """
        if scope.credential is None or not self._is_to_keep(scope):
            return
        with scope.timed("session"):
            if not self._remembered.remember(scope.credential, _places(scope.positions)):
                unremembered.note()  # for this machine's workers, at once
                now = monotonic()
                if self._cache.counts(now):
                    self._remembered.doubt()  # for all others', as soon as the server is back
                if scope.wrote and self._replicas.counts(now):
                    self._wait_for_replicas(scope)

    def saying(self, scope: Scope) -> tuple[Call, ...]:
        """What `keep` would say, to be said beside something else, after which `said` is told the replies."""
        if scope.credential is None or not self._is_to_keep(scope):
            return ()
        return self._remembered.saying(scope.credential, _places(scope.positions))

    def said(self, scope: Scope, replies: Sequence[Reply]) -> None:
        """Leave nothing for `keep` to do, unless it was not taken or the request goes on to see more."""
        if replies and self._remembered.took(replies):
            scope.raised = False

    def _is_to_keep(self, scope: Scope) -> bool:
        now = monotonic()
        caching, reading_replicas = self._cache.counts(now), self._replicas.counts(now)
        if not (reading_replicas or caching) or not scope.raised:
            return False
        if scope.wrote:
            return True
        moved = scope.route is not None and scope.route.arrival is not None
        return not scope.carries_token and (caching or moved or not self._everyone_has(scope, all_nodes=True))

    def tend(self) -> None:
        """Make up for what could not be remembered; to be called every TEND_SECONDS."""
        self._remembered.tend()

    def _floor(self, moment: float) -> Mapping[int, tuple[int, int]] | None:
        """Where every shard's primary stood after that moment."""
        positions = self._replay.positions_after(moment)
        if positions is None:
            return None
        # Had another node been primary then, it would have said so: unless it was not heard of.
        self._floor_is_certain = all(state.sampled_at > moment for state in self._replay.states().values())
        return {place.system_identifier: (place.timeline, place.lsn) for place in positions.values()}

    def _wait_for_replicas(self, scope: Scope) -> None:
        """It could not be remembered, and another worker might still read it: so let the replicas have it first."""
        shard = scope.route.shard if scope.route is not None else None
        if not self._replay.wait_for(lambda: self._everyone_has(scope), CATCH_UP_SECONDS, hurried=shard):
            metrics.count_forgotten_write()
            logger.warning(
                "a write was neither remembered nor replayed everywhere within %g s", CATCH_UP_SECONDS
            )

    def _everyone_has(self, scope: Scope, *, all_nodes: bool = False) -> bool:
        """Whether every replica that may be read is known to have what the request saw of its shard.

        With `all_nodes` also that there is no other, which may be read again before it has it.
        """
        if scope.route is None:
            return True
        state = self._replay.shard(scope.route.shard)
        if state.lineage is None or (all_nodes and len(state.replicas) < state.nodes - 1):
            return False
        seen = scope.positions.get(state.lineage.system_identifier)
        return seen is None or all(
            state.lineage.has(Position(seen.system_identifier, replica.timeline, replica.lsn), seen)
            for replica in state.replicas.values()
        )


def _places(positions: Mapping[int, Position]) -> dict[int, tuple[int, int]]:
    return {place.system_identifier: (place.timeline, place.lsn) for place in positions.values()}


def _positions(plain: Mapping[int, tuple[int, int]]) -> dict[int, Position]:
    return {identifier: Position(identifier, *place) for identifier, place in plain.items()}
