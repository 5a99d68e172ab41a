"""From the old primary to a promoted replica. Until the promotion everything can be taken back, and is where it fails.

    shut the gate ─▶ cut the replicas off ─▶ choose and prove ─▶ let the others follow the chosen one ─▶ promote

The others follow the chosen one before it is promoted: who streams from it has certainly let go of the old primary,
and is there at once to confirm its first commit.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import psycopg
from psycopg import errors as pg_errors

from commands import failover_upstream as upstream
from commands.failover_group import Group, all_are, any_is, each, until
from commands.failover_plan import Standing, followers_missing, furthest, lsn_text, unproven
from commands.failover_server import GATE_LOCK, Server
from commands.terminal import Failure, error_text
from errors import StatementDeadline
from routing.lineage import Lineage

# For replicas to replay what the old primary wrote, to let go of it, to follow another. All of it takes milliseconds,
# but a replica that replays with a delay first replays what it has received.
CATCH_UP_SECONDS = 3.0
# A replica may have received a little more between the first of them being cut off and the last.
_ROUNDS = 3
# What was received is replayed first.
_PROMOTE_SECONDS = 60.0

_BRING_BACK = "start what does not answer, and run this again"

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command was asked for: any replica, or this one; and whether acknowledged writes may be lost."""

    to: str | None = None
    accept_loss: bool = False


