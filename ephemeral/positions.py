"""How far each credential has written and seen, for requests that bring a session token or merchant key and no more.

One worker remembers before it answers, another recalls before it chooses a replica: one round trip each. What is
recalled is either enough or "unknown" (None), and then the primary is read. Enough means: a replica that has it all has
every write that was answered to this credential. Why that holds, whatever becomes of the Redis-compatible server:

**It expires.** `ttl_seconds` is longer than a replica that is read may lag: what is forgotten is replayed by then. (By
the server's clock. One that jumps ahead by more than the difference forgets too soon.)

**It has lost its memory** (restarted empty or with an old snapshot, flushed, replaced). Then nothing there would look
like never wrote. So beside the positions lies a marker with a random id, which goes with them; and the run id of the
server, which changes when it starts or becomes a primary, says whether what it has is still what it had. A process
trusts a memory, marker and run id together, once it has a *floor*: the position of every shard's primary, taken after
it first saw that memory. Any write that an earlier memory knew was committed before, so it lies at or below the
floor, which is part of every answer.

**It is away, for all or for some.** `remember` returns False, and the caller answers the write only when every replica
that may be read has it. So it does no harm that another worker, which reaches the server, finds nothing of this write
there and reads a replica.

**It was away, and what was read meanwhile is cached.** A cached answer may be older than every replica, so waiting for
these is not enough. The caller changes a word that all workers of its machine see (`ephemeral/unremembered.py`), before
it answers; and the marker is deleted as soon as the server is back (`doubt`), for all others: all go by a new floor.

**It has become a replica of another server, or is full.** The marker is read by a command that counts as a write
(GETEX ... PERSIST, which changes nothing), so a replica, whose memory may be older, refuses it. A server that evicts
when it is full is not trusted at all: what it throws away leaves no trace. One that refuses to store is only away for
those who remember.

**Nobody remembered for a while**, because replicas were not read: `distrust` has a new floor taken.

**Two primaries take writes at once**, as for seconds when Sentinel hands over. Neither counts for anybody until the
other one counts for nobody any more (`Server.sole`): what is remembered meanwhile is not certain, what is recalled is
not known. A cluster has its own means: a primary that cannot reach the others stops by itself, after as long as these
wait before they replace it. What is left there are the milliseconds in which a primary that froze, and was replaced,
goes on and has not heard of it yet.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from time import monotonic
from typing import Any

from ephemeral import unremembered
from ephemeral.client import EphemeralUnavailable
from ephemeral.round_trip import Reply, RoundTrips, Server
from ephemeral.scripts import Call, Command, Script

logger = logging.getLogger("ephemeral")

REMEMBER = Script("position_remember")

# (timeline, LSN) in the log of one PostgreSQL cluster; they order as they stand.
Place = tuple[int, int]
Places = Mapping[int, Place]  # by system identifier

# Session tokens and merchant keys. Nothing is promised to others.
REMEMBERED_PREFIXES = ("st_", "mk_")

# One hash tag: on a Redis Cluster one node then has all of it, and the marker speaks for every entry.
_ENTRY = "position:{positions}:"
_MARKER = "position-marker:{positions}"
_READ_MARKER = ("GETEX", _MARKER, "PERSIST")

_LSN_DIGITS = 20  # 2^64 has 20 digits
_SYSTEM_IDENTIFIER = re.compile(rb"[0-9a-f]{16}")
_POSITION = re.compile(rb"([0-9]{10})([0-9]{20})")


@dataclass(frozen=True, slots=True)
class Recalled:
    """What a replica must have replayed. `positions` are this credential's own, `floor` lies beyond what a lost memory
    knew and is nobody's write: not to have it proves no write lost."""

    positions: dict[int, Place]
    floor: dict[int, Place]


@dataclass(frozen=True, slots=True)
class _Memory:
    """One memory of the server, by marker and run id. Trusted where there is a floor; nothing is owed to it after
    `floor_until`, when what was forgotten would have expired."""

    name: tuple[bytes, str]
    seen_at: float
    floor: dict[int, Place] | None = None
    floor_until: float = inf


