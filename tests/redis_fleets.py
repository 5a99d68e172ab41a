"""Valkeys that belong together: a primary and its replica below three sentinels, and a cluster of three primaries.

Timeouts are short, so that a failover takes seconds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import redis
from redis.crc import key_slot

from devcluster.programs import valkey_program
from devcluster.topology import HOST
from tests.cluster_fixtures import free_ports
from tests.shard_servers import until
from tests.valkey_server import PASSWORD, ValkeyServer

_SERVICE, _SENTINEL_PASSWORD = "shop", "of-the-sentinels"
# The first node's has the positions, the second one's the limits.
_THIRDS = {0: (5461, 10922), 1: (0, 5460), 2: (10923, 16383)}
_REPLICATES = ("--masterauth", PASSWORD, "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0")


class Fleet:
    """What tests of either kind need: the setting's value, and all servers that have data."""

    def __init__(
        self, url: str, servers: Sequence[ValkeyServer], sentinels: Sequence[subprocess.Popen[bytes]] = ()
    ) -> None:
        self.url = url
        self.servers = servers
        self._sentinels = sentinels

    def primaries(self) -> list[ValkeyServer]:
        return [server for server in self.servers if is_primary(server)]

    def empty(self) -> None:
        for server in self.primaries():
            server.admin.flushall()

    @contextmanager
    def most_sentinels_frozen(self) -> Iterator[None]:
        """For a while after this they do not see to a failover: they know that they slept."""
        frozen = self._sentinels[1:]
        for process in frozen:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in frozen:
                process.send_signal(signal.SIGCONT)


def is_primary(server: ValkeyServer) -> bool:
    return "master_host" not in server.admin.info("replication")


@contextmanager
def running_sentinels() -> Iterator[Fleet]:
    """A primary and a replica, in this order, and three sentinels, who have found them and each other."""
    with _folders() as folder:
        first = free_ports(5)
        ports = range(first + 2, first + 5)
        replicates = (*_REPLICATES, "--replicaof", f"{HOST} {first}")
        primary = ValkeyServer(folder("primary"), *_REPLICATES, port=first)
        replica = ValkeyServer(folder("replica"), *replicates, port=first + 1)
        sentinels = []
        try:
            primary.start()
            replica.start()
            until(lambda: replica.admin.info("replication")["master_link_status"] == "up")
            sentinels += [_sentinel(folder(f"sentinel-{port}"), port, primary.port) for port in ports]
            clients = [redis.Redis(HOST, port, password=_SENTINEL_PASSWORD) for port in ports]
            until(lambda: all(_is_complete(client) for client in clients))
            hosts = ",".join(f"{HOST}:{port}" for port in ports)
            url = f"redis+sentinel://:{PASSWORD}@{hosts}/{_SERVICE}?sentinel_password={_SENTINEL_PASSWORD}"
            yield Fleet(url, [primary, replica], sentinels)
        finally:
            for process in sentinels:
                process.kill()
                process.wait()
            for server in (primary, replica):
                server.admin.close()
                server.kill()


def _sentinel(folder: Path, port: int, primary: int) -> subprocess.Popen[bytes]:
    """It writes into its file whom it follows."""
    configuration = folder / "sentinel.conf"
    configuration.write_text(
        f"""port {port}
bind {HOST}
requirepass {_SENTINEL_PASSWORD}
sentinel sentinel-pass {_SENTINEL_PASSWORD}
sentinel monitor {_SERVICE} {HOST} {primary} 2
sentinel auth-pass {_SERVICE} {PASSWORD}
sentinel down-after-milliseconds {_SERVICE} 1000
sentinel failover-timeout {_SERVICE} 4000
"""
    )
    with (folder / "log").open("wb") as log:
        program = [str(valkey_program(os.environ)), str(configuration), "--sentinel"]
        return subprocess.Popen(program, cwd=folder, stdout=log, stderr=log)


def _is_complete(client: redis.Redis) -> bool:
    try:
        (state,) = cast("dict[str, dict[str, Any]]", client.sentinel_masters()).values()
        return state["num-other-sentinels"] == 2 and len(client.sentinel_slaves(_SERVICE)) == 1
    except redis.RedisError:
        return False


