"""Cached answers: the bytes to send, with what must be known to say whom they may be sent to.

An entry lives in its store's hash and carries two positions of the log it was read from: everything up to `at_least` is
in it, nothing behind `at_most` is. It counts while nothing that it depends on was changed since, for `ttl_seconds` at
most. Whether it is new enough for a reader is the caller's to judge (`routing/cached_reads.py`); what is asked here
only has to be conservative.

    look    hit: the entry · lease: make it and fill it in · wait: another one makes it · moved: ask the map again ·
            refused: the server is full, or none to rely on
    fill    stored, unless it was read before the latest change (leases, NSDI'13, section 3.2.1)
    change  after a commit; notes which products it touched

**The bound.** A change that nobody told of (the worker died behind its commit, the server was away, somebody used
psql) is not seen for `ttl_seconds`: an entry expires so long after its *lease*, which is older than its read.

**Memory.** A store's entries take `STORE_BYTES` at most, and throw each other out; all of them together are bounded by
their short life, and by `full`: while the server holds more than it should, nothing is filled in. So the server keeps
`noeviction`, which the positions need (`ephemeral/positions.py`), and no cart is ever thrown out for the cache's sake.
A server that evicts all the same is not asked: it could throw away what is known of changes, and keep the entries.

**Another memory.** An entry names the run of the server (`run_id`) that its lease came from. What a restart brought
back does not count.

Sources: https://www.usenix.org/system/files/conference/nsdi13/nsdi13-final170_update.pdf (leases),
https://www.vldb.org/pvldb/vol8/p886-vattani.pdf (XFetch).
"""

from __future__ import annotations

import random
import secrets
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, log
from typing import Any, Literal
from uuid import UUID

import redis

from ephemeral.client import EphemeralUnanswered, EphemeralUnavailable
from ephemeral.positions import Place
from ephemeral.round_trip import Reply, RoundTrips
from ephemeral.scripts import Call, Command, Script

# Longer than a read takes in a worker with a thousand others to serve; who holds one and dies is waited for so long.
LEASE_SECONDS = 3.0
# How long it is known where a store was changed last, beyond an entry's life: longer than a replica may be behind.
STATE_SECONDS = 120
# Of one store's entries: a few hundred pages of twenty products.
STORE_BYTES = 4 << 20
# Absent things are found by guessing, so they are kept for a shorter time.
ABSENT_SHARE = 0.3
# Entries made together must not expire together.
JITTER = 0.2

LOOK, FILL, CHANGE = Script("cache_look"), Script("cache_fill"), Script("cache_change")

HIGHEST_ID = UUID(int=(1 << 128) - 1)
LOWEST_ID = UUID(int=0)

# Leases nobody has heard of: as many as a server may have been asked for when it froze, by one worker.
UNHEARD = 256

Outcome = Literal["hit", "lease", "wait", "moved", "refused"]
Kind = Literal["C", "S"]  # see cache_change.lua