class RememberedPositions:
    """Remembers and recalls. For any number of greenlets or threads; one for each process.

    `sample_floor(moment)` returns the positions of every shard's primary, each sampled after that moment of the clock,
    or None while there are not all of them; it must not wait. When a shard is added or gets another primary,
    `distrust(0)` has a new floor taken: the one there is may be older, or of a primary that was none any more.
    """

    def __init__(
        self,
        server: RoundTrips,
        ttl_seconds: int,
        sample_floor: Callable[[float], Places | None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._server = server
        self._ttl_seconds = ttl_seconds
        self._sample_floor = sample_floor
        self._clock = clock
        self._lock = threading.Lock()
        self._memory: _Memory | None = None
        self._distrusted_until = -inf
        self._unremembered = unremembered.latest()
        self._warned = False
        # How often something was left out of the memory, and of how many of these it was rid: see `doubt`.
        self._doubts = self._rid_of_doubts = 0

    def remember(self, credential: str, positions: Places) -> bool:
        """Raise what is known of this credential. False where that could not be stored, or it is not certain."""
        calls = self.saying(credential, positions)
        try:
            return not calls or self.took(self._server.ask(*calls))
        except EphemeralUnavailable:
            return False

    def saying(self, credential: str, positions: Places) -> tuple[Call, ...]:
        """What `remember` says, to be said beside something else: nothing where there is nothing to remember."""
        if not positions or not credential.startswith(REMEMBERED_PREFIXES):
            return ()
        arguments: list[str | int] = [self._ttl_seconds]
        for system_identifier, (timeline, lsn) in positions.items():
            arguments += f"{system_identifier:016x}", f"{timeline:010d}{lsn:020d}"
        return (REMEMBER([_entry_key(credential)], *arguments),)

    @staticmethod
    def took(replies: Sequence[Reply]) -> bool:
        """Whether what was said is remembered, by the replies to it."""
        return all(reply.value == 1 and reply.server.sole for reply in replies)

    def recall(self, credential: str, *beside: Call) -> tuple[Recalled | None, list[Reply]]:
        """What a replica must have for this credential, None where that is not known; and the replies to what is asked
        `beside` it, none where the server is away."""
        questions = self.questions(credential)
        replies: list[Reply] = []
        if questions or beside:
            with suppress(EphemeralUnavailable):
                replies = self._server.ask(*questions, *beside)
        return self.hear(credential, replies[: len(questions)]), replies[len(questions) :]

    def questions(self, credential: str) -> tuple[Command, ...]:
        """The commands whose replies `hear` wants, in one packet and in this order; none where it needs none."""
        self._heed_unremembered()
        if not credential.startswith(REMEMBERED_PREFIXES) or self._clock() < self._distrusted_until:
            return ()
        if self._doubts != self._rid_of_doubts:
            return ()
        # The entry first: where the memory is lost between the two, the marker is gone as well.
        return ("HGETALL", _entry_key(credential)), _READ_MARKER

    def hear(self, credential: str, replies: Sequence[Reply]) -> Recalled | None:
        """What `recall` says, from the replies to the `questions`; none of them where they were not asked."""
        if not credential.startswith(REMEMBERED_PREFIXES):
            return Recalled({}, {})
        self._heed_unremembered()
        if not replies:
            return None
        entry, marker = replies
        if entry.server is not marker.server:  # not of one packet: their slot is on its way to another server
            return None
        floor = self._floor(marker.server, marker.value)
        positions = _positions(entry.value)
        if floor is None or positions is None:
            return None
        return Recalled(positions, floor)

    def distrust(self, seconds: float) -> None:
        """For so long not everybody remembers: nothing is known meanwhile, and then a new floor is needed."""
        with self._lock:
            self._distrusted_until = max(self._distrusted_until, self._clock() + seconds)
            self._memory = None

    def doubt(self) -> None:
        """Somebody was shown what could not be remembered, and may be shown what is older than all replicas: a cached
        answer. So the memory has to become another one, with a floor of its own, for every process."""
        self._doubts += 1

    def tend(self) -> None:
        """Have it become another one as soon as the server answers; until then nothing is known here. Called by one
        thread, several times a second: for so long another process may still trust it."""
        doubts = self._doubts
        if doubts == self._rid_of_doubts:
            return
        try:
            # Not another marker in its place: a server that is full takes nothing, but lets go of what it has.
            (reply,) = self._server.ask(("DEL", _MARKER))
        except EphemeralUnavailable:
            return
        if isinstance(reply.value, int):
            self._rid_of_doubts = doubts

    def _heed_unremembered(self) -> None:
        """Also when an answer has come: it may have been given before such a write, and is heard after it."""
        latest = unremembered.latest()
        if latest != self._unremembered:
            self._unremembered = latest
            self.distrust(0)

    def _floor(self, server: Server, marker: Any) -> dict[int, Place] | None:
        """The floor under the memory that this marker stands for; None while it is not trusted."""
        if marker is None:
            self._make_marker()
            return None
        if not isinstance(marker, bytes) or not self._keeps(server):
            return None
        memory = self._memory
        if memory is None or memory.floor is None or memory.name != (marker, server.run_id):
            memory = self._settle((marker, server.run_id))
        return memory.floor if self._clock() < memory.floor_until else {}

    def _settle(self, name: tuple[bytes, str]) -> _Memory:
        """Note a memory that is seen for the first time; give it a floor as soon as there is one from after that.

        Answers may come here in another order than they were given in: a late one about an earlier memory only
        makes this start again.
        """
        with self._lock:
            memory, now = self._memory, self._clock()
            if memory is None or memory.name != name:
                memory = _Memory(name, seen_at=now)
            elif memory.floor is None and now >= self._distrusted_until:
                floor = self._sample_floor(max(memory.seen_at, self._distrusted_until))
                if floor is not None:
                    memory = replace(memory, floor=dict(floor), floor_until=now + self._ttl_seconds)
            self._memory = memory
            return memory

    def _make_marker(self) -> None:
        """Whoever comes first makes it; the next answer says which one that is."""
        try:
            self._server.ask(("SET", _MARKER, secrets.token_hex(16), "NX"))
        except EphemeralUnavailable:
            return

    def _keeps(self, server: Server) -> bool:
        if server.run_id and not server.may_evict:
            return server.sole
        if not self._warned:
            self._warned = True
            logger.warning(
                "positions are not recalled: the Redis-compatible server evicts (maxmemory-policy), or refuses INFO"
            )
        return False


def _entry_key(credential: str) -> str:
    """Of a hash: who can list the server's keys must not find credentials there."""
    return _ENTRY + hashlib.blake2b(credential.encode(), digest_size=16).hexdigest()


def _positions(entry: Any) -> dict[int, Place] | None:
    """What an entry holds; None where any of it cannot be read, since that may have been a position."""
    if not isinstance(entry, dict):
        return None
    positions: dict[int, Place] = {}
    for field, value in entry.items():
        place = _POSITION.fullmatch(value)
        if place is None or not _SYSTEM_IDENTIFIER.fullmatch(field):
            return None
        positions[int(field, 16)] = (int(place[1]), int(place[2]))
    return positions
