"""Which nodes have less to do from one stage to the next, and which have more."""

from __future__ import annotations

from collections.abc import Mapping

from bench.report.summary import Stage

# What is less than this part of what the busiest node has is not worth a sentence; the tables have it.
_LEAST_SHARE = 0.1
MOST_NODES = 3

Shift = tuple[str, float, float]


def shifts(
    before: Stage, stage: Stage, of: tuple[Mapping[str, float], Mapping[str, float]], scale: float
) -> tuple[list[Shift], list[Shift]]:
    """Nodes whose part changed by a tenth of what the busiest has, the largest change first: less, and more."""
    if not before.requests or not stage.requests:
        return [], []
    was = {node: total * scale / before.requests for node, total in of[0].items()}
    now = {node: total * scale / stage.requests for node, total in of[1].items()}
    if not was or not now:
        return [], []
    least = _LEAST_SHARE * max(*was.values(), *now.values(), 0.0)
    changed = [(node, was.get(node, 0.0), now.get(node, 0.0)) for node in {**was, **now}]
    changed = sorted(
        (each for each in changed if abs(each[2] - each[1]) > least), key=lambda e: -abs(e[2] - e[1])
    )
    less, more = ([each for each in changed if (each[2] > each[1]) is rose] for rose in (False, True))
    return less[:MOST_NODES], more[:MOST_NODES]