@contextmanager
def running_redis_cluster() -> Iterator[Fleet]:
    """Three primaries, and then a replica of the first one, which has the positions."""
    with _folders() as folder:
        first = free_ports(8)
        nodes = [_cluster_node(folder(f"node-{port}"), port) for port in range(first, first + 8, 2)]
        try:
            for node in nodes:
                node.start()
            for number, node in enumerate(nodes[:3]):
                cluster(node, "ADDSLOTSRANGE", *_THIRDS[number])
                cluster(node, "SET-CONFIG-EPOCH", number + 1)
            for node in nodes[1:]:
                cluster(node, "MEET", HOST, nodes[0].port, nodes[0].port + 1)
            until(lambda: all(cluster(node, "INFO")["cluster_known_nodes"] == "4" for node in nodes))
            replica = nodes[3]
            until(lambda: _replicates(replica, of=nodes[0]))
            until(lambda: replica.admin.info("replication")["master_link_status"] == "up")
            until(lambda: all(cluster(node, "INFO")["cluster_state"] == "ok" for node in nodes))
            hosts = ",".join(f"{HOST}:{node.port}" for node in nodes[:2])
            yield Fleet(f"redis+cluster://:{PASSWORD}@{hosts}", nodes)
        finally:
            for node in nodes:
                node.admin.close()
                node.kill()


def owner(fleet: Fleet, key: str) -> ValkeyServer:
    """Which primary of a cluster has the key."""
    slot = key_slot(key.encode())
    third = next(number for number, (first, last) in _THIRDS.items() if first <= slot <= last)
    pair = (fleet.servers[0], fleet.servers[3]) if third == 0 else (fleet.servers[third],)
    return next(server for server in pair if is_primary(server))


@dataclass(frozen=True, slots=True)
class MovingSlot:
    """A slot on its way from one node to another, key by key."""

    fleet: Fleet
    slot: int
    source: ValkeyServer
    target: ValkeyServer

    def move(self, *keys: str | bytes) -> None:
        self.source.admin.migrate(HOST, self.target.port, list(keys), 0, 5000, auth=PASSWORD)

    def end(self, *, at: ValkeyServer | None = None) -> None:
        """All primaries know at once that it has arrived. Who gives it away has no keys of it any more."""
        for node in self.fleet.primaries():
            cluster(node, "SETSLOT", self.slot, "NODE", node_id(at or self.target))


@contextmanager
def moving_slot(fleet: Fleet, slot: int, source: ValkeyServer, target: ValkeyServer) -> Iterator[MovingSlot]:
    """Empty, it is back in the end."""
    cluster(target, "SETSLOT", slot, "IMPORTING", node_id(source))
    cluster(source, "SETSLOT", slot, "MIGRATING", node_id(target))
    moving = MovingSlot(fleet, slot, source, target)
    try:
        yield moving
    finally:
        fleet.empty()
        moving.end(at=source)


def node_id(node: ValkeyServer) -> str:
    return str(cluster(node, "MYID"))


def _cluster_node(folder: Path, port: int) -> ValkeyServer:
    options = ["--cluster-enabled", "yes", "--cluster-port", str(port + 1), "--cluster-node-timeout", "2000"]
    # A frozen node must not take the others' keys with it, and a replica need not be fresh to be better than none.
    options += ["--cluster-require-full-coverage", "no", "--cluster-replica-validity-factor", "0"]
    return ValkeyServer(folder, *_REPLICATES, *options, port=port)


def cluster(node: ValkeyServer, *arguments: str | int) -> Any:
    answer = node.admin.execute_command(f"CLUSTER {arguments[0]}", *arguments[1:])  # type: ignore[no-untyped-call]
    return answer.decode() if isinstance(answer, bytes) else answer


def _replicates(node: ValkeyServer, *, of: ValkeyServer) -> bool:
    """It has to have heard of the other one first."""
    try:
        return bool(cluster(node, "REPLICATE", node_id(of)))
    except redis.ResponseError:
        return False


@contextmanager
def _folders() -> Iterator[Callable[[str], Path]]:
    with tempfile.TemporaryDirectory(prefix="infinite-scaling-valkeys-") as name:

        def folder(called: str) -> Path:
            made = Path(name, called)
            made.mkdir()
            return made

        yield folder
