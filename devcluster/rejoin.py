"""Brings a server that was failed over back into its shard, as a replica of the primary that took its place.

    killed, or alive again ──▶ stopped ──▶ set aside ──▶ rewound ──▶ started as a replica ──▶ follows
                                               └──(pg_rewind cannot)──▶ copied anew ──┘

What it wrote after the fork, and nobody has but itself, is gone then: no client was told that such a commit was done.

The folder has another name from before the first change to it until it is a replica's, so a run that is killed leaves
nothing that starts as a primary. A folder whose rewinding was cut short cannot be trusted (says pg_rewind's page):
the next run copies the node anew.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg

from devcluster import lineage, shutdown, slots
from devcluster.errors import ClusterError, Interrupted, NotYet
from devcluster.postgres import ADMINISTRATOR, Postgres
from devcluster.processes import Process
from devcluster.topology import HOST, PostgresNode

# Aborted at once: in a fast shutdown a primary would send a last record, of its own timeline, to a replica that has
# not left it yet, and that one could not follow the new primary then. Nothing is lost that would not be undone.
_STOP_SIGNALS = ((signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0))
# The least that libpq waits, and ample on loopback: whoever does not answer is dead or frozen.
_ANSWER_SECONDS = 2
_FOLLOW_SECONDS = 60.0
_POLL_SECONDS = 0.1


def bring_back(
    postgres: Postgres,
    node: PostgresNode,
    nodes: Sequence[PostgresNode],
    report: Callable[[str], object],
    *,
    off_lineage: bool = False,
) -> None:
    """Have a node follow its shard's primary again, if it cannot by itself. `nodes` are all of the shard.

    `off_lineage` says so of a node that is stopped and cannot be asked. Raises `ClusterError` where the node is the
    primary itself or the primary does not answer, and `NotYet` where the node is frozen: it is left alone until it
    runs again.
    """
    with postgres.layout.occupied(node.name):
        primary = primary_that_answers(postgres, nodes)
        if node == primary:
            raise ClusterError(f"{node.name} is the primary of {node.shard}")
        # Somebody else may have been first: whoever asked for it looked before this had the node to itself.
        if not (off_lineage or node in left_behind(postgres, nodes) or _has_strayed(postgres, node, primary)):
            return
        _check_same_origin(postgres, node, primary)
        stop(postgres, node)
        report(f"{node.name} is not on the timeline of {primary.name}: bringing it back as a replica")
        cut_short = not postgres.made(node)
        altered = _set_aside(postgres, node)
        stop(postgres, node)  # a person may have started it once more, in between
        try:
            _rewind(postgres, node, primary, cut_short=cut_short)
            _follow(postgres, node, primary, nodes, altered)
        except Interrupted:
            raise
        except ClusterError as error:
            primary_that_answers(
                postgres, nodes
            )  # else there is nothing to copy, and this may still be mended
            report(f"{node.name} is copied anew from {primary.name}: {error}")
            stop(postgres, node)
            _copy(postgres, node, primary)
            _follow(postgres, node, primary, nodes, altered)
        report(f"{node.name} is a replica of {primary.name} now")


def left_behind(postgres: Postgres, nodes: Sequence[PostgresNode]) -> list[PostgresNode]:
    """The nodes that were failed over, or whose way back was cut short, by what lies on disk."""
    primaries = lineage.newest_primaries({node: postgres.folder(node) for node in nodes})
    if len(primaries) != 1:
        return []
    return [
        node
        for node in nodes
        if node not in primaries
        and (not postgres.is_standby(node) if postgres.made(node) else _aside(postgres, node).exists())
    ]


def strayed(postgres: Postgres, nodes: Sequence[PostgresNode]) -> list[PostgresNode]:
    """The nodes that run, do not follow the primary and cannot, as they and the primary themselves say.

    Such a replica had got more from the old primary than the one that was promoted.
    """
    with suppress(ClusterError, psycopg.Error):
        primary = primary_that_answers(postgres, nodes)
        following = _following(postgres, primary)
        return [
            node
            for node in nodes
            if node != primary and node.name not in following and _has_strayed(postgres, node, primary)
        ]
    return []


def primary_that_answers(postgres: Postgres, nodes: Sequence[PostgresNode]) -> PostgresNode:
    """A shard's primary. Raises `ClusterError` where it does not write the timeline that is the newest on disk."""
    names = {node.name: node for node in nodes}
    shard = nodes[0].shard
    primary = names[lineage.primary(shard, {name: postgres.folder(node) for name, node in names.items()})]
    try:
        writes = _written_timeline(postgres, primary)
    except psycopg.Error as error:
        raise ClusterError(f"{primary.name}, the primary of {shard}, does not answer") from error
    if writes != lineage.timeline(postgres.folder(primary)):
        raise ClusterError(f"{primary.name} does not write the newest timeline of {shard}")
    return primary


