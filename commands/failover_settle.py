"""After the promotion: what makes the new primary take writes, ends the old one, and lets the next failover find it.

Nothing of this is ever taken back, and all of it may be done twice: a run that was killed is finished by the next one.
The mark on the new primary goes last, so that a next one knows.
"""

from __future__ import annotations

import threading
from contextlib import suppress

import psycopg

from commands import failover_upstream as upstream
from commands.failover_group import Group, each_that_answers, until
from commands.failover_handover import Report
from commands.failover_plan import Quorum
from commands.failover_server import Server
from commands.terminal import Failure
from errors import StatementDeadline

_ATTACH_SECONDS = 3.0
# With the other replicas gone too, the old primary may be on its way back as one.
_QUORUM_SECONDS = 10.0
# A worker takes a tenth of a second to see the new primary. What it still sends to the old one until then is refused
# at the gate; ended in the middle, it would be in doubt.
_LEAVE_SECONDS = 0.8
_CHECKPOINT_SECONDS = 2.0


def settle(group: Group, new: Server, report: Report) -> None:
    """Attach the others to the new primary and see it commit. Raises `Failure` where it does not."""
    checkpoint = threading.Thread(target=_checkpoint, args=(group, new), daemon=True)
    checkpoint.start()
    others = group.replicas()
    attached = _attach(group, new, others, report)
    _commit(group, new)
    report(f"{new.name} takes writes")
    for old in group.old_primaries(but=new):
        _end(old, report)
    for one in attached:
        _let_find_the_next(group, new, one)
    group.forget_followers(others)
    checkpoint.join(_CHECKPOINT_SECONDS)
    new.reset()


def _checkpoint(group: Group, new: Server) -> None:
    """pg_rewind, on the way back of the old primary, looks for the new timeline where a checkpoint writes it."""
    with suppress(psycopg.Error, StatementDeadline):
        server = group.connect(new.node)
        try:
            server.checkpoint()
        finally:
            server.close()


def _attach(group: Group, new: Server, others: list[Server], report: Report) -> list[Server]:
    """Those of the others that stream the new timeline."""
    for slot in group.slots(new):
        new.keep_wal_for(slot)
    # Most do already, as they followed it before it was promoted.
    late = [one for one in others if not one.seen.follows(new.node)]
    each_that_answers(late, lambda one: one.follow(upstream.only(group.conninfo(one), new.node)))
    attached: list[Server] = []

    def all_are_attached() -> bool:
        answering = each_that_answers(others, Server.look)
        attached[:] = [one for one in answering if _is_attached(one, new)]
        return len(attached) == len(answering)

    until(all_are_attached, _ATTACH_SECONDS)
    for one in others:
        report(f"{one.name} {'is' if one in attached else 'is not yet'} a replica of {new.name}")
    return attached


def _let_find_the_next(group: Group, new: Server, one: Server) -> None:
    """Let a replica look for whoever is primary, also after the next failover: this one first.

    Not before it is on the new timeline: on the old one it would still follow the old primary, and confirm its
    commits. PostgreSQL follows no primary on an older timeline than its own. One replica after the other: each is gone
    for some milliseconds while it connects again.
    """
    wanted = upstream.whoever_is_primary(group.conninfo(one), new.node, group.siblings(one))
    before = one.seen.receiver
    with suppress(psycopg.Error, StatementDeadline):
        if one.seen.conninfo != wanted:
            one.follow(wanted)
            until(lambda: one.look().receiver != before and _is_attached(one, new), _ATTACH_SECONDS)


def _is_attached(server: Server, new: Server) -> bool:
    return server.seen.follows(new.node) and server.seen.received_timeline == new.seen.timeline


def _commit(group: Group, new: Server) -> None:
    quorum = Quorum.parse(new.seen.synchronous_standby_names)
    if quorum and not until(lambda: new.confirming() >= quorum.needed, _QUORUM_SECONDS):
        away = "; ".join(f"{name}: {reason}" for name, reason in group.absent.items())
        raise Failure(
            f"{new.name} is primary, but a commit waits for {quorum.needed} of {', '.join(sorted(quorum.names))}, and "
            f"{new.confirming()} of them follow it ({away or 'see their logs'}): bring one back, and run this again"
        )
    try:
        new.commit()
    except StatementDeadline as error:
        raise Failure(f"{new.name} is primary, but nobody confirms its commits: run this again") from error


def _end(old: Server, report: Report) -> None:
    """Nobody confirms its commits any more; whoever is still connected to it is better off finding the new one."""
    try:
        until(lambda: old.clients() == 0, _LEAVE_SECONDS)
        ended = old.end_clients()
    except (psycopg.Error, StatementDeadline):
        report(f"{old.name}, on timeline {old.seen.timeline}, is gone")
    else:
        report(f"ended {ended} connections to {old.name}, on the old timeline {old.seen.timeline}")
