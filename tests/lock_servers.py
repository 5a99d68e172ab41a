"""Three independent Valkeys for locks, and processes that take them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from ephemeral.locks import Locks
from tests.shard_servers import until
from tests.valkey_server import ValkeyServer, running_valkey

TTL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class LockServers:
    servers: Sequence[ValkeyServer]

    @property
    def urls(self) -> str:
        return ",".join(server.url for server in self.servers)

    def locks(self, ttl_seconds: float = TTL_SECONDS) -> Locks:
        """One process's view; all servers count for it."""
        locks = Locks(self.urls, ttl_seconds)
        until(lambda: tended(locks).counting() == len(self.servers))
        return locks

    def owners(self, key: str) -> list[object]:
        """Who has the lock, by each server."""
        return [server.admin.get(key) for server in self.servers]

    def keys(self) -> int:
        return sum(server.admin.dbsize() for server in self.servers)


def tended(locks: Locks) -> Locks:
    """After another round of what a worker does in the background."""
    locks.tend()
    return locks


@contextmanager
def running_lock_servers() -> Iterator[LockServers]:
    with ExitStack() as running:
        yield LockServers([running.enter_context(running_valkey()) for _ in range(3)])
