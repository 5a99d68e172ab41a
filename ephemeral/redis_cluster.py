"""A Redis Cluster: every key belongs to one of 16,384 slots, every slot to one primary, each with a breaker of its own.

redis-py finds out who has which slot, asking any node that answers. Here that happens on a thread of its own: when a
node was lost, when one sent on to another, and every `REFRESH_SECONDS` for those whom nobody asks. Between two such
looks a slot follows what its node says (MOVED), at once and for all requests of this process.

What is asked of a slot on its way from one node to another (ASK) goes to both in turn. A script with several keys of
which some have gone already and some have not is refused by both (TRYAGAIN) until all have: until then its caller goes
on as if the node were away.

Source: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping

from redis.cluster import ClusterNode, NodesManager
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, MovedError

from config import RedisUrl
from ephemeral.client import TIMEOUT_SECONDS, connect
from ephemeral.fleet import Watcher, connections_of
from ephemeral.node import RedisNode
from ephemeral.scripts import Call, Command

logger = logging.getLogger("ephemeral")

# Nobody waits for it: who is asked for a slot that is not his says so. A look costs some ms of processor time.
REFRESH_SECONDS = 30.0
# While a node is away: its replica takes over after the cluster's own timeout, of seconds.
AWAY_SECONDS = 0.5

Address = tuple[str, int]


class RedisCluster(Watcher):
    """Follows the slots. A `Fleet`."""

    def __init__(self, url: RedisUrl, patience_seconds: float) -> None:
        super().__init__("redis-cluster", patience_seconds)
        client = connect(url.one_server, patience_seconds)
        self._connections = connections_of(client)
        self._pool_settings = {
            name: value
            for name, value in client.connection_pool.connection_kwargs.items()
            if name not in ("host", "port", "retry", "db")
        } | {
            "connection_class": client.connection_pool.connection_class,
            "socket_timeout": TIMEOUT_SECONDS,
            "socket_connect_timeout": TIMEOUT_SECONDS,
        }
        self._seeds = url.hosts
        self._topology: NodesManager | None = None
        self._nodes_lock = threading.Lock()
        self._nodes: dict[Address, RedisNode] = {}
        self._slots: list[RedisNode | None] = [None] * REDIS_CLUSTER_HASH_SLOTS

    def only(self) -> None:
        """It depends on the key."""

    def node_of(self, asked: Command | Call) -> RedisNode | None:
        if not self._known.is_set():
            self.wait_until_known()
        arguments = asked.called if isinstance(asked, Call) else asked
        key = arguments[1] if len(arguments) > 1 else b""
        node = self._slots[key_slot(key if isinstance(key, bytes) else str(key).encode())]
        if node is None:
            self.doubt()
        return node

    def primaries(self) -> Iterable[RedisNode]:
        if not self._known.is_set():
            self.wait_until_known()
        return {node for node in self._slots if node is not None}

    def away(self) -> Mapping[str, bool]:
        with self._nodes_lock:
            nodes = list(self._nodes.values())
        # Before the first look, what it says of all of them is what is known of each.
        return {node.name: not node.here for node in nodes} or {"redis": True}

    def redirected(self, error: AskError) -> RedisNode | None:
        if not error.host:  # the node's own, by another port; redis-py knows which that was
            self.doubt()
            return None
        node = self._node((error.host, error.port))
        if isinstance(error, MovedError):
            self._slots[error.slot_id] = node
            self.doubt()
        return node

    def close(self) -> None:
        super().close()
        for node in self._nodes.values():
            node.close()

    def look(self) -> float:
        if self._topology is None:
            seeds = [ClusterNode(*address) for address in self._seeds]  # type: ignore[no-untyped-call]
            # Of URLs, so that it takes the settings of the connections as they are. The seeds stay the seeds: behind
            # their names may be others one day.
            self._topology = NodesManager(
                seeds, from_url=True, dynamic_startup_nodes=False, **self._pool_settings
            )
        else:
            self._topology.initialize(additional_startup_nodes_info=list(self._nodes))
        found = self._topology.slots_cache
        addresses = {slot: (str(nodes[0].host), int(nodes[0].port)) for slot, nodes in found.items()}
        nodes = {address: self._node(address) for address in set(addresses.values())}
        self._slots = [
            nodes[addresses[slot]] if slot in addresses else None for slot in range(REDIS_CLUSTER_HASH_SLOTS)
        ]
        with self._nodes_lock:
            gone = [self._nodes.pop(address) for address in set(self._nodes) - set(nodes)]
        for node in gone:
            node.close()
        self._known.set()
        return REFRESH_SECONDS if all(node.here for node in nodes.values()) else AWAY_SECONDS

    def _node(self, address: Address) -> RedisNode:
        with self._nodes_lock:
            if address not in self._nodes:
                name = f"{address[0]}:{address[1]}"
                self._nodes[address] = RedisNode(name, self._connections(*address), lost=self.doubt)
            return self._nodes[address]