class Handover:
    """One promotion. `primary` is the old primary where it answers and still is the primary."""

    def __init__(self, group: Group, primary: Server | None, wish: Wish, report: Report) -> None:
        self.group, self.primary, self.wish, self._report = group, primary, wish, report
        self.replicas = group.replicas()

    def run(self) -> Server:
        """The new primary. Raises `Failure` where nothing was promoted, with everything as it was."""
        self._check_wish()
        self._check_hope()
        try:
            for replica in self.replicas:
                if replica.seen.paused:
                    replica.resume()
                    self._report(f"{replica.name} replays again: that was paused")
            flushed = self._shut_gate() if self.primary else None
            best = self._choose(flushed)
        except BaseException:
            self._take_back()
            raise
        best.promote()
        if not until(lambda: not best.look().in_recovery, _PROMOTE_SECONDS):
            raise Failure(
                f"{best.name} is not primary after {_PROMOTE_SECONDS:.0f} s: run this again, to finish"
            )
        self._report(f"promoted {best.name}: timeline {best.seen.timeline}")
        return best

    def _check_wish(self) -> None:
        away = "; ".join(f"{name}: {reason}" for name, reason in self.group.absent.items())
        if self.primary is None:
            self._report(
                f"{self.group.shard} has no primary that answers ({away or 'all nodes are replicas'})"
            )
        if not self.replicas:
            raise Failure(f"no replica of {self.group.shard} answers: {away or 'there is none'}")
        to = self.wish.to
        if to in {replica.name for replica in self.replicas} or to is None:
            return
        if self.primary and to == self.primary.name:
            raise Failure(f"{to} is the primary already")
        if to in self.group.absent:
            raise Failure(f"{to} does not answer: {self.group.absent[to]}")
        raise Failure(
            f"{self.group.shard} has no replica {to}: {', '.join(one.name for one in self.replicas)}"
        )

    def _check_hope(self) -> None:
        """Refuse before anything is touched where too few answer, whatever those would turn out to have."""
        if self.wish.accept_loss:
            return
        standings = [one.standing(cut_off=True) for one in self.replicas]
        position = furthest(standings).position
        equal = [replace(one, position=position, counted=True) for one in standings]
        server = next(one for one in self.replicas if self.wish.to in (None, one.name))
        best = next(one for one in equal if one.node == server.name)
        if self.primary:
            self._check_followers(server, equal)
        elif reason := self._doubt(best, Lineage(position.system_identifier, position.timeline), equal):
            self._refuse(reason, _BRING_BACK)

    def _shut_gate(self) -> int | None:
        """Where the old primary's log ends, once nothing is written there and a replica has it all."""
        primary = self.primary
        assert primary is not None
        interrupted = [
            one
            for one in self.replicas
            if one.seen.marked and not upstream.leads_to(one.seen.conninfo, primary.node)
        ]
        try:
            flushed = primary.shut_gate(wait=not interrupted)
        except pg_errors.LockNotAvailable as error:
            raise Failure(
                f"the writes under way on {primary.name} did not end within {GATE_LOCK}: nothing was changed"
            ) from error
        except pg_errors.UndefinedTable as error:
            raise Failure(f"{primary.name} has no gate to shut: run flask shards migrate") from error
        timeline = primary.seen.timeline
        if interrupted:
            self._report(
                f"shut the gate of timeline {timeline}, going on where an earlier failover was stopped"
            )
            return None
        awaited = [one for one in self.replicas if self.wish.to in (None, one.name)]
        if until(lambda: any_is(awaited, lambda one: one.seen.has_replayed(flushed)), CATCH_UP_SECONDS):
            self._report(f"shut the gate of timeline {timeline}: replayed up to {lsn_text(flushed)}, its end")
            return flushed
        behind = ", ".join(f"{one.name} at {lsn_text(one.seen.replayed)}" for one in awaited)
        self._refuse(f"nobody has replayed up to {lsn_text(flushed)}, where {primary.name} stopped: {behind}")
        return None

    def _choose(self, flushed: int | None) -> Server:
        """The replica to promote, with the others following it and nobody the old primary."""
        for _ in range(_ROUNDS):
            standings = self._cut_off()
            best = self._candidate(standings)
            server = next(one for one in self.replicas if one.name == best.node)
            self._prove(best, server, standings, flushed)
            others = [one for one in self.replicas if one is not server]
            self._let_follow(server, others)
            reached = [one.standing(cut_off=True).reach for one in others]
            on_purpose = self.wish.to is not None and self.wish.accept_loss
            if on_purpose or all(reach <= best.reach for reach in reached):
                return server
        raise Failure("the replicas went on receiving while they were cut off: run this again")

    def _cut_off(self) -> list[Standing]:
        each(self.replicas, lambda one: one.follow(upstream.nowhere(self.group.conninfo(one))))
        free: set[str] = set()

        def all_have_let_go() -> bool:
            each(self.replicas, Server.look)
            # It stays true: receivers that start from now on try to connect to nowhere.
            free.update(one.name for one in self.replicas if one.cut_off)
            return all(one.name in free and one.seen.counted for one in self.replicas)

        until(all_have_let_go, CATCH_UP_SECONDS)
        # Positions are final only now: in the looks so far, a receiver may have ended after its position was taken.
        each(self.replicas, Server.look)
        standings = [one.standing(cut_off=one.name in free) for one in self.replicas]
        said = ", ".join(f"{one.node} has {lsn_text(one.position.lsn)}" for one in standings)
        self._report(f"cut the replicas off: {said}")
        return standings

    def _candidate(self, standings: list[Standing]) -> Standing:
        free = [one for one in standings if one.cut_off]
        if not free:
            raise Failure(f"no replica of {self.group.shard} lets go of the old primary")
        best = furthest(free)
        if self.wish.to is None:
            return best
        wanted = next((one for one in free if one.node == self.wish.to), None)
        if wanted is None:
            raise Failure(f"{self.wish.to} does not let go of the old primary")
        if wanted.reach < best.reach:
            self._refuse(
                f"{wanted.node} has {lsn_text(wanted.position.lsn)}, and {best.node} {lsn_text(best.position.lsn)}"
            )
        return wanted

    def _prove(self, best: Standing, server: Server, standings: list[Standing], flushed: int | None) -> None:
        """That the best has every acknowledged commit: by the quorum, else as all that went through the gate."""
        primary = self.primary
        if primary is not None:
            self._check_followers(server, standings)
        reason = self._doubt(best, server.lineage(), standings)
        if reason is None:
            self._report(f"{best.node} has every acknowledged commit")
        elif primary and flushed is not None and best.reach >= (primary.seen.timeline, flushed):
            self._report(f"{best.node} has all that {primary.name} wrote until its gate was shut")
        else:
            self._refuse(reason, _BRING_BACK)

    def _doubt(self, best: Standing, lineage: Lineage, standings: list[Standing]) -> str | None:
        asked = [*self.replicas, *([self.primary] if self.primary else [])]
        settings = {one.name: one.seen.synchronous_standby_names for one in asked}
        old_primaries = [self.primary.votes_as] if self.primary else list(self.group.absent)
        reason = unproven(settings, standings, best, lineage, old_primaries)
        return reason and f"it is not certain that {best.node} has every acknowledged commit: {reason}"

    def _check_followers(self, server: Server, followers: list[Standing]) -> None:
        """That the new primary's commits will be confirmed: nothing is won by leaving one whose commits are."""
        best = server.standing(cut_off=True)
        if followers_missing(server.seen.synchronous_standby_names, best, followers):
            left = dict(self.group.absent)
            following = {one.node for one in followers if one.cut_off}
            left |= {one.name: "does not follow it" for one in self.replicas if one.name not in following}
            why = "; ".join(f"{name}: {reason}" for name, reason in left.items()) or "it is the last one"
            self._refuse(f"nobody would confirm what {server.name} commits ({why})")

    def _let_follow(self, server: Server, others: list[Server]) -> None:
        for slot in self.group.slots(server):
            server.keep_wal_for(slot)
        each(others, lambda one: one.follow(upstream.only(self.group.conninfo(one), server.node)))
        until(lambda: all_are(others, lambda one: one.seen.follows(server.node)), CATCH_UP_SECONDS)
        for one in others:
            follows = one.seen.follows(server.node)
            self._report(f"{one.name} {'follows' if follows else 'does not follow'} {server.name}")
        if self.primary:
            following = [one.standing(cut_off=True) for one in others if one.seen.follows(server.node)]
            self._check_followers(server, following)

    def _refuse(self, reason: str, remedy: str = "bring it back first") -> None:
        """Say why not and stop, or with --accept-loss what that may cost and go on."""
        if not self.wish.accept_loss:
            raise Failure(f"{reason}; {remedy}, or go on all the same with --accept-loss")
        self._report(f"goes on all the same: {reason}")

    def _take_back(self) -> None:
        """Have every replica follow whom it followed, and the old primary take writes."""
        node = self.primary.node if self.primary else None
        touched = [one for one in self.replicas if one.touched]
        for one in touched:
            try:
                one.put_back(self.group.siblings(one), node)
            except (psycopg.Error, StatementDeadline) as error:
                self._report(
                    f"{one.name} could not be put back, which the next run will do: {error_text(error)}"
                )
        self.group.forget_followers(touched)
        if self.primary:
            with suppress(psycopg.Error, StatementDeadline):
                self.primary.open_gate()
        if touched:
            self._report("put everything back")
