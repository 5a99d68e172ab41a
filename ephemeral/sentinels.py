"""One server of several, by Redis Sentinel: the primary that the sentinels name.

They are asked every `LOOK_SECONDS`, all of them, and at once when the primary does not answer or says that it is none
any more. Whom the one with the newest configuration names is asked from then on, as soon as it answers as a primary.

**Two primaries at once.** While the sentinels hand over, and when a primary that froze goes on, the old one takes
writes for seconds more. What it is told is lost, and whoever still asks it does not see what the new one is told. For
carts, limits and cached answers that is no more than a loss. Positions must not be missed, so a reply says whether its
server was the only one (`Server.sole`), by a lease: a server counts as the only one for `SOLE_SECONDS` after more than
half of all sentinels named it, and not before `SOLE_SECONDS` have gone by since it was first named so. From that moment
on no look finds a majority for the one before, so what was believed of that one is over when this one is believed.
All workers must be given the same sentinels.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from math import inf
from time import monotonic
from typing import Any, cast

import redis
from redis.exceptions import AskError
from redis.sentinel import Sentinel

from config import RedisUrl
from ephemeral.client import TIMEOUT_SECONDS, connect, without_retry
from ephemeral.fleet import Watcher, connections_of
from ephemeral.node import PROBE_SECONDS, RedisNode, unavailable
from ephemeral.scripts import Call, Command

logger = logging.getLogger("ephemeral")

# A new primary is found within this and an answer's time. Three small questions.
LOOK_SECONDS = 0.5
# Several looks, so that one that a sentinel was slow to answer ends nothing.
SOLE_SECONDS = 2.0

Address = tuple[str, int]


class Sentinels(Watcher):
    """Follows the primary of one name. A `Fleet`."""

    def __init__(self, url: RedisUrl, patience_seconds: float) -> None:
        super().__init__("redis-sentinels", patience_seconds)
        client = connect(url.one_server, patience_seconds)
        self._connections = connections_of(client)
        tls = {
            name: value
            for name, value in client.connection_pool.connection_kwargs.items()
            if name.startswith("ssl_")
        }
        self._sentinel = Sentinel(  # type: ignore[no-untyped-call]
            url.hosts,
            sentinel_kwargs={
                "username": url.sentinel_username or None,
                "password": url.sentinel_password or None,
                "ssl": url.tls,
                "socket_timeout": TIMEOUT_SECONDS,
                "socket_connect_timeout": TIMEOUT_SECONDS,
                "retry": without_retry(),
                **tls,
            },
        )
        self._service = url.service
        self._node: RedisNode | None = None
        self._address: Address | None = None
        self._epoch = -1

    def only(self) -> RedisNode:
        node = self._node
        if node is None:
            self.wait_until_known()
            node = self._node
        if node is None:
            raise unavailable()
        return node

    def node_of(self, _asked: Command | Call) -> RedisNode:
        return self.only()

    def primaries(self) -> Iterable[RedisNode]:
        return [self.only()]

    def away(self) -> Mapping[str, bool]:
        node = self._node
        return {"redis": node is None or not node.here}

    def redirected(self, _error: AskError) -> None:
        """A server of a cluster has no sentinels."""

    def close(self) -> None:
        super().close()
        if self._node is not None:
            self._node.close()

    def look(self) -> float:
        asked_at = monotonic()
        named = self._named()
        epoch, address = max(named)
        votes = Counter(each for _, each in named)
        most = [each for each, count in votes.items() if count > len(self._sentinel.sentinels) / 2]
        # One that was cut off from the others names an old one; alone, it moves nobody back.
        if address != self._address and (epoch > self._epoch or address in most):
            self._move(epoch, address)
        node = self._node
        if node is None:
            return PROBE_SECONDS
        if self._address in most and asked_at > node.lost_at:
            if asked_at > node.sole_until:
                node.sole_from = monotonic() + SOLE_SECONDS
            node.sole_until = asked_at + SOLE_SECONDS
        return LOOK_SECONDS if node.here else PROBE_SECONDS

    def _named(self) -> list[tuple[int, Address]]:
        """Which primary each sentinel names, and by which configuration."""
        named, error = [], None
        for sentinel in self._sentinel.sentinels:
            try:
                state: dict[str, Any] = cast("Any", sentinel.sentinel_masters())[self._service]
            except (redis.RedisError, OSError, KeyError) as wrong:
                error = wrong
            else:
                named.append((int(state["config-epoch"]), (str(state["ip"]), int(state["port"]))))
        if not named:
            raise redis.ConnectionError(f"no sentinel names a primary for {self._service!r}") from error
        return named

    def _move(self, epoch: int, address: Address) -> None:
        """Ask that one from now on, if it answers and is a primary."""
        host, port = address
        node = RedisNode(f"{host}:{port}", self._connections(host, port), lost=self._lost)
        node.sole_until = -inf
        if not node.find(primary=True):
            return
        before, self._node = self._node, node
        self._epoch, self._address = epoch, address
        self._known.set()
        if before is not None:
            before.close()
            logger.warning("the primary is now %s, and was %s", node.name, before.name)

    def _lost(self) -> None:
        if self._node is not None:
            self._node.sole_until = -inf
        self.doubt()
