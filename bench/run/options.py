"""What a run is told: options of the command line, whose defaults come from the environment (`make bench RATE=200`)."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.run.stages import STAGES
from config import ROOT

LATEST = ROOT / "bench" / "results" / "latest"
# Cores a node for 1,000 requests a second, and so much less for fewer: a budget shows what a layer takes off a node
# only at the load that it was made for. docs/benchmark.md has what they were chosen by.
BUDGETS = {"postgres": 0.25, "redis": 0.5, "lock": 0.2, "http": 0.0}
_LEAST_BUDGET = 0.02
# Below this a run is a smoke test, and one round of it is enough.
_SHORT_SECONDS = 10.0
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Options:
    """`budgets`: cores a node by kind of server, 0 for none. `products` and `orders` are of all stores together."""

    rate: int
    duration_seconds: float
    warm_up_seconds: float
    stages: tuple[str, ...]
    rounds: int
    seed: int
    stores: int
    products: int
    orders: int
    sessions: int
    workers: int
    budgets: Mapping[str, float]
    period_ms: float
    durable: bool
    k6: str
    out: Path
    limit: bool


def parse(arguments: Sequence[str] | None, environ: Mapping[str, str]) -> Options:
    """Ends the program, with a line that says why, where an option or variable is wrong."""
    given = parser(environ).parse_args(arguments)
    duration = given.duration if given.duration is not None else 10.0 if given.limit else 30.0
    rounds = given.rounds or (3 if duration >= _SHORT_SECONDS and not given.limit else 1)
    warm_up = given.warm_up if given.warm_up is not None else min(5.0, duration)
    rate = given.rate or (400 if given.limit else 1000)
    asked = {kind: getattr(given, f"budget_{kind}") for kind in BUDGETS}
    budgets = {kind: _budget(kind, rate) if cores is None else cores for kind, cores in asked.items()}
    if given.limit or given.no_budgets:
        budgets = dict.fromkeys(BUDGETS, 0.0)
    return Options(
        rate=rate,
        duration_seconds=duration,
        warm_up_seconds=warm_up,
        stages=("everything",) if given.limit else given.stages,
        rounds=rounds,
        seed=given.random_seed,
        stores=given.stores,
        products=given.products,
        orders=given.orders,
        sessions=given.sessions,
        workers=given.workers,
        budgets=budgets,
        period_ms=given.period_ms,
        durable=not given.no_fsync,
        k6=given.k6,
        out=given.out,
        limit=given.limit,
    )


def parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m bench.run",
        description="The benchmark: one load, stage by stage, on a cluster of its own. docs/benchmark.md",
        epilog="Capitals name the variable, of make too, that an option is taken from where it is not given.",
    )

    def add(name: str, kind: object, default: str | None, about: str) -> None:
        variable = name.removeprefix("--").replace("-", "_").upper()
        value = environ.get(variable) or default
        made.add_argument(name, type=kind, default=value, metavar="X", help=f"{about}; {variable}")  # type: ignore[arg-type]

    add("--rate", _count, None, "requests a second (1000)")
    add("--duration", seconds, None, "how long each stage is measured, such as 30s (30s)")
    add("--warm-up", _seconds_or_none, None, "before that, at the same rate (5s, no longer than --duration)")
    add("--stages", _stages, "all", f"of {', '.join(STAGES)}, with commas (all)")
    add("--rounds", _count, None, "how often all stages are run (3; below 10s 1)")
    add("--random-seed", int, "1", "the same number, the same data and requests (1)")
    add("--stores", _count, "20", "drawn by Zipf's law (20)")
    add("--products", _count, "2000", "of all stores together (2000)")
    add("--orders", _count, "4000", "that are there before, of all stores together (4000)")
    add("--sessions", _count, "400", "shoppers (400)")
    add("--workers", _count, "2", "of gunicorn (2)")
    for kind, cores in BUDGETS.items():
        about = f"cores of each {kind} server, 0: no limit ({cores} for 1,000 requests a second)"
        add(f"--budget-{kind}", _cores, None, about)
    add("--period-ms", float, "10", "in which a budget is dealt out (10)")
    add("--k6", str, "", "the program (beside this Python, else in PATH)")
    add("--out", Path, str(LATEST), "folder of the results (bench/results/latest)")
    made.add_argument("--no-budgets", action="store_true", help="all servers share the machine's cores")
    made.add_argument("--no-fsync", action="store_true", help="PostgreSQL does not wait for the disk")
    made.add_argument(
        "--limit",
        action="store_true",
        help="instead: the highest rate that `everything` bears without budgets, from --rate (400) on",
    )
    return made


def seconds(text: str) -> float:
    """From 30s, 1m30s or 500ms, as k6 writes it."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if not parts or "".join(map("".join, parts)) != text:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration such as 30s or 1m30s")
    found = sum(float(count) * _UNITS[unit] for count, unit in parts)
    if found <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time at all")
    return found


def _seconds_or_none(text: str) -> float:
    return 0.0 if text in ("0", "0s") else seconds(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _budget(kind: str, rate: int) -> float:
    return round(max(BUDGETS[kind] * rate / 1000, _LEAST_BUDGET), 4) if BUDGETS[kind] else 0.0


def _cores(text: str) -> float:
    found = float(text)
    if not found >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of cores")
    return found


def _stages(text: str) -> tuple[str, ...]:
    if text == "all":
        return tuple(STAGES)
    asked = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in asked if name not in STAGES]:
        raise argparse.ArgumentTypeError(f"there is no stage {unknown[0]}: {', '.join(STAGES)}")
    if not asked:
        raise argparse.ArgumentTypeError(f"no stage is named: {', '.join(STAGES)}")
    return tuple(name for name in STAGES if name in asked)
