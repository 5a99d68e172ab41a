"""Whose turn it is: round-robin among whoever may answer, by weight, and even in any short run."""

from __future__ import annotations

from collections.abc import Collection, Mapping

# More would have a node that was busy for long flooded when it is free again.
DEBT = 20


class Turns:
    """Smooth weighted round-robin: of weights 2 and 1 it gives a, b, a, a, b, a and not a, a, b.

    Each turn adds to everyone's credit its weight, and the richest pays for all. Who is not asked meanwhile gathers
    nothing, so a node that comes back is not flooded. For one thread (greenlets do not interrupt a choice).

    Source: https://github.com/phusion/nginx/commit/27e94984486058d73157038f7950a0a36ecc6e35
    """

    def __init__(self, weights: Mapping[str, int]) -> None:
        self._weights = weights
        self._credits: dict[str, int] = {}

    def choose(self, names: Collection[str], free: Collection[str] = ()) -> str | None:
        """One of the names, of those that are free if any is; None where there is no name at all.

        Who is passed over because it was busy is owed its turns, up to about `DEBT` of them.
        """
        credits = self._credits
        total = 0
        for name in names:
            weight = self._weights.get(name, 1)
            total += weight
            credits[name] = min(credits.get(name, 0) + weight, DEBT * weight)
        chosen = max(free or names, key=credits.__getitem__, default=None)
        if chosen is not None:
            credits[chosen] = max(credits[chosen] - total, -DEBT * self._weights.get(chosen, 1))
        return chosen
