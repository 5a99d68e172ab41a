"""A failover that is killed (SIGKILL) right after it has done so many things to servers. A process of its own.

python -m tests.faults.failover_killed SHARD COUNT
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

from commands.cluster import open_cluster
from commands.failover import fail_over
from commands.failover_group import Group
from commands.failover_handover import Wish
from commands.failover_server import Server

# Everything that changes a server.
DEEDS = (
    "shut_gate",
    "follow",
    "keep_wal_for",
    "promote",
    "commit",
    "end_clients",
    "forget_followers",
    "reset",
)


class DyingServer(Server):
    """Kills its process when so many deeds are done, of all servers together."""

    left = 0
    lock_of_left = threading.Lock()

    def __getattribute__(self, name: str) -> Any:
        attribute = super().__getattribute__(name)
        return self._fatal(name, attribute) if name in DEEDS else attribute

    @classmethod
    def _fatal(cls, name: str, deed: Any) -> Any:
        def do(*arguments: Any, **options: Any) -> Any:
            done = deed(*arguments, **options)
            with cls.lock_of_left:
                cls.left -= 1
                if cls.left == 0:
                    sys.stdout.write(name)
                    sys.stdout.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
            return done

        return do


class DyingGroup(Group):
    def connect(self, node: Any) -> Server:
        return DyingServer.connect(node, self._cluster.node_dsn(node))


def main(shard: str, count: int) -> None:
    DyingServer.left = count
    cluster = open_cluster()
    nodes = [node for node in cluster.snapshot().map.nodes if node.shard == shard]
    with DyingGroup.reached(cluster, shard, nodes) as group:
        fail_over(group, Wish(), lambda _step: None)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
