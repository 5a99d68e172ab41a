"""The nodes of one shard in a failover, all asked side by side: a silent one costs no more than its own patience."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

import psycopg

from commands import failover_upstream as upstream
from commands.cluster import Cluster
from commands.failover_server import Server
from commands.terminal import Failure, error_text
from errors import StatementDeadline
from pools.node import Node

T = TypeVar("T")

# A promotion that an earlier run asked for: it replays what the replica has received, and no more.
_PROMOTION_SECONDS = 10.0
_FORGET_SECONDS = 1.0
_POLL_SECONDS = 0.005


class Group:
    """One shard's nodes: `servers` answered, in the order of their names; `absent` did not, and why."""

    def __init__(self, cluster: Cluster, shard: str, nodes: Sequence[Node]) -> None:
        self.shard = shard
        self.nodes = sorted(nodes, key=lambda node: node.name)
        self._cluster = cluster
        self.servers: list[Server] = []
        self.absent: dict[str, str] = {}

    @classmethod
    @contextmanager
    def reached(cls, cluster: Cluster, shard: str, nodes: Sequence[Node]) -> Iterator[Group]:
        """Connect to all that answer, and close the connections in the end."""
        group = cls(cluster, shard, nodes)
        try:
            for node, found in zip(group.nodes, _side_by_side(group._try, group.nodes), strict=True):
                if isinstance(found, Server):
                    group.servers.append(found)
                else:
                    group.absent[node.name] = found
            group._check_identity()
            yield group
        finally:
            for server in group.servers:
                server.close()

    def connect(self, node: Node) -> Server:
        """One more connection to a node. Raises as `Server.connect`."""
        return Server.connect(node, self._cluster.node_dsn(node))

    def lock(self) -> None:
        """Take every node that answers for this run. Raises `Failure` where another run has one.

        One after the other and in the order of their names: of two runs at once, one gets the first and so all.
        """
        for server in self.servers:
            if not server.lock():
                raise Failure(f"another failover of {self.shard} is under way")

    def await_promotion(self) -> None:
        """If an earlier run asked for a promotion before it was killed, it cannot be undone: wait for it."""
        for server in self.servers:
            promoting = server.seen.in_recovery and (
                server.seen.promoting or (server.seen.marked and not server.resume())
            )
            if promoting and not until(partial(_is_promoted, server), _PROMOTION_SECONDS):
                raise Failure(f"{server.name} is still being promoted after {_PROMOTION_SECONDS:.0f} s")

    def forget_followers(self, servers: Sequence[Server]) -> None:
        """Have replicas keep no WAL for siblings that followed them, as soon as those have gone."""
        for server in servers:
            with suppress(psycopg.Error, StatementDeadline):
                until(partial(server.forget_followers, self.slots(server)), _FORGET_SECONDS)

    def primary(self) -> Server | None:
        """Of those that accept writes the one on the newest timeline, if no replica is on a newer one still."""
        newest = max((server.seen.timeline for server in self.servers), default=0)
        found = [server for server in self.old_primaries() if server.seen.timeline == newest]
        if len(found) > 1:
            names = " and ".join(server.name for server in found)
            raise Failure(f"{names} accept writes on the same timeline {newest}: stop one of them")
        return found[0] if found else None

    def old_primaries(self, but: Server | None = None) -> list[Server]:
        """Those that accept writes."""
        return [server for server in self.servers if not server.seen.in_recovery and server is not but]

    def replicas(self) -> list[Server]:
        return [server for server in self.servers if server.seen.in_recovery]

    def siblings(self, server: Server) -> list[Node]:
        return [node for node in self.nodes if node != server.node]

    def slots(self, server: Server) -> list[str]:
        """The slots that the others of the shard use on their primary."""
        return [other.seen.slot for other in self.servers if other is not server and other.seen.slot]

    def conninfo(self, server: Server) -> str:
        """With what the replica connects. Where it has nothing, as its siblings do, under its own name."""
        if server.seen.conninfo:
            return server.seen.conninfo
        others = [other.seen.conninfo for other in self.servers if other.seen.conninfo]
        if not others:
            raise Failure(f"{server.name} has no primary_conninfo, and none of its siblings has one to go by")
        return upstream.unnamed(others[0])

    def _try(self, node: Node) -> Server | str:
        try:
            return self.connect(node)
        except (psycopg.Error, StatementDeadline) as error:
            # libpq tells the address once more, and asks whether a server runs there.
            return error_text(error).rpartition(" failed: ")[2].partition(" Is the server running")[0]

    def _check_identity(self) -> None:
        identifiers = {server.seen.system_identifier for server in self.servers}
        if len(identifiers) > 1:
            said = ", ".join(f"{server.name} {server.seen.system_identifier}" for server in self.servers)
            raise Failure(f"the nodes of {self.shard} are not copies of one another: {said}")


def _is_promoted(server: Server) -> bool:
    return not server.look().in_recovery


def each(servers: Sequence[Server], act: Callable[[Server], T]) -> list[T]:
    """Do the same to all, side by side. Raises what the first of them raised, after all have ended."""
    return _side_by_side(act, servers)


def each_that_answers(servers: Sequence[Server], act: Callable[[Server], object]) -> list[Server]:
    """The same, to those that still answer: which they are."""

    def answers(server: Server) -> bool:
        try:
            act(server)
        except (psycopg.Error, StatementDeadline):
            return False
        return True

    return [server for server, did in zip(servers, each(servers, answers), strict=True) if did]


def all_are(servers: Sequence[Server], condition: Callable[[Server], bool]) -> bool:
    """Look at every one of them, and say whether it is true of all."""
    each(servers, Server.look)
    return all(condition(server) for server in servers)


def any_is(servers: Sequence[Server], condition: Callable[[Server], bool]) -> bool:
    """Look at every one of them, and say whether it is true of any."""
    each(servers, Server.look)
    return any(condition(server) for server in servers)


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for it, so long at most; whether it came."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


S = TypeVar("S")


def _side_by_side(act: Callable[[S], T], things: Sequence[S]) -> list[T]:
    with ThreadPoolExecutor(max(1, len(things)), "failover") as threads:
        return list(threads.map(act, things))
