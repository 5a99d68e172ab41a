"""What became of the moves, as text: a line for each, and tables in Markdown for docs/crash-matrix.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.faults.crash_matrix.rounds import Outcome
from tests.faults.crash_matrix.steps import FORTH


def line(outcome: Outcome) -> str:
    told = ", ".join(f"{number} {what}" for what, number in sorted(outcome.told.items()))
    return (
        f"{outcome.fault:32} {outcome.step:24} {outcome.state:11} {outcome.attempts}"
        f" {outcome.converged_seconds:6.1f} s {outcome.writes_seconds:6.1f} s {outcome.slowest_seconds:5.1f} s"
        f" {outcome.placed:5} {told:20} {outcome.error} {'; '.join(outcome.wrong)}"
    )


def tables(outcomes: Sequence[Outcome]) -> str:
    """First a line for each fault, then one for each step."""
    faults = list(dict.fromkeys(outcome.fault for outcome in outcomes))
    played = {outcome.step for outcome in outcomes}
    steps = [step.title for step in FORTH if step.title in played]
    by_place = {(outcome.fault, outcome.step): outcome for outcome in outcomes}
    of_fault = [[each for each in outcomes if each.fault == fault] for fault in faults]
    lines = [
        "| fault | moves | outcome | tidy, s | orders again, s | slowest, s | orders | 503 | others | wrong |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- | --- |",
        *(f"| {fault} | {_summary(each)} |" for fault, each in zip(faults, of_fault, strict=True)),
        "",
        f"| step | {' | '.join(faults)} |",
        f"| --- |{' ---: |' * len(faults)}",
    ]
    for step in steps:
        cells = [_cell(by_place.get((fault, step))) for fault in faults]
        lines.append(f"| {step} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _summary(outcomes: Sequence[Outcome]) -> str:
    states = Counter(outcome.state for outcome in outcomes)
    told = sum((outcome.told for outcome in outcomes), Counter[str]())
    unavailable = told.pop("503", 0)
    cells = [
        str(len(outcomes)),
        ", ".join(f"{number} {state}" for state, number in states.most_common()),
        f"{max(outcome.converged_seconds for outcome in outcomes):.1f}",
        f"{max(outcome.writes_seconds for outcome in outcomes):.1f}",
        f"{max(outcome.slowest_seconds for outcome in outcomes):.1f}",
        str(sum(outcome.placed for outcome in outcomes)),
        str(unavailable),
        ", ".join(f"{number} {what}" for what, number in sorted(told.items())) or "–",
        "; ".join(wrong for outcome in outcomes for wrong in outcome.wrong) or "–",
    ]
    return " | ".join(cells)


def _cell(outcome: Outcome | None) -> str:
    """The seconds; a star where the copy was begun again, the state where it is not `done`."""
    if outcome is None:
        return ""
    state = "" if outcome.state == "done" else f"{outcome.state} "
    return f"{state}{outcome.converged_seconds:.1f}{'*' * (outcome.attempts > 1)}"
