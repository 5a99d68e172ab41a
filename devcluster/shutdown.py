"""Finding what runs of a cluster, and stopping it in order."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil

from devcluster import postgres, valkey
from devcluster.errors import ClusterError
from devcluster.layout import Layout
from devcluster.processes import Launcher, Process, start_mark

# gunicorn first finishes the requests in flight, which its own graceful timeout bounds.
HTTP_STOP_SIGNALS = ((signal.SIGTERM, 35.0), (signal.SIGQUIT, 2.0), (signal.SIGKILL, 5.0))
_SERVER_PROGRAMS = frozenset({"postgres", "valkey-server", "redis-server"})


def leftovers(layout: Layout, launcher: Launcher) -> list[Process]:
    """Every process of this cluster that runs: the recorded ones, and servers that lost their record.

    A supervisor that is killed between a server's start and its record leaves the latter, and a killed
    postmaster its children. A server works inside its own data folder, where no other cluster's does.
    """
    found = {process.pid: process for process in launcher.recorded() if launcher.alive(process)}
    for process in psutil.process_iter(["name"]):
        if process.pid in found or process.info["name"] not in _SERVER_PROGRAMS:
            continue
        try:
            folder = Path(process.cwd())
            ours = layout.data in folder.parents and not any(each.pid in found for each in process.parents())
        except (psutil.Error, OSError):
            continue
        if ours:
            name = folder.relative_to(layout.data).parts[0]
            kind = "postgres" if process.info["name"] == "postgres" else "redis"
            found[process.pid] = Process(name, kind, process.pid, start_mark(process.pid) or "")
    return list(found.values())


def stop(layout: Layout, launcher: Launcher) -> None:
    """Stop what runs of this cluster: HTTP, primaries, replicas, Valkey. Raises `ClusterError` if some stays.

    A primary that stops waits until its replicas have all of its WAL, so they go after it.
    """
    running = leftovers(layout, launcher)
    launcher.thaw(running)  # all before any: a primary would wait for a replica that is frozen
    databases = [process for process in running if process.kind == "postgres"]
    standby = [each for each in databases if (layout.server(each.name) / "standby.signal").exists()]
    rounds = (
        ([each for each in running if each.kind == "http"], HTTP_STOP_SIGNALS),
        ([each for each in databases if each not in standby], postgres.STOP_SIGNALS),
        (standby, postgres.STOP_SIGNALS),
        ([each for each in running if each.kind in ("redis", "lock")], valkey.STOP_SIGNALS),
    )
    left = [survivor for processes, signals in rounds for survivor in launcher.stop(processes, signals)]
    launcher.forget_dead()
    layout.processes.unlink(missing_ok=True)
    if left:
        raise ClusterError(
            f"could not stop {', '.join(f'{each.name} (process {each.pid})' for each in left)}"
        )
