"""Which servers there are: names and ports. A name stays with its server, whatever role it has."""

from __future__ import annotations

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
class Topology:
    """So many shards of one primary and its replicas, one Redis, so many lock nodes, on adjacent ports."""

    first_port: int = 24320
    shards: int = 2
    replicas: int = 2
    locks: int = 3

    @property
    def shard_names(self) -> tuple[str, ...]:
        return tuple(f"shard-{number}" for number in range(self.shards))

    def nodes(self, shard: str | None = None) -> tuple[PostgresNode, ...]:
        """The PostgreSQL servers, of one shard or of all. A shard's first is its primary to begin with."""
        letters = ascii_lowercase[: 1 + self.replicas]
        names = [(name, letter) for name in self.shard_names for letter in letters]
        every = (
            PostgresNode(f"{name}-{letter}", name, self.first_port + number)
            for number, (name, letter) in enumerate(names)
        )
        return tuple(node for node in every if shard in (None, node.shard))

    def valkeys(self) -> tuple[ValkeyNode, ...]:
        port = self.first_port + len(self.nodes())
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
