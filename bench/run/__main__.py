"""`make bench`: what each layer buys. Starts a cluster of its own, and takes it down; needs nothing running.

    make bench                                  all stages at 1,000 requests a second, three rounds
    make bench RATE=200 DURATION=5s             a look, in under three minutes
    .venv/bin/python -m bench.run --limit       the highest rate that all layers together bear, without budgets

docs/benchmark.md says what is measured and how to read it. Exits with 1 where the data was not whole after a stage; the
results are written all the same.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from bench.run import figures, machine
from bench.run.budgets import Budgets, find_place
from bench.run.ground import Ground, prepared
from bench.run.limit import find_limit
from bench.run.load import find_k6
from bench.run.measure import Bench, one_line
from bench.run.options import Options, parse
from bench.run.stages import flags_of

_BEGAN = time.monotonic()
_RESULTS = ("summary.json", "limit.json", "report.md", "report.html", "k6-*.html")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments, os.environ)
    find_k6(options.k6)  # before anything is started
    _end_on_signals()
    options.out.mkdir(parents=True, exist_ok=True)
    for pattern in _RESULTS:  # of the run before: a stage that is not run again has no place beside these
        for left in options.out.glob(pattern):
            left.unlink()
    # Groups are removed once the servers in them have ended.
    with ExitStack() as groups, prepared(options, say) as ground:
        budgets = _budgets(ground, options, groups)
        say(f"budgets: {budgets.how}")
        head = _head(ground, options, budgets)
        bench = Bench(ground, options, budgets, say)
        if options.limit:
            return _limit(bench, options, head)
        rounds = _measure(bench, options, head)
    return _finish(options, head, rounds)


def _budgets(ground: Ground, options: Options, groups: ExitStack) -> Budgets:
    cores = {name: options.budgets[kind] for name, (kind, _) in ground.pids().items()}
    budgets = groups.enter_context(Budgets(find_place(), cores, options.period_ms))
    for name in cores:
        budgets.adopt(name, lambda name=name: ground.tree(name))  # type: ignore[misc]
    return budgets


def _measure(bench: Bench, options: Options, head: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Each round all stages, one after the other: what drifts meanwhile meets all of them alike."""
    rounds: dict[str, list[dict[str, Any]]] = {stage: [] for stage in options.stages}
    for number in range(1, options.rounds + 1):
        for stage in options.stages:
            html = options.out / f"k6-{stage}.html"
            found = bench.measure(stage, options.rate, html)
            rounds[stage].append(found)
            say(f"round {number}/{options.rounds}, {stage}: {one_line(found)}")
            _write(options.out, head, rounds)  # what there is, should the run be broken off
    return rounds


def _finish(options: Options, head: dict[str, Any], rounds: dict[str, list[dict[str, Any]]]) -> int:
    summary = _write(options.out, head, rounds)
    _report(options.out)
    say(f"results: {options.out}")
    faults = [f"{stage['name']}: {fault}" for stage in summary["stages"] for fault in stage["faults"]]
    for fault in faults:
        say(f"NOT WHOLE: {fault}")
    return 1 if faults else 0


def _limit(bench: Bench, options: Options, head: dict[str, Any]) -> int:
    found = find_limit(bench, options.rate, say)
    (options.out / "limit.json").write_text(json.dumps({**head, **found}, indent=2) + "\n")
    say(f"results: {options.out / 'limit.json'}")
    return 1 if any(step["faults"] for step in found["steps"]) else 0


def _head(ground: Ground, options: Options, budgets: Budgets) -> dict[str, Any]:
    return {
        "commit": machine.commit(),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "machine": machine.machine(),
        "versions": machine.versions(ground, find_k6(options.k6)),
        "settings": {
            "rate": options.rate,
            "duration_seconds": options.duration_seconds,
            "warm_up_seconds": options.warm_up_seconds,
            "rounds": options.rounds,
            "seed": options.seed,
            "stores": options.stores,
            "products": options.products,
            "orders": options.orders,
            "sessions": options.sessions,
            "workers": options.workers,
            "fsync": options.durable,
            "budgets": dict(options.budgets),
            "budgets_enforced": budgets.enforced,
            "budgets_by": budgets.how,
            "budget_period_ms": options.period_ms,
        },
    }


def _write(out: Path, head: dict[str, Any], rounds: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    stages = [figures.stage(name, flags_of(name), found) for name, found in rounds.items() if found]
    summary = {**head, "stages": stages}
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def _report(out: Path) -> None:
    """report.md and report.html, of what lies in the folder."""
    if importlib.util.find_spec("bench.report") is None:
        say("no report: there is no bench.report")
        return
    write_report: Callable[[Path], object] = importlib.import_module("bench.report").write_report
    write_report(out)


def _end_on_signals() -> None:
    """The first one ends the run in order, and no other cuts that short."""

    def end(number: int, _frame: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        say("stopping")
        raise SystemExit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    for each in numbers:
        signal.signal(each, end)


def say(text: str) -> None:
    print(f"[{time.monotonic() - _BEGAN:6.1f} s] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
