"""Three independent Valkeys for locks, and processes that take them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from ephemeral.locks import Locks
from tests.shard_servers import until
from tests.valkey_server import ValkeyServer, running_valkey

TTL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class LockServers:
    servers: Sequence[ValkeyServer]
    opened: list[Locks] = field(default_factory=list)

    @property
    def urls(self) -> str:
        return ",".join(server.url for server in self.servers)

    def open(self, ttl_seconds: float) -> Locks:
        """One process's view."""
        locks = Locks(self.urls, ttl_seconds)
        self.opened.append(locks)
        return locks

    def locks(self) -> Locks:
        """One process's view; all servers count for it."""
        locks = self.open(TTL_SECONDS)
        until(lambda: tended(locks).counting() == len(self.servers))
        return locks

    def owners(self, key: str) -> list[object]:
        """Who has the lock, by each server."""
        return [server.admin.get(key) for server in self.servers]

    def holder(self, key: str) -> object:
        """Who has the lock on a quorum of them. On a busy machine one may have been passed over as too slow."""
        found = Counter(owner for owner in self.owners(key) if owner is not None)
        (owner, votes), *others = found.most_common()
        assert votes > len(self.servers) // 2
        assert not others
        return owner

    def keys(self) -> int:
        return sum(server.admin.dbsize() for server in self.servers)


def tended(locks: Locks) -> Locks:
    """After another round of what a worker does in the background."""
    locks.tend()
    return locks


@contextmanager
def running_lock_servers() -> Iterator[LockServers]:
    with ExitStack() as running:
        servers = LockServers([running.enter_context(running_valkey()) for _ in range(3)])
        yield servers
        for locks in servers.opened:
            locks.close()
