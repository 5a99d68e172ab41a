"""Locks that several servers grant together: Redlock, asked side by side, with a lease that the database checks.

A lock keeps a crowd away from work that only one of them can do. It is no guarantee, and nothing here is: a server may
freeze, lose its memory or its clock, and so may the holder. What must not happen twice is prevented by unique keys in
PostgreSQL; that a holder who slept past its lease cannot commit, by the number that its transaction carries
(`Lease.since`, routing/router.py, check_lease in sql/migrations/0004_fences.sql).

    hold ──▶ every server: SET where free ──▶ a quorum in time?  yes ─▶ held, extended while the work runs ─▶ released
                                              another has one?        LockTakenError
                                              neither                 None: released again, and the work goes on without

Whoever is refused knows of another who goes on. One owner seen on a quorum of servers was granted the lock there, so it
does not see a third one there, and holds the lock or goes on without. Where the votes are split, all of them go on.

Sources: https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/;
https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html, for what it cannot do.
"""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

import metrics
from ephemeral.client import connect
from ephemeral.lock_node import ANSWER_SECONDS, LockNode, Talk
from ephemeral.scripts import Script

# Clocks of different servers run apart by less: Redlock's allowance for drift, of the lease, and beside it what a
# server's expiry is rounded to.
DRIFT = 0.01
ROUNDING_SECONDS = 0.002
# What a server may take when its answer is not needed: it is waited for a little, so that it need not be given up.
GRACE_SECONDS = 0.005
# How often held locks and servers that were away are looked after.
TEND_SECONDS = 0.25
# Nobody is known to need a lock for longer: the work has deadlines of its own. What hangs must not hold for ever.
LONGEST_SECONDS = 60.0

HOLD = Script("lock_hold")
RELEASE = Script("lock_release")


class LockTakenError(Exception):
    """Another holds it, or goes on with the same work without."""


class Lease:
    """A lock that is held. `since`, of the monotonic clock: when it was last asked for and granted, `seconds` from then
    it is over. Whoever works under it has its end checked where the work is done."""

    def __init__(self, keys: Sequence[str], seconds: float, talks: Sequence[Talk], now: float) -> None:
        self.keys = keys
        self.owner = secrets.token_hex(8)
        self.seconds = seconds
        self.since = self.taken_at = now
        self.talks = talks
        self.ended = False
        # Who extends it and who releases it are two; what they say must not mix.
        self.talking = threading.Lock()


