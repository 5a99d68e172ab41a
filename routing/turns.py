"""Whose turn it is: round-robin among whoever may answer, by weight, and even in any short run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class Turns:
    """Smooth weighted round-robin: of weights 2 and 1 it gives a, b, a, a, b, a and not a, a, b.

    Each turn adds to everyone's credit its weight, and the richest pays for all. Who is not asked meanwhile gathers
    nothing, so a node that comes back is not flooded. For one thread (greenlets do not interrupt a choice).

    Source: https://github.com/phusion/nginx/commit/27e94984486058d73157038f7950a0a36ecc6e35
    """

    def __init__(self, weights: Mapping[str, int]) -> None:
        self._weights = weights
        self._credits: dict[str, int] = {}

    def choose(self, names: Iterable[str]) -> str | None:
        """One of the names; None where there is none."""
        total = 0
        chosen: str | None = None
        for name in names:
            weight = self._weights.get(name, 1)
            total += weight
            self._credits[name] = self._credits.get(name, 0) + weight
            if chosen is None or self._credits[name] > self._credits[chosen]:
                chosen = name
        if chosen is not None:
            self._credits[chosen] -= total
        return chosen
