"""Commands on a cluster that another process supervises, or none: all of them but `up`."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from devcluster import growth, removal, shutdown
from devcluster.account import server_account
from devcluster.cluster import Cluster
from devcluster.errors import ClusterError
from devcluster.layout import Layout
from devcluster.processes import Launcher, start_mark
from devcluster.psql import become_psql

# The service's grace, the servers', and some.
_STOP_SECONDS = 90.0


def open_layout(var: Path, environ: Mapping[str, str]) -> Layout:
    return Layout(var.resolve(), server_account(environ))


def down(layout: Layout) -> str:
    """Stop whatever runs: by asking its supervisor, or, where that was killed, directly. Says what it did."""
    if not layout.records.exists():
        return f"nothing runs in {layout.var}"
    if supervisor := layout.holder():
        _ask_to_stop(supervisor)
        return f"stopped what ran in {layout.var}"
    launcher = Launcher(layout.account, layout.records, layout.logs)
    with layout.locked():
        left = shutdown.leftovers(layout, launcher)
        shutdown.stop(layout, launcher)
    return f"stopped {', '.join(each.name for each in left)}" if left else f"nothing runs in {layout.var}"


def clean(layout: Layout) -> str:
    """Stop everything, then delete what the cluster made. Refused where the folder is not a cluster's."""
    if not layout.var.exists():
        return f"there is no {layout.var}"
    removal.check_removable(layout.var)
    down(layout)
    with layout.locked():  # nobody starts meanwhile
        left = removal.remove(layout.var, layout.elsewhere)
    if left:
        return f"deleted the cluster's data in {layout.var}; not its own, and left: {left[0].name}, …"
    return f"deleted {layout.var}"


def status(layout: Layout) -> str:
    """A line for each process: its name, port and pid, and whether it runs."""
    lines = []
    for each in described(layout):
        state = "runs" if start_mark(each["pid"]) else "is dead"
        lines.append(
            f"{each['name']:<11} {each['kind']:<8} {each['host']}:{each['port']} pid {each['pid']} {state}"
        )
    return "\n".join(lines)


def start(layout: Layout, name: str, environ: Mapping[str, str]) -> str:
    """Start one server that has died, of a cluster that runs. Its supervisor stops it with the others."""
    Cluster.running(layout, environ).start_server(name)
    return f"{name} runs"


def add_shard(layout: Layout, name: str, environ: Mapping[str, str], report: Callable[[str], object]) -> str:
    """Make and start the servers of one more shard, of a cluster that runs. The shard map does not know them yet."""
    cluster = _interruptible(layout, environ, report)
    growth.add(cluster, name)
    return f"{name} has {', '.join(node.name for node in cluster.topology.nodes(name))}"


def remove_shard(
    layout: Layout, name: str, environ: Mapping[str, str], report: Callable[[str], object]
) -> str:
    """Stop the servers of a shard that the shard map does not know any more, and delete their data."""
    if not growth.remove(_interruptible(layout, environ, report), name):
        raise ClusterError(f"there is no server of {name}")
    return f"stopped the servers of {name} and deleted their data"


def _interruptible(layout: Layout, environ: Mapping[str, str], report: Callable[[str], object]) -> Cluster:
    """The running cluster. A signal then ends what is under way in order."""
    cluster = Cluster.running(layout, environ)
    cluster.report = report
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: cluster.launcher.interrupt())
    return cluster


def described(layout: Layout) -> list[dict[str, Any]]:
    """The processes of cluster.json. Raises `ClusterError` where nothing runs."""
    try:
        found: list[dict[str, Any]] = json.loads(layout.processes.read_text())["processes"]
    except FileNotFoundError as error:
        raise ClusterError(f"nothing runs in {layout.var}: make up starts it") from error
    except PermissionError as error:
        raise ClusterError(f"{layout.processes} is not readable for this user") from error
    return found


def psql(layout: Layout, name: str, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
    """Become psql on a node of the cluster that runs."""
    become_psql(layout, described(layout), name, arguments, environ)


def _ask_to_stop(supervisor: int) -> None:
    mark = start_mark(supervisor)
    if mark is None:
        return
    os.kill(supervisor, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while start_mark(supervisor) == mark:
        if time.monotonic() > deadline:
            raise ClusterError(f"process {supervisor} does not stop: kill -9 it, then make down")
        time.sleep(0.05)
