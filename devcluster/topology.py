"""Which servers there are: names and ports. A name stays with its server, whatever role it has."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from string import ascii_lowercase

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class PostgresNode:
    """One PostgreSQL server, such as shard-0-b."""

    name: str
    shard: str
    port: int

    @property
    def slot(self) -> str:
        """The replication slot it uses on its primary; a slot's name has no hyphens."""
        return self.name.replace("-", "_")


@dataclass(frozen=True, slots=True)
class ValkeyNode:
    """One Redis-compatible server. `kind` is "redis" (cache, carts, sessions, limits) or "lock"."""

    name: str
    kind: str
    port: int


@dataclass(frozen=True, slots=True)
class GrownShard:
    """A shard that was added while the cluster ran. Its ports begin so many behind the topology's first."""

    name: str
    port_offset: int


@dataclass(frozen=True, slots=True)
class Topology:
    """So many shards of one primary and its replicas, one Redis, so many lock nodes, on adjacent ports.

    `grown` came later; `absent` are shards of the first ones that were taken away (growth.py keeps both).
    """

    first_port: int = 24320
    shards: int = 2
    replicas: int = 2
    locks: int = 3
    grown: tuple[GrownShard, ...] = ()
    absent: tuple[str, ...] = ()

    @property
    def first_names(self) -> tuple[str, ...]:
        """The shards that a new cluster has."""
        return tuple(f"shard-{number}" for number in range(self.shards))

    @property
    def shard_names(self) -> tuple[str, ...]:
        present = (name for name in self.first_names if name not in self.absent)
        return (*present, *(shard.name for shard in self.grown))

    @property
    def shard_size(self) -> int:
        """How many servers a shard has."""
        return 1 + self.replicas

    @property
    def first_size(self) -> int:
        """How many ports a new cluster takes."""
        return self.shards * self.shard_size + 1 + self.locks

    def nodes(self, shard: str | None = None) -> tuple[PostgresNode, ...]:
        """The PostgreSQL servers, of one shard or of all. A shard's first is its primary to begin with."""
        offsets = {name: number * self.shard_size for number, name in enumerate(self.first_names)}
        offsets |= {grown.name: grown.port_offset for grown in self.grown}
        return tuple(
            PostgresNode(f"{name}-{letter}", name, self.first_port + offsets[name] + number)
            for name in self.shard_names
            if shard in (None, name)
            for number, letter in enumerate(ascii_lowercase[: self.shard_size])
        )

    def valkeys(self) -> tuple[ValkeyNode, ...]:
        port = self.first_port + self.shards * self.shard_size
        locks = (ValkeyNode(f"lock-{number}", "lock", port + 1 + number) for number in range(self.locks))
        return (ValkeyNode("redis", "redis", port), *locks)

    @property
    def last_port(self) -> int:
        return max(node.port for node in self)

    def __iter__(self) -> Iterator[PostgresNode | ValkeyNode]:
        yield from self.nodes()
        yield from self.valkeys()

    def __len__(self) -> int:
        return len(self.nodes()) + len(self.valkeys())


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the servers do: connections of an earlier run that are still fading do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen()  # only this tells on every system that another socket listens
        except OSError:
            return False
        return True
