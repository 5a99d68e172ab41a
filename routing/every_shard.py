"""Asking every shard the same, where one that does not answer is an answer too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Lock
from typing import Generic, TypeVar

# Orchestrators give a probe a second or few: a frozen shard must not use that up. Longer than the wait for a
# connection (`pool_timeout_seconds`), so that a shard which is merely busy gets its say.
ANSWER_WITHIN_SECONDS = 1.5

Found = TypeVar("Found")


class EveryShard(Generic[Found]):
    """Asks every shard the same, side by side, and waits `within_seconds` for all of them together.

    A shard that is still being asked is not asked again: however often a probe comes by, a frozen shard holds
    one thread and one connection.
    """

    def __init__(self, ask: Callable[[str], Found], within_seconds: float = ANSWER_WITHIN_SECONDS) -> None:
        self._ask = ask
        self._within_seconds = within_seconds
        self._lock = Lock()
        self._running: dict[str, Future[Found]] = {}
        self._threads = ThreadPoolExecutor(max_workers=64, thread_name_prefix="every-shard")

    def __call__(self, shards: Sequence[str]) -> dict[str, Found | None]:
        """What each shard said; None where it said nothing in time, or asking it failed."""
        with self._lock:
            asked = {shard: self._future(shard) for shard in shards}
        wait(asked.values(), timeout=self._within_seconds)
        return {
            shard: future.result() if future.done() and future.exception() is None else None
            for shard, future in asked.items()
        }

    def _future(self, shard: str) -> Future[Found]:
        future = self._running.get(shard)
        if future is None or future.done():
            future = self._running[shard] = self._threads.submit(self._ask, shard)
        return future
