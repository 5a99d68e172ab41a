"""Something breaks in the middle of moves: each ends, no order is lost or doubled, and nothing is left over.

The suite breaks a few things at a few steps; `EVERY_DEED=1` everything at every step, which takes a quarter of an hour.
`python -m tests.faults.crash_matrix` prints the table.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pytest

from tests.faults.crash_matrix.faults import FAULTS, Fault
from tests.faults.crash_matrix.ground import Ground, ground
from tests.faults.crash_matrix.rounds import play
from tests.faults.crash_matrix.steps import FORTH, Step, shares

# A copy; a copy that follows; writers wait; decided; the way forth half removed.
STEPS = ("copying", "way back has a slot", "block held", "decided", "way forth unsubscribed")
ROUNDS: list[tuple[Fault, Sequence[Step]]] = [
    (fault, [step for step in FORTH if step.title in STEPS])
    for fault in FAULTS
    if fault.name in ("worker killed", "catalog killed", "target failed over")
]
if os.environ.get("EVERY_DEED"):
    ROUNDS = [(fault, steps) for steps in shares(FORTH) for fault in FAULTS]


@pytest.fixture(scope="module")
def place() -> Iterator[Ground]:
    with ground() as found:
        yield found


@pytest.mark.parametrize("number", range(len(ROUNDS)), ids=lambda number: ROUNDS[number][0].name)
def test_whatever_breaks_in_a_move_it_ends_and_loses_nothing(place: Ground, number: int) -> None:
    fault, steps = ROUNDS[number]
    outcomes = play(place, fault, steps, odd=number % 2 == 1)
    assert {outcome.step: outcome.wrong for outcome in outcomes if outcome.wrong} == {}
    assert all(outcome.placed for outcome in outcomes)
