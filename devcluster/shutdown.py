"""Finding what runs of a cluster, and stopping it in order."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil

from devcluster import lineage, postgres, removal, valkey
from devcluster.errors import ClusterError
from devcluster.layout import Layout
from devcluster.processes import Launcher, Process, start_mark

# gunicorn first finishes the requests in flight, which its own graceful timeout bounds.
HTTP_STOP_SIGNALS = ((signal.SIGTERM, 35.0), (signal.SIGQUIT, 2.0), (signal.SIGKILL, 5.0))
_WORKERS_SECONDS = 2.0
# Longer than it takes to stop a new shard's servers.
_GROWTH_SECONDS = 40.0
_POSTGRES_PROGRAMS = frozenset({"postgres", "pg_basebackup", "pg_rewind"})
_PROGRAMS = _POSTGRES_PROGRAMS | {"valkey-server", "redis-server"}


def leftovers(layout: Layout, launcher: Launcher) -> list[Process]:
    """Every process of this cluster that runs: the recorded ones, and those that lost their record or parent.

    A supervisor that is killed between a server's start and its record leaves the server, a killed postmaster
    its children, a killed gunicorn its workers.
    """
    recorded = launcher.recorded()
    found = {process.pid: process for process in recorded if launcher.alive(process)}
    orphaned = {process.pid for process in recorded if process.kind == "http"} - set(found)
    others: dict[int, tuple[psutil.Process, Process]] = {}
    for process in psutil.process_iter(["name"]):
        if process.pid in found:
            continue
        with suppress(psutil.Error, OSError):
            folder = Path(process.cwd())
            # A server works inside its own data folder, where no other cluster's does.
            if process.info["name"] in _PROGRAMS and layout.data in folder.parents:
                name = folder.relative_to(layout.data).parts[0]
                kind = "postgres" if process.info["name"] in _POSTGRES_PROGRAMS else "redis"
                other = Process(name, kind, process.pid, start_mark(process.pid) or "")
                others[process.pid] = (process, other)
            elif folder == removal.ROOT and os.getpgid(process.pid) in orphaned:
                found[process.pid] = Process("http", "http", process.pid, start_mark(process.pid) or "")
    servers = {*found, *others}
    for process, other in others.values():
        with suppress(psutil.Error):
            if not any(parent.pid in servers for parent in process.parents()):
                found[other.pid] = other
    return list(found.values())


def stop(layout: Layout, launcher: Launcher) -> None:
    """Stop what runs of this cluster: HTTP, primaries, replicas, Valkey. Raises `ClusterError` if some stays.

    A primary that stops waits until its replicas have all of its WAL, so they go after it.
    """
    with layout.growing(_Interruption().ask):
        _stop(layout, launcher)


class _Interruption:
    """Has whoever makes or takes away a shard's servers give up, so that none is started behind this."""

    def __init__(self) -> None:
        self._kill_at = time.monotonic() + _GROWTH_SECONDS

    def ask(self, pid: int) -> None:
        with suppress(ProcessLookupError):
            if pid:
                os.kill(pid, signal.SIGTERM if time.monotonic() < self._kill_at else signal.SIGKILL)


def _stop(layout: Layout, launcher: Launcher) -> None:
    running = leftovers(layout, launcher)
    launcher.thaw(running)  # all before any: a primary would wait for a replica that is frozen
    databases = [process for process in running if process.kind == "postgres"]
    standby = [each for each in databases if lineage.is_standby(layout.server(each.name))]
    http = [each for each in running if each.kind == "http"]
    left = launcher.stop(http, HTTP_STOP_SIGNALS)
    launcher.end_groups(http, _WORKERS_SECONDS)
    rounds = (
        ([each for each in databases if each not in standby], postgres.STOP_SIGNALS),
        (standby, postgres.STOP_SIGNALS),
        ([each for each in running if each.kind in ("redis", "lock")], valkey.STOP_SIGNALS),
    )
    left += [survivor for processes, signals in rounds for survivor in launcher.stop(processes, signals)]
    launcher.forget_dead()
    layout.processes.unlink(missing_ok=True)
    if left:
        raise ClusterError(
            f"could not stop {', '.join(f'{each.name} (process {each.pid})' for each in left)}"
        )
