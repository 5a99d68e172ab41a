"""One round of the crash matrix: stores on the move, each standing at a step of its own; a fault; what became of them.

Clients order from every one of the stores all the time.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psycopg

from moves.record import Move
from tests.faults.crash_matrix.faults import Direction, Fault, Scene
from tests.faults.crash_matrix.ground import ROWS, STOCK, Ground
from tests.faults.crash_matrix.shopping import Client, Store
from tests.faults.crash_matrix.steps import Step
from tests.shard_servers import until

BOUND_SECONDS = 30.0
# For a busy machine: what takes longer than the bound is told, and judged by whoever reads it.
PATIENCE_SECONDS = 90.0


@dataclass(slots=True)
class Outcome:
    """Of one step under one fault. Seconds from when things were back; `wrong` says what must not be."""

    fault: str
    step: str
    state: str = ""
    attempts: int = 0
    error: str = ""
    converged_seconds: float = 0.0
    writes_seconds: float = 0.0
    placed: int = 0
    slowest_seconds: float = 0.0
    told: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Case:
    step: Step
    store: Store
    client: Client
    outcome: Outcome
    move: Move | None = None


def play(ground: Ground, fault: Fault, steps: Sequence[Step], *, odd: bool = False) -> list[Outcome]:
    direction = fault.direction(ground.shards, odd=odd)
    until(lambda: not ground.is_moving())  # the next mover lets as many stand as there are gates
    cases = []
    for step, store in zip(steps, ground.stores_on(direction.source, len(steps)), strict=True):
        ground.shut_gate(store, step.deed, step.number)
        cases.append(_Case(step, store, Client(ground.address, store), Outcome(fault.name, step.title)))
    for case in cases:
        case.client.start()
    try:
        until(lambda: all(case.client.placed for case in cases))
        # Those last whose writers wait at their gate.
        for waits in (False, True):
            _stand(ground, [case for case in cases if case.step.writers_wait is waits], direction.target)
        back, old_primary = _suffer(ground, fault, direction, cases)
        # Beside what is waited for: it may have to be copied anew.
        rejoin = threading.Thread(target=ground.comes_back, args=(old_primary,))
        rejoin.start()
        _await(ground, cases, back)
        rejoin.join()
    finally:
        for case in cases:
            ground.open_gate(case.store)
        for case in cases:
            case.client.stop()
    for case in cases:
        _judge(ground, case, direction, fault)
    ground.await_whole()
    cases[0].outcome.wrong += ground.slots_left()
    return [case.outcome for case in cases]


def _stand(ground: Ground, cases: Sequence[_Case], target: str) -> None:
    for case in cases:
        case.move = ground.ask(case.store, target)
    until(lambda: all(ground.standing(case.store) for case in cases), PATIENCE_SECONDS)


def _suffer(
    ground: Ground, fault: Fault, direction: Direction, cases: Sequence[_Case]
) -> tuple[float, str | None]:
    """The fault, from its beginning to its end; when that was, and who was a primary before."""
    mover = ground.standing(cases[0].store)
    assert mover is not None
    mend = fault.strike(Scene(ground, direction, mover))
    for case in cases:
        ground.open_gate(case.store)
    threading.Event().wait(fault.lasts_seconds)
    old_primary = mend()
    return time.monotonic(), old_primary


def _await(ground: Ground, cases: Sequence[_Case], back: float) -> None:
    """Until every move is over, nothing is left and everybody's orders are taken; when each was so."""
    open_moves, silent = list(cases), list(cases)
    left: list[str] = ["not looked yet"]

    def is_over() -> bool:
        nonlocal left
        for case in list(open_moves):
            with suppress(psycopg.Error):
                assert case.move is not None
                case.move = ground.found(case.move)
                if case.move.tidied_at is not None:
                    case.outcome.converged_seconds = time.monotonic() - back
                    open_moves.remove(case)
        for case in list(silent):
            if case.client.placed_at > back:
                case.outcome.writes_seconds = time.monotonic() - back
                silent.remove(case)
        if open_moves or silent:
            return False
        left = ground.left_over()
        return not left

    with suppress(AssertionError):
        _until(is_over, PATIENCE_SECONDS)
    took = time.monotonic() - back
    for case in cases:
        if case in open_moves:
            case.outcome.wrong.append("the move is not over")
        if case in silent:
            case.outcome.wrong.append("no order is taken")
        if took > BOUND_SECONDS:
            case.outcome.wrong.append(f"{took:.0f} s until nothing was left")
    if left and not open_moves:
        cases[0].outcome.wrong.append(f"left over: {left}")


def _until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with suppress(psycopg.Error):
            if condition():
                return
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _judge(ground: Ground, case: _Case, direction: Direction, fault: Fault) -> None:
    outcome, client, move = case.outcome, case.client, case.move
    assert move is not None
    outcome.state, outcome.attempts, outcome.error = move.state, move.attempt, move.error or ""
    outcome.placed, outcome.told, outcome.slowest_seconds = len(client.placed), client.told, client.slowest
    home = ground.home(case.store)
    expected = direction.target if move.state == "done" else direction.source
    if move.state not in ("done", "failed", "rolled_back"):
        outcome.wrong.append(f"it is {move.state}")
    if home != expected:
        outcome.wrong.append(f"{move.state}, and lives on {home}")
    for shard in ground.shards:
        rows = ground.count(shard, case.store)
        if (rows < 7 * ROWS) if shard == home else rows:
            outcome.wrong.append(f"{rows} rows on {shard}")
    found = ground.orders(home, case.store)
    placed = ground.placed_before(case.store) | client.placed
    missing = placed.items() - set(found)
    if missing:
        outcome.wrong.append(f"lost: {sorted(missing)}")
    more = set(found) - placed.items()
    if more or len(found) != len(set(found)):
        outcome.wrong.append(f"doubled, or nobody's: {sorted(more)}")
    if ground.stock(home, case.store) != STOCK - len(found):
        outcome.wrong.append("the stock is not what was sold")
    ground.remember_placed(case.store, placed)
    if client.told["dropped"] and not fault.drops:
        outcome.wrong.append("a connection was dropped")
    outcome.wrong += client.wrong