class Locks:
    """The locks of one worker. For any number of greenlets or threads; `tend` has to be called every TEND_SECONDS."""

    def __init__(self, urls: str, ttl_seconds: float, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._ttl_seconds = ttl_seconds
        self._lease_seconds = ttl_seconds * (1 - DRIFT) - ROUNDING_SECONDS
        self._nodes = [
            LockNode(connect(url), ttl_seconds, clock)
            for url in filter(None, map(str.strip, urls.split(",")))
        ]
        self._quorum = len(self._nodes) // 2 + 1
        self._held: dict[str, Lease] = {}

    @contextmanager
    def hold(self, keys: Sequence[str]) -> Iterator[Lease | None]:
        """Hold these locks, which share a hash tag, while the block runs; None where no quorum grants or refuses them.

        Raises `LockTakenError` where another has them.
        """
        lease = self._acquire(keys)
        try:
            yield lease
        finally:
            if lease is not None:
                self._release(lease)

    def tend(self) -> None:
        """Extend what has been held for a third of its time, and find servers that are back."""
        for node in self._nodes:
            node.probe()
        now = self._clock()
        for lease in list(self._held.values()):
            if now - lease.since > self._ttl_seconds / 3:
                self._extend(lease)

    def close(self) -> None:
        """Close the connections that nobody uses."""
        for node in self._nodes:
            node.forget_lines()

    def counting(self) -> int:
        """How many servers' word counts now: for who has to know when a quorum is there."""
        found = 0
        for node in self._nodes:
            line = node.take()
            if line is not None:
                found += self._clock() >= line.counts_from
                node.give_back(line)
        return found

    def away(self) -> dict[str, bool]:
        """Which of the servers are done without now, by their places in the setting."""
        return {f"lock-{number}": node.away for number, node in enumerate(self._nodes)}

    def _acquire(self, keys: Sequence[str]) -> Lease | None:
        now = self._clock()
        lease = Lease(keys, self._lease_seconds, [Talk(node) for node in self._nodes], now)
        others: Counter[bytes] = Counter()
        try:
            granted = self._ask_for(lease, others)
            if granted >= self._quorum and self._clock() - now < self._lease_seconds:
                self._held[lease.owner] = lease
                metrics.count_lock("held", self._clock() - now)
                return lease
        except BaseException:  # a greenlet that was killed, too
            self._release(lease)
            raise
        self._release(lease)
        if max(others.values(), default=0) >= self._quorum:
            metrics.count_lock("taken", self._clock() - now)
            raise LockTakenError
        metrics.count_lock("split" if granted or others else "unavailable", self._clock() - now)
        return None

    def _ask_for(self, lease: Lease, others: Counter[bytes]) -> int:
        """How many servers granted it whose word counts. `others` gets who else has it, and on how many."""
        granted = 0

        def heard(talk: Talk, reply: Any) -> bool:
            nonlocal granted
            talk.may_hold = reply in (b"", lease.owner.encode())
            if talk.may_hold:
                granted += talk.counts
            elif isinstance(reply, bytes):
                others[reply] += 1
            return granted >= self._quorum or max(others.values(), default=0) >= self._quorum

        for talk in lease.talks:
            talk.say(HOLD(lease.keys, lease.owner, int(self._ttl_seconds * 1000)))
            talk.may_hold = talk.waits()
        self._hear(lease.talks, heard)
        return granted

    def _extend(self, lease: Lease) -> None:
        """Have it last from now on, where a quorum says that it did until now; set it again where it was forgotten.

        Whose lease is over does not get it back so: another may have held it in between. Nor does one that falls asleep
        in here: it counts from when it asked.
        """
        with lease.talking:
            asked_at = self._clock()
            over = asked_at - lease.since >= self._lease_seconds
            if lease.ended or over or asked_at - lease.taken_at > LONGEST_SECONDS:
                self._held.pop(lease.owner, None)
                return
            kept = 0

            def heard(talk: Talk, reply: Any) -> bool:
                nonlocal kept
                talk.may_hold = talk.may_hold or reply == b""
                kept += reply == lease.owner.encode()
                return False  # the others have to be heard: one that came back empty has been given the lock again

            for talk in lease.talks:
                talk.say(HOLD(lease.keys, lease.owner, int(self._ttl_seconds * 1000)))
                talk.may_hold = talk.may_hold or talk.waits()
            self._hear(lease.talks, heard)
            if kept >= self._quorum:
                lease.since = asked_at

    def _release(self, lease: Lease) -> None:
        """Let go of it wherever it may be held, behind what was said there before; who does not answer is away."""
        self._held.pop(lease.owner, None)
        with lease.talking:
            lease.ended = True
            talks = [talk for talk in lease.talks if talk.may_hold]
            # Once a quorum is free the same client may have it again. Who has not answered before is not waited for.
            awaited = min(sum(not talk.waits() for talk in talks), self._quorum)
            try:
                for talk in talks:
                    # Whole: where this is not answered, nobody is there to hear that the script is not known.
                    talk.say(RELEASE(lease.keys, lease.owner), whole=True)
                self._hear(
                    talks,
                    lambda _talk, _reply: sum(not talk.waits() for talk in talks) >= awaited,
                    enough=not awaited,
                )
            finally:
                for talk in talks:
                    talk.give_up()

    def _hear(
        self, talks: Sequence[Talk], heard: Callable[[Talk, Any], bool], *, enough: bool = False
    ) -> None:
        """Tell `heard` every reply, until it says that this will do: then nobody is waited for any more.

        Each server is first given a moment only. So a frozen one costs a moment while the others suffice.
        """
        give_up_at = self._clock() + ANSWER_SECONDS
        for patient in (False, True):
            for talk in talks:
                if not talk.waits() or (enough and patient):
                    continue
                left = max(give_up_at - self._clock(), 0.001)
                reply = talk.hear(left if patient else min(GRACE_SECONDS, left))
                if not talk.waits():
                    enough = heard(talk, reply) or enough
