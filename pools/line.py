"""Who waits for a connection of one pool, store by store.

The next connection goes to the store that holds the fewest; of those that hold as many, to the one that has waited for
its turn longest; within a store, to whoever came first. So a store with a thousand waiting requests is one in line, as
is a store with a single one. No connection stays free for it: the order alone costs no throughput.

Source: max-min fairness over connections, with round robin between equals; the longest queue gives way where the line
is full (McKenney, "Stochastic fairness queueing", 1990, section 3).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping

from psycopg_pool.pool import WaitingClient

from pools.connection import ShardConnection


class Waiter(WaitingClient[ShardConnection]):
    """One request in line. `store` is its store's id as a number; None: it is no store's."""

    __slots__ = ("store",)

    def __init__(self, store: int | None) -> None:
        super().__init__()
        self.store = store


class Line:
    """All who wait for one pool. Whoever changes it holds the pool's lock."""

    def __init__(self) -> None:
        # Stores in the order of their turns: who was served goes to the end.
        self._stores: OrderedDict[int | None, deque[Waiter]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Waiter]:
        return (waiter for waiters in self._stores.values() for waiter in waiters)

    def __contains__(self, waiter: Waiter) -> bool:
        return waiter in self._stores.get(waiter.store, ())

    def count(self, store: int | None) -> int:
        """How many of a store wait."""
        return len(self._stores.get(store, ()))

    def append(self, waiter: Waiter) -> None:
        self._stores.setdefault(waiter.store, deque()).append(waiter)
        self._length += 1

    def remove(self, waiter: Waiter) -> None:
        """Raises `ValueError` for one who does not wait."""
        self._stores.get(waiter.store, deque()).remove(waiter)
        self._left(waiter.store)

    def clear(self) -> None:
        self._stores.clear()
        self._length = 0

    def pop_next(
        self, held: Mapping[int | None, int], may_have_another: Callable[[int | None], bool]
    ) -> Waiter | None:
        """Who is served next, taken out; None where nobody may be. `held`: connections by store."""
        chosen: int | None = None
        fewest = -1
        # Ends with the first store that holds none: at most as many hold one as there are connections.
        for store in self._stores:
            holds = held.get(store, 0)
            if (fewest < 0 or holds < fewest) and may_have_another(store):
                chosen, fewest = store, holds
                if not holds:
                    break
        if fewest < 0:
            return None
        waiter = self._stores[chosen].popleft()
        self._stores.move_to_end(chosen)
        self._left(chosen)
        return waiter

    def newest_of_longest(self) -> Waiter:
        """The last one of the store of which most wait. The line is not empty."""
        return max(self._stores.values(), key=len)[-1]

    def _left(self, store: int | None) -> None:
        self._length -= 1
        if not self._stores[store]:
            del self._stores[store]