def stop(postgres: Postgres, node: PostgresNode) -> None:
    """Stop whatever runs in a node's folders, whoever started it. Raises `NotYet` where its server is frozen."""
    folders = [postgres.folder(node), _aside(postgres, node), postgres.temporary(node)]
    recorded = {process.pid for process in postgres.launcher.recorded()}
    recorded |= {pid for folder in folders if (pid := _pid_in(folder))}
    running = [
        process
        for process in shutdown.leftovers(postgres.layout, postgres.launcher)
        if process.name in {folder.name for folder in folders}
    ]
    servers = [process for process in running if process.pid in recorded]
    if any(_is_frozen(process) for process in servers):
        raise NotYet(f"{node.name} is frozen: it comes back as a replica when it runs again")
    # The others are children that outlived their server, and have nothing left to finish.
    orphans = [process for process in running if process not in servers]
    left = postgres.launcher.stop(servers, _STOP_SIGNALS)
    left += postgres.launcher.stop(orphans, ((signal.SIGKILL, 5.0),))
    if left:
        raise ClusterError(f"could not stop {node.name} (process {left[0].pid})")


def _check_same_origin(postgres: Postgres, node: PostgresNode, primary: PostgresNode) -> None:
    folders = [postgres.folder(each) for each in (node, primary) if postgres.made(each)]
    if len({lineage.system_identifier(folder) for folder in folders}) > 1:
        raise ClusterError(f"{folders[0]} is no copy of {primary.name}: left as it is")


def _set_aside(postgres: Postgres, node: PostgresNode) -> str:
    """Take the node's folder from where anyone would start it. Returns what was set with ALTER SYSTEM in it."""
    folder, aside = postgres.folder(node), _aside(postgres, node)
    if folder.exists():
        if aside.exists():  # of a run that was killed when all but this was done
            shutil.rmtree(aside)
        folder.rename(aside)
    return postgres.altered(aside)


def _rewind(postgres: Postgres, node: PostgresNode, primary: PostgresNode, *, cut_short: bool) -> None:
    """Undo what the node has and the primary has not, and make it a replica. Nothing runs in its folder."""
    if cut_short:
        raise ClusterError("its way back was cut short before")
    folder = _aside(postgres, node)
    # A server that was killed needs recovery first; pg_rewind sees to that, but not for a standby. A pid that
    # another program has got since would keep it from that.
    for name in ("postmaster.pid", lineage.STANDBY_SIGNAL):
        (folder / name).unlink(missing_ok=True)
    with postgres.connect(primary) as connection:
        slots.reserve(connection, node.slot)
    source = f"host={HOST} port={primary.port} user={ADMINISTRATOR} dbname=postgres connect_timeout=10"
    postgres.launcher.command(
        [
            postgres.programs.postgres / "pg_rewind",
            f"--target-pgdata={folder}",
            f"--source-server={source}",
            *(() if postgres.durable else ("--no-sync",)),
        ],
        environ={"PGPASSWORD": postgres.passwords[ADMINISTRATOR]},
        cwd=folder,  # by which it is found, should whoever started it be killed
    )
    with postgres.connect(primary) as connection:
        # The replica takes connections once it has all WAL that the primary had written when pg_rewind was done,
        # and is sent what is flushed: on an idle primary that can be 15 s later. A commit flushes.
        connection.execute("SET synchronous_commit = local")
        connection.execute("SELECT pg_logical_emit_message(true, 'rejoin', %s)", [node.name])
    postgres.adopt(node, folder)


