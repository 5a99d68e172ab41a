"""Shards that come and go while the cluster runs: their servers are made, or stopped and deleted, by a command beside
the supervisor, which takes them into its care.

    (nothing) ──▶ making ──▶ ready ──▶ leaving ──▶ (nothing; for a shard of the first ones: gone)

Where each stands is written down before anything is done, so that a run that is killed is finished by the next one.
Only what is ready is started with the others.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

from devcluster import bootstrap, publish, rejoin, standing
from devcluster.errors import ClusterError
from devcluster.layout import Layout
from devcluster.postgres import STOP_SIGNALS
from devcluster.processes import write_private
from devcluster.topology import GrownShard, PostgresNode, Topology, port_is_free

if TYPE_CHECKING:
    from devcluster.cluster import Cluster

State = Literal["making", "ready", "leaving", "gone"]

# A node's name, with its letter, is a slot's, too: 63 bytes at most.
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,59}[a-z0-9])?")
_LAST_PORT = 65535
_FOLLOW_SECONDS = 60.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Record:
    """Where a shard stands that was added or taken away, and where its ports begin."""

    port_offset: int
    state: State


Records = Mapping[str, Record]


def read(layout: Layout) -> dict[str, Record]:
    """By the shard's name."""
    with suppress(FileNotFoundError):
        return {name: Record(**value) for name, value in json.loads(layout.shards.read_text()).items()}
    return {}


def applied(topology: Topology, records: Records) -> Topology:
    """The topology as these records have it."""
    first = topology.first_names
    ready = {name: record for name, record in records.items() if record.state == "ready"}
    return replace(
        topology,
        grown=tuple(GrownShard(name, record.port_offset) for name, record in ready.items()),
        absent=tuple(name for name in first if name in records),
    )


def is_unfinished(layout: Layout, server: str) -> bool:
    """Whether a server is of a shard that is being made or taken away."""
    record = read(layout).get(server.rpartition("-")[0])
    return record is not None and record.state != "ready"


def find_ports(cluster: Cluster) -> None:
    """Give the shards that were added other ports where somebody else has theirs. Before anything runs."""
    records, first_size = read(cluster.layout), cluster.topology.first_size
    for name, record in records.items():
        if record.state == "ready" and (
            record.port_offset < first_size or not _are_free(cluster, record.port_offset)
        ):
            records[name] = replace(record, port_offset=_free_offset(cluster, records))
    _write(cluster, records)


def add(cluster: Cluster, name: str) -> None:
    """Make and start a new shard's servers: a primary, and as many replicas as the others have, that follow it.

    They are empty but for roles and databases. Nothing happens where they are there. Raises `ClusterError`.
    """
    if not _NAME.fullmatch(name):
        raise ClusterError(
            f"{name} cannot be a shard's name: letters, digits and hyphens, 61 at most, a letter first"
        )
    with _alone(cluster):
        if name in cluster.topology.shard_names:
            return
        records = read(cluster.layout)
        known = records.get(name)
        if known is not None and known.state == "leaving":
            raise ClusterError(
                f"{name} is being taken away: finish that first, with flask shards remove {name}"
            )
        cluster.prepare()
        nodes = _nodes(cluster, name, known) if known else ()
        for node in nodes:  # of a run that was killed
            rejoin.stop(cluster.postgres, node)
        if known is None or known.state == "gone" or not _are_free(cluster, known.port_offset):
            known = Record(_free_offset(cluster, records), "making")
        _note(cluster, name, replace(known, state="making"))
        nodes = _nodes(cluster, name, known)
        try:
            _make(cluster, nodes)
            _note(cluster, name, replace(known, state="ready"))
        except BaseException:
            _stop(cluster, nodes)
            raise
        finally:
            publish.processes(cluster)


def remove(cluster: Cluster, name: str) -> bool:
    """Stop a shard's servers and delete their data. False where there is none of it.

    Raises `ClusterError` while stores may live there, by the catalog, or where it is the first shard.
    """
    with _alone(cluster):
        records = read(cluster.layout)
        known = records.get(name)
        if name not in cluster.topology.shard_names and (known is None or known.state == "gone"):
            return False
        if name == cluster.topology.first_names[0]:
            raise ClusterError(f"{name} is the first shard: it holds the catalog")
        cluster.prepare()
        if name in bootstrap.registered(cluster.postgres, cluster.primary(cluster.topology.shard_names[0])):
            raise ClusterError(f"{name} is in the shard map: flask shards remove {name} empties it first")
        if known is None:
            first = cluster.topology.nodes(name)[0]
            known = Record(first.port - cluster.topology.first_port, "leaving")
        _note(cluster, name, replace(known, state="leaving"))
        nodes = _nodes(cluster, name, known)
        _stop(cluster, nodes)
        for node in nodes:
            _delete(cluster, node)
        if name in cluster.topology.first_names:
            _note(cluster, name, replace(known, state="gone"))
        else:
            records = read(cluster.layout)
            del records[name]
            _write(cluster, records)
        publish.processes(cluster)
        return True


