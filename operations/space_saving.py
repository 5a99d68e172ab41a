"""The heaviest of any number of keys, in bounded memory, with figures that fade.

Space-Saving (Metwally, Agrawal, El Abbadi, "Efficient computation of frequent and top-k elements in data streams", ICDT
2005), with weights in place of counts: a new key that finds the table full takes the place of the lightest one, and its
weight too, which is remembered as its error. With W the weight of all that was added and k the table's capacity:

- a key that weighs more than W/k is in the table;
- what it weighs in truth lies between `weight - error` and `weight`, and `error` is at most W/k.

Fading multiplies everything by the same factor, so all of this stays true of what is left.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from heapq import heapify, heapreplace, nlargest
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

# Below it a key makes room for others. With weights in seconds: a single quick request has faded to it after some
# twenty half-lives.
FORGOTTEN = 1e-9


class Entry:
    """What is known of one key. All but `weight` is counted since it came into the table."""

    __slots__ = ("error", "requests", "seconds", "statements", "weight")

    def __init__(self, weight: float = 0.0) -> None:
        self.weight = self.error = weight
        self.requests = self.statements = self.seconds = 0.0


class SpaceSaving(Generic[Key]):
    """A table of at most `capacity` keys. `add` gives way to no other greenlet, so greenlets need no lock."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: dict[Key, Entry] = {}
        # The entries by what they weighed when they were put here, once the table is full: no entry weighs less by now.
        self._heap: list[tuple[float, int, Key]] = []
        self._order = 0  # no two items of the heap are equal, so keys are not compared

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, key: Key, weight: float, statements: int = 0, seconds: float = 0.0) -> None:
        """One request of a key. Takes a look-up; where it is new to a full table, a few steps in a heap."""
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = (
                Entry() if len(self._entries) < self._capacity else self._replace(key)
            )
        entry.weight += weight
        entry.requests += 1
        entry.statements += statements
        entry.seconds += seconds

    def heaviest(self, most: int) -> Iterator[tuple[Key, Entry]]:
        """By what they weigh at least, the heaviest first."""
        entries = list(self._entries.items())
        yield from nlargest(most, entries, key=lambda item: item[1].weight - item[1].error)

    def fade(self, factor: float) -> None:
        """Keep this share of everything."""
        for key, entry in list(self._entries.items()):
            if entry.weight * factor < FORGOTTEN:
                del self._entries[key]
            else:
                entry.weight *= factor
                entry.error *= factor
                entry.requests *= factor
                entry.statements *= factor
                entry.seconds *= factor
        self._heap.clear()

    def _replace(self, key: Key) -> Entry:
        """Take out the lightest, for this one."""
        heap = self._heap
        if not heap:
            heap.extend((entry.weight, n, each) for n, (each, entry) in enumerate(self._entries.items()))
            heapify(heap)
            self._order = len(heap)
        while True:
            weight, order, lightest = heap[0]
            now = self._entries[lightest].weight
            if now <= weight:
                break
            heapreplace(heap, (now, order, lightest))
        del self._entries[lightest]
        self._order += 1
        heapreplace(heap, (weight, self._order, key))
        return Entry(weight)
