"""Watches a cluster's shards and brings back every server that was failed over, as soon as it can be.

A server that has died and was not failed over stays down: whoever kills one wants to see what then happens.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event, Thread
from typing import Self

import psutil
import psycopg

from devcluster import standing
from devcluster.cluster import Cluster
from devcluster.errors import ClusterError, Interrupted, NotYet
from devcluster.topology import PostgresNode

_LOOK_SECONDS = 0.5
# Looking on disk is free; asking costs a connection.
_ASK_EVERY = 4
# In a row: a replica that only changes its primary looks strayed for moments.
_STRAYED_TIMES = 2
# Clients of a primary that runs on take a moment to find the new one. What they send to the old one until then is
# refused there; stopped in the middle of it, the old one would leave them in doubt.
_LEAVE_SECONDS = 1.5
_FIRST_DELAY_SECONDS = 1.0
_LONGEST_DELAY_SECONDS = 30.0
# Longer than any stop of a server: whoever waits for a primary that is frozen is not waited for.
_END_SECONDS = 40.0


@dataclass(slots=True)
class _Trouble:
    """What last went wrong with a node, and when to try again."""

    said: str = ""
    due: float = 0.0
    delay_seconds: float = _FIRST_DELAY_SECONDS


class _Looks:
    """Looking at one shard, time and again."""

    def __init__(self, cluster: Cluster, nodes: Sequence[PostgresNode]) -> None:
        self._cluster, self._nodes = cluster, nodes
        self._count = 0
        self._behind: dict[PostgresNode, float] = {}
        self._strayed: Counter[PostgresNode] = Counter()

    def found(self) -> list[PostgresNode]:
        """The nodes to bring back now."""
        postgres, now = self._cluster.postgres, time.monotonic()
        self._count += 1
        behind = standing.left_behind(postgres, self._nodes)
        self._behind = {node: self._behind.get(node, now) for node in behind}
        if behind or self._count % _ASK_EVERY:
            return [node for node, since in self._behind.items() if now - since >= _LEAVE_SECONDS]
        strayed = standing.strayed(postgres, self._nodes)
        self._strayed = Counter({node: self._strayed[node] + 1 for node in strayed})
        return [node for node, times in self._strayed.items() if times >= _STRAYED_TIMES]


class Watch:
    """A thread for each shard, from entry (or when it was added) to exit; what is under way at the exit is finished.

    `busy` has the names of the servers that are being brought back: they are stopped on purpose.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.busy: set[str] = set()
        self._cluster = cluster
        self._ending = Event()
        self._troubles: defaultdict[str, _Trouble] = defaultdict(_Trouble)
        self._threads: dict[str, Thread] = {}

    def __enter__(self) -> Self:
        self.follow()
        return self

    def follow(self) -> None:
        """Watch what was added, and no more what was taken away."""
        for shard in self._cluster.topology.shard_names:
            if shard not in self._threads or not self._threads[shard].is_alive():
                thread = Thread(target=self._keep, args=(shard,), name=f"watch-{shard}", daemon=True)
                self._threads[shard] = thread
                thread.start()

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        deadline = time.monotonic() + _END_SECONDS
        for thread in self._threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))

    def _keep(self, shard: str) -> None:
        nodes = self._cluster.topology.nodes(shard)
        looks = _Looks(self._cluster, nodes)
        while not self._ending.wait(_LOOK_SECONDS) and shard in self._cluster.topology.shard_names:
            with suppress(OSError):  # a folder that is renamed at this moment
                for node in looks.found():
                    if time.monotonic() >= self._troubles[node.name].due:
                        self._bring_back(node)

    def _bring_back(self, node: PostgresNode) -> None:
        trouble = self._troubles[node.name]
        try:
            with self._at_work(node):
                self._cluster.rejoin(node.name)
            self._troubles[node.name] = _Trouble()
        except Interrupted:
            self._ending.set()
        except NotYet as error:  # at the next look, for it may be a matter of moments
            self._say(trouble, f"{error}")
        except (ClusterError, psycopg.Error, psutil.Error, OSError) as error:
            self._say(trouble, f"{node.name} is not a replica yet, which is tried again: {error}")
            trouble.due = time.monotonic() + trouble.delay_seconds
            trouble.delay_seconds = min(2 * trouble.delay_seconds, _LONGEST_DELAY_SECONDS)

    def _say(self, trouble: _Trouble, line: str) -> None:
        """The same only once."""
        line = " ".join(line.split())
        if line != trouble.said:
            trouble.said = line
            self._cluster.report(line)

    @contextmanager
    def _at_work(self, node: PostgresNode) -> Iterator[None]:
        self.busy.add(node.name)
        try:
            yield
        finally:
            self.busy.discard(node.name)