@dataclass(frozen=True, slots=True)
class Name:
    """Which answer of which store."""

    store_id: UUID
    text: str

    def keys(self) -> tuple[str, str]:
        return _keys(self.store_id)


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer. `absent`: there is no such thing, and no bytes. It depends on products from `low` to `high`."""

    body: bytes
    etag: str = ""
    next_cursor: str | None = None
    absent: bool = False
    low: UUID = LOWEST_ID
    high: UUID = HIGHEST_ID


@dataclass(frozen=True, slots=True)
class Stamp:
    """What an answer has seen of one cluster's log: all up to `at_least`, nothing behind `at_most`; on one timeline."""

    system_identifier: int
    timeline: int
    at_least: int
    at_most: int


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to fill in one entry. `after`: where the store was changed last, as far as is known."""

    lease_id: str
    run_id: str
    epoch: int
    after: Place | None


@dataclass(frozen=True, slots=True)
class Look:
    outcome: Outcome
    kept: Kept | None = None
    stamp: Stamp | None = None
    lease: Lease | None = None


class Cache:
    """Asks the server. For any number of greenlets or threads. Every method may raise `EphemeralUnavailable`."""

    def __init__(self, server: RoundTrips, ttl_seconds: float, max_bytes: int) -> None:
        self._server = server
        self.ttl_seconds = ttl_seconds
        self._state_seconds = STATE_SECONDS + ceil(ttl_seconds)
        self._max_bytes = max_bytes
        self.full = False
        self._unheard: deque[tuple[Name, int, str]] = deque(maxlen=UNHEARD)

    def look(
        self, name: Name, epoch: int, wanted: Place, *beside: Command | Call, ignore: bool = False
    ) -> tuple[Look, list[Reply]]:
        """What there is for a reader who must have seen `wanted`, and the replies to the commands `beside` it."""
        lease_id = secrets.token_hex(8)
        timeline, lsn = wanted
        arguments: list[str | int] = [name.text, epoch, lease_id, round(LEASE_SECONDS * 1000)]
        arguments += [f"{timeline:010d}", f"{lsn:020d}", f"{-log(1.0 - random.random()):.6f}"]  # noqa: S311
        arguments += [int(ignore), self._state_seconds, round(self.ttl_seconds * 1000)]
        try:
            looked, *others = self._server.ask(LOOK(name.keys(), *arguments), *beside)
        except EphemeralUnanswered:
            self._unheard.append((name, epoch, lease_id))
            raise
        reply, server = looked.value, looked.server
        if isinstance(reply, redis.ResponseError) or not server.run_id or server.may_evict:
            return Look("refused"), others
        outcome: Outcome = reply[0].decode()
        if outcome == "lease":
            lease = Lease(lease_id, server.run_id, epoch, _place(reply[1]))
            return Look("lease", lease=lease), others
        if outcome != "hit":
            return Look(outcome), others
        kept, stamp, run_id = _decode(reply[1])
        if run_id != server.run_id and not ignore:
            again, _ = self.look(name, epoch, wanted, ignore=True)
            return again, others
        return Look("hit", kept, stamp), others

    def fill(self, name: Name, lease: Lease, stamp: Stamp, kept: Kept) -> str:
        """Keep what was made under the lease: "stored", or why not (cache_fill.lua)."""
        ttl_ms = self.ttl_seconds * 1000 * (ABSENT_SHARE if kept.absent else 1.0)
        lifetime_ms = 0 if self.full else round(ttl_ms * random.uniform(1.0 - JITTER, 1.0))  # noqa: S311
        arguments: list[Any] = [name.text, lease.epoch, lease.lease_id, lifetime_ms]
        arguments += [f"{stamp.timeline:010d}", f"{stamp.at_least:020d}"]
        arguments += [_digits(kept.low), _digits(kept.high), _encode(kept, stamp, lease.run_id), STORE_BYTES]
        return str(self._run(FILL(name.keys(), *arguments)).decode())

    def release(self, name: Name, lease: Lease) -> None:
        """Give a lease back with nothing made."""
        self._give_back(name, lease.epoch, lease.lease_id)

    def tend(self) -> None:
        """Give back the leases that were asked for and not heard of; to be called several times a second.

        A server that was frozen grants them when it goes on, and all others would wait for whoever no longer listens.
        """
        while self._unheard:
            name, epoch, lease_id = self._unheard[0]
            try:
                self._give_back(name, epoch, lease_id)
            except EphemeralUnavailable:
                return
            self._unheard.popleft()

    def change(
        self,
        store_id: UUID,
        epoch: int,
        place: Place | None,
        changes: Iterable[tuple[Kind, UUID]],
        *beside: Call,
    ) -> list[Reply]:
        """Note what a write changed, and give the replies to what is said `beside` it; `place` lies behind its commit,
        None where that is not known."""
        position = "" if place is None else f"{place[0]:010d}{place[1]:020d}"
        noted = [kind + _digits(product_id) for kind, product_id in changes]
        arguments: list[Any] = [epoch, position, self._state_seconds, *noted]
        noted_in, *others = self._server.ask(CHANGE(_keys(store_id), *arguments), *beside)
        _accepted(noted_in)
        return others

    def weigh(self) -> None:
        """Look how much memory the server uses; above the bound nothing is filled in until it is below.

        Of a cluster any one that is above it counts: carts of its own would be the next to find no room there.
        """
        try:
            replies = self._server.ask_every(("INFO", "memory"))
        except EphemeralUnavailable:
            return
        told = [_used_memory(reply.value) for reply in replies if isinstance(reply.value, bytes)]
        if told:
            self.full = max(told) > self._max_bytes

    def _give_back(self, name: Name, epoch: int, lease_id: str) -> None:
        nothing: list[str | int] = [name.text, epoch, lease_id, 0, "", "", "", "", "", 0]
        self._run(FILL(name.keys(), *nothing))

    def _run(self, call: Call) -> Any:
        (reply,) = self._server.ask(call)
        return _accepted(reply)


def _used_memory(section: bytes) -> int:
    said = dict(line.split(":", 1) for line in section.decode().splitlines() if ":" in line)
    return int(said.get("used_memory", 0))


def _accepted(reply: Reply) -> Any:
    """A script's reply. Raises where the server would not run it: it is full, a replica of another server, ..."""
    if isinstance(reply.value, redis.ResponseError):
        raise _refused() from reply.value
    return reply.value


def _refused() -> EphemeralUnavailable:
    return EphemeralUnavailable("The cache refuses.", retry_after_seconds=1)


def _keys(store_id: UUID) -> tuple[str, str]:
    """One hash tag a store: all that one script touches lies on one node of a Redis Cluster."""
    return f"cache-state:{{{store_id}}}", f"cache:{{{store_id}}}"


def _digits(product_id: UUID) -> str:
    return f"{product_id.int:039d}"


def _place(text: bytes) -> Place | None:
    return (int(text[:10]), int(text[10:])) if text else None


def _encode(kept: Kept, stamp: Stamp, run_id: str) -> bytes:
    head = f"{stamp.system_identifier} {stamp.at_most} {run_id or '-'} {kept.etag or '-'} "
    return f"{head}{kept.next_cursor or '-'} {int(kept.absent)}\n".encode() + kept.body


def _decode(entry: bytes) -> tuple[Kept, Stamp, str]:
    head, _, body = entry.partition(b"\n")
    _, _, _, timeline, at_least, low, high, system_identifier, at_most, run_id, etag, cursor, absent = (
        head.decode().split(" ")
    )
    kept = Kept(
        body,
        "" if etag == "-" else etag,
        None if cursor == "-" else cursor,
        absent == "1",
        UUID(int=int(low)),
        UUID(int=int(high)),
    )
    stamp = Stamp(int(system_identifier), int(timeline), int(at_least), int(at_most))
    return kept, stamp, "" if run_id == "-" else run_id