@contextmanager
def _alone(cluster: Cluster) -> Iterator[None]:
    """With the supervisor, and nobody else who makes or takes away shards."""

    told: set[int] = set()

    def wait(pid: int) -> None:
        cluster.launcher.check()
        if pid not in told:
            told.add(pid)
            cluster.report(f"process {pid} is making or taking away a shard: waits for it")

    with cluster.layout.growing(wait):
        # While the supervisor stops, it has this lock, and what runs is no longer described behind it.
        if cluster.layout.holder() is None or not cluster.layout.processes.exists():
            raise ClusterError(f"nothing runs in {cluster.layout.var}: make up starts it")
        cluster.reload()
        yield


def _make(cluster: Cluster, nodes: Sequence[PostgresNode]) -> None:
    with ThreadPoolExecutor(len(nodes), thread_name_prefix="growth") as pool:
        cluster.start_shard(pool, nodes)
    primary, *replicas = nodes
    deadline = time.monotonic() + _FOLLOW_SECONDS
    while not {node.name for node in replicas} <= standing.following(cluster.postgres, primary):
        cluster.launcher.check()
        if time.monotonic() > deadline:
            raise ClusterError(
                f"not every replica of {primary.name} follows it after {_FOLLOW_SECONDS:.0f} s"
            )
        time.sleep(_POLL_SECONDS)


def _stop(cluster: Cluster, nodes: Sequence[PostgresNode]) -> None:
    """Its primary first: it waits until the replicas have all of its log."""
    postgres = cluster.postgres
    names = {node.name: node for node in nodes}
    running = [process for process in cluster.launcher.recorded() if process.name in names]
    cluster.launcher.thaw(running)
    standby = [process for process in running if postgres.is_standby(names[process.name])]
    for processes in ([process for process in running if process not in standby], standby):
        if left := cluster.launcher.stop(processes, STOP_SIGNALS):
            raise ClusterError(f"could not stop {left[0].name} (process {left[0].pid})")
    for node in nodes:
        rejoin.stop(postgres, node)  # what lost its record, and what outlived its server
    cluster.launcher.forget_dead()


def _delete(cluster: Cluster, node: PostgresNode) -> None:
    postgres = cluster.postgres
    for folder in (postgres.folder(node), standing.aside(postgres, node), postgres.temporary(node)):
        if folder.exists():
            shutil.rmtree(folder)


def _nodes(cluster: Cluster, name: str, record: Record) -> tuple[PostgresNode, ...]:
    return replace(cluster.topology, grown=(GrownShard(name, record.port_offset),)).nodes(name)


def _free_offset(cluster: Cluster, records: Records) -> int:
    """The next ports behind the first ones that no other shard of this cluster has, and nobody listens on."""
    topology, size = cluster.topology, cluster.topology.shard_size
    taken = {record.port_offset for record in records.values()}
    offset = topology.first_size
    while any(abs(offset - other) < size for other in taken) or not _are_free(cluster, offset):
        offset += 1
        if topology.first_port + offset + size > _LAST_PORT:
            raise ClusterError(f"there are no {size} free ports behind CLUSTER_PORT={topology.first_port}")
    return offset


def _are_free(cluster: Cluster, offset: int) -> bool:
    first = cluster.topology.first_port + offset
    ports = range(first, first + cluster.topology.shard_size)
    return cluster.http_port not in ports and all(map(port_is_free, ports))


def _note(cluster: Cluster, name: str, record: Record) -> None:
    _write(cluster, {**read(cluster.layout), name: record})


def _write(cluster: Cluster, records: Records) -> None:
    if records or cluster.layout.shards.exists():
        value = {name: asdict(record) for name, record in records.items()}
        write_private(cluster.layout.shards, json.dumps(value, indent=2) + "\n")
    cluster.reload()