def _copy(postgres: Postgres, node: PostgresNode, primary: PostgresNode) -> None:
    """Make the node anew.

    What was set aside goes first, for there may not be room for both; its folder goes last, so that a run that is
    killed is taken up again.
    """
    _set_aside(postgres, node)
    aside = _aside(postgres, node)
    for path in aside.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    postgres.make_replica(node, primary)
    aside.rmdir()


def _follow(
    postgres: Postgres, node: PostgresNode, primary: PostgresNode, nodes: Sequence[PostgresNode], altered: str
) -> None:
    """Start the replica and wait until it follows. What a person set with ALTER SYSTEM is the node's own."""
    postgres.alter(node, altered)
    postgres.start(node, nodes)
    postgres.prepare_slots(node, nodes)
    deadline = time.monotonic() + _FOLLOW_SECONDS
    while node.name not in _following(postgres, primary):
        postgres.launcher.check()
        if time.monotonic() > deadline:
            log = postgres.layout.log(node.name)
            raise ClusterError(f"it does not follow {primary.name} after {_FOLLOW_SECONDS:.0f} s: see {log}")
        time.sleep(_POLL_SECONDS)


def _following(postgres: Postgres, primary: PostgresNode) -> set[str]:
    """The names of the replicas that the primary sends its WAL to. One that has strayed stays in state "startup"."""
    with postgres.connect(primary, timeout_seconds=_ANSWER_SECONDS) as connection:
        rows = connection.execute(
            "SELECT application_name FROM pg_stat_replication WHERE state IN ('catchup', 'streaming')"
        ).fetchall()
    return {name for (name,) in rows}


def _written_timeline(postgres: Postgres, node: PostgresNode) -> int:
    """The timeline that a server writes; 0 where it only replays. From the WAL file's name: after a promotion the
    control file still tells the old one."""
    with postgres.connect(node, timeout_seconds=_ANSWER_SECONDS) as connection:
        row = connection.execute(
            "SELECT CASE WHEN pg_is_in_recovery() THEN 0 ELSE"
            " ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::integer END"
        ).fetchone()
    return int(row[0]) if row else 0


def _has_strayed(postgres: Postgres, node: PostgresNode, primary: PostgresNode) -> bool:
    """Whether a node that runs seems to have what the primary never had; one that does not answer has not.

    A replica's control file names the timeline of its last restart point, an older one than it replays. So one that
    is well, but does not follow anybody at this moment, may look strayed: whoever asks asks again before it acts.
    """
    folder = postgres.folder(primary)
    newest, forks = lineage.timeline(folder), lineage.history(folder)
    with suppress(psycopg.Error), postgres.connect(node, timeout_seconds=_ANSWER_SECONDS) as connection:
        row = connection.execute(
            "SELECT pg_is_in_recovery(), greatest(timeline_id, min_recovery_end_timeline),"
            " pg_last_wal_replay_lsn() - '0/0'::pg_lsn, current_setting('primary_conninfo') = ''"
            " FROM pg_control_checkpoint(), pg_control_recovery()"
        ).fetchone()
        recovers, timeline, replayed, cut_off = row or (True, newest, None, True)
        if timeline == newest or (recovers and cut_off):  # cut off: a failover is under way
            return False
        return not recovers or timeline not in forks or (replayed or 0) > forks[timeline]
    return False


def _is_frozen(process: Process) -> bool:
    with suppress(psutil.Error):
        return bool(psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    return False


def _pid_in(folder: Path) -> int | None:
    """The server's own, by its lock file."""
    with suppress(OSError, ValueError, IndexError):
        return int((folder / "postmaster.pid").read_text().splitlines()[0])
    return None


def _aside(postgres: Postgres, node: PostgresNode) -> Path:
    return postgres.layout.data / f".rejoining-{node.name}"
