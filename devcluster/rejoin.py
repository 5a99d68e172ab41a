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

from devcluster import lineage, shutdown, slots, standing
from devcluster.errors import ClusterError, Interrupted, NotYet
from devcluster.postgres import ADMINISTRATOR, Postgres
from devcluster.processes import Process
from devcluster.topology import HOST, PostgresNode

# Aborted at once: in a fast shutdown a primary would send a last record, of its own timeline, to a replica that has
# not left it yet, and that one could not follow the new primary then. Nothing is lost that would not be undone.
_STOP_SIGNALS = ((signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0))
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
        primary = standing.primary_that_answers(postgres, nodes)
        if node == primary:
            raise ClusterError(f"{node.name} is the primary of {node.shard}")
        # Somebody else may have been first: whoever asked for it looked before this had the node to itself.
        if not (
            off_lineage
            or node in standing.left_behind(postgres, nodes)
            or standing.has_strayed(postgres, node, primary)
        ):
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
            # Else there is nothing to copy, and what is there may still be mended.
            standing.primary_that_answers(postgres, nodes)
            report(f"{node.name} is copied anew from {primary.name}: {error}")
            stop(postgres, node)
            _copy(postgres, node, primary)
            _follow(postgres, node, primary, nodes, altered)
        report(f"{node.name} is a replica of {primary.name} now")


def stop(postgres: Postgres, node: PostgresNode) -> None:
    """Stop whatever runs in a node's folders, whoever started it. Raises `NotYet` where its server is frozen."""
    servers, _ = _running(postgres, node)
    if any(_is_frozen(process) for process in servers):
        raise NotYet(f"{node.name} is frozen: it comes back as a replica when it runs again")
    _end(postgres, node, servers, _STOP_SIGNALS)
    end_orphans(postgres, node)


def end_orphans(postgres: Postgres, node: PostgresNode) -> None:
    """Kill what outlived its server, has nothing left to finish, and could still write to the server's files.

    A server that was frozen and killed leaves children that are frozen. Half-made copies count as well.
    """
    _, orphans = _running(postgres, node)
    _end(postgres, node, orphans, ((signal.SIGKILL, 5.0),))


def _running(postgres: Postgres, node: PostgresNode) -> tuple[list[Process], list[Process]]:
    """What runs in a node's folders: servers, and orphans of such."""
    folders = [postgres.folder(node), standing.aside(postgres, node), postgres.temporary(node)]
    known = {process.pid for process in postgres.launcher.recorded()}
    known |= {pid for folder in folders if (pid := _pid_in(folder))}
    running = [
        process
        for process in shutdown.leftovers(postgres.layout, postgres.launcher)
        if process.name in {folder.name for folder in folders}
    ]
    servers = [process for process in running if process.pid in known]
    return servers, [process for process in running if process not in servers]


def _end(
    postgres: Postgres, node: PostgresNode, processes: list[Process], signals: Sequence[tuple[int, float]]
) -> None:
    if left := postgres.launcher.stop(processes, signals):
        raise ClusterError(f"could not stop {node.name} (process {left[0].pid})")


def _check_same_origin(postgres: Postgres, node: PostgresNode, primary: PostgresNode) -> None:
    folders = [postgres.folder(each) for each in (node, primary) if postgres.made(each)]
    if len({lineage.system_identifier(folder) for folder in folders}) > 1:
        raise ClusterError(f"{folders[0]} is no copy of {primary.name}: left as it is")


def _set_aside(postgres: Postgres, node: PostgresNode) -> str:
    """Take the node's folder from where anyone would start it. Returns what was set with ALTER SYSTEM in it."""
    folder, aside = postgres.folder(node), standing.aside(postgres, node)
    if folder.exists():
        if aside.exists():  # of a run that was killed when all but this was done
            shutil.rmtree(aside)
        folder.rename(aside)
    return postgres.altered(aside)


def _rewind(postgres: Postgres, node: PostgresNode, primary: PostgresNode, *, cut_short: bool) -> None:
    """Undo what the node has and the primary has not, and make it a replica. Nothing runs in its folder."""
    if cut_short:
        raise ClusterError("its way back was cut short before")
    folder = standing.aside(postgres, node)
    # A server that was killed needs recovery first; pg_rewind sees to that, but not for a standby. A pid that
    # another program has got since would keep it from that.
    for name in ("postmaster.pid", lineage.STANDBY_SIGNAL):
        (folder / name).unlink(missing_ok=True)
    with postgres.connect(primary) as connection:
        slots.reserve(connection, node.slot)
    source = (
        f"host={HOST} port={primary.port} user={ADMINISTRATOR} dbname=postgres connect_timeout=10"
        f" application_name='rejoin {node.name}'"  # whoever looks at the primary sees for whom
    )
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
    aside = standing.aside(postgres, node)
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
    while node.name not in standing.following(postgres, primary):
        postgres.launcher.check()
        if time.monotonic() > deadline:
            log = postgres.layout.log(node.name)
            raise ClusterError(f"it does not follow {primary.name} after {_FOLLOW_SECONDS:.0f} s: see {log}")
        time.sleep(_POLL_SECONDS)


def _is_frozen(process: Process) -> bool:
    with suppress(psutil.Error):
        return bool(psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    return False


def _pid_in(folder: Path) -> int | None:
    """The server's own, by its lock file."""
    with suppress(OSError, ValueError, IndexError):
        return int((folder / "postmaster.pid").read_text().splitlines()[0])
    return None
