"""`flask shards failover`: one replica becomes the primary, whether the old one is dead, frozen or well.

    failover_group     the shard's nodes, asked side by side
    failover_handover  up to the promotion, with failover_plan's proof that nothing acknowledged is lost
    failover_settle    the others follow, the new primary commits, the old one is left by its clients
    failover_server    what is done to one node; failover_upstream: whom it is told to follow

docs/failover.md says what this guarantees and why.
"""

from __future__ import annotations

import time

import click

from commands.cluster import open_cluster
from commands.failover_group import Group
from commands.failover_handover import Handover, Report, Wish
from commands.failover_server import Server
from commands.failover_settle import settle
from commands.terminal import Failure, plain_errors


@click.command("failover")
@click.argument("shard")
@click.option("--to", metavar="NODE", help="Promote this replica. Refused unless no other has more.")
@click.option(
    "--accept-loss",
    is_flag=True,
    help="Go on where it is not certain that no acknowledged write is lost, or that the new primary can commit.",
)
@plain_errors
def failover_command(shard: str, to: str | None, accept_loss: bool) -> None:
    """Promote the most advanced replica of SHARD, fence the old primary, re-attach the rest.

    Works while the old primary is dead, frozen or well; then it is a switchover: writes pause, and none fails. No
    acknowledged write is lost: where that is not certain nothing is done, and the reason said. Killed half-way, it is
    finished by running it again. The old primary comes back as a replica by itself in the embedded cluster, and with
    pg_rewind elsewhere (docs/failover.md).
    """
    report = _steps(time.monotonic())
    cluster = open_cluster()
    shard_map = cluster.snapshot().map
    nodes = [node for node in shard_map.nodes if node.shard == shard]
    if not nodes:
        known = ", ".join(one.name for one in shard_map.shards)
        raise Failure(f"there is no shard {shard} with nodes: it is one of {known}")
    with Group.reached(cluster, shard, nodes) as group:
        new = fail_over(group, Wish(to, accept_loss), report)
        left = [*group.absent, *(old.name for old in group.old_primaries(but=new))]
    if left:
        report(f"{', '.join(left)}: to come back as a replica, see docs/failover.md")
    report(f"{new.name} is the primary of {shard}")


def fail_over(group: Group, wish: Wish, report: Report) -> Server:
    """The new primary. Raises `Failure` where there is none."""
    group.lock()
    group.await_promotion()
    primary = group.primary()
    if primary is not None and primary.seen.marked:
        report(f"{primary.name} was promoted by a failover that was stopped half-way: finishing it")
        new = primary
    else:
        new = Handover(group, primary, wish, report).run()
    settle(group, new, report)
    return new


def _steps(started: float) -> Report:
    """One line a step: when it was done, and how long it took, in seconds."""
    last = started

    def report(step: str) -> None:
        nonlocal last
        now = time.monotonic()
        click.echo(f"{now - started:6.3f}  +{now - last:.3f}  {step}")
        last = now

    return report
