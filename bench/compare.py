"""Two results of the benchmark, side by side: which differences are more than noise.

    .venv/bin/python -m bench.compare bench/results/before bench/results/latest
    .venv/bin/python -m bench.compare --fail-if-slower A B      # exits with 1 where B is worse

A difference is called one where no round of B lies among the rounds of A, and where it is larger than that figure's
least difference. Several rounds of each are needed: with one, all that is left is the least difference. Rounds in which
others took much of the machine say nothing of the code, and are left out; a stage without any other is not judged, and
that is an exit with 2.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.run.figures import series
from bench.run.measure import MUCH_OF_OTHERS_CORES
from bench.table import table


@dataclass(frozen=True, slots=True)
class Least:
    """What a difference has to exceed: an amount, and a part of the first value. `worse` is 1 where more is worse."""

    amount: float
    part: float
    worse: int


# By the end of a figure's name. What is not named here is listed, and not judged.
JUDGED = {
    "p50_ms": Least(1.0, 0.15, 1),
    "p95_ms": Least(3.0, 0.30, 1),
    "p99_ms": Least(10.0, 0.50, 1),
    "good_requests_per_second": Least(1.0, 0.05, -1),
    "error_rate": Least(0.01, 0.0, 1),
    "dropped_iterations": Least(10.0, 0.10, 1),
    "wrong_answers": Least(0.0, 0.0, 1),
    "cpu_ms_per_request.http": Least(0.10, 0.15, 1),
    "cpu_ms_per_request.postgres": Least(0.10, 0.15, 1),
    "statements_per_request": Least(0.05, 0.05, 1),
}
# Only these of each kind of request: more are too many to be quiet by chance. Behind a cache a slow query shows in
# the p95.
_OF_A_KIND = ("p50_ms", "p95_ms")


@dataclass(frozen=True, slots=True)
class Difference:
    """Of one figure of one stage. `real`: more than noise; `worse`: real, and in the direction that nobody wants."""

    stage: str
    figure: str
    first: tuple[float, ...]
    second: tuple[float, ...]
    real: bool
    worse: bool

    @property
    def amount(self) -> float:
        return median(self.second) - median(self.first)

    @property
    def verdict(self) -> str:
        if not self.real:
            return ""
        return "worse" if self.worse else "better"


def compare(
    first: Mapping[str, Any], second: Mapping[str, Any], others_cores: float = MUCH_OF_OTHERS_CORES
) -> list[Difference]:
    """Every judged figure of every stage of which both have rounds that were not disturbed."""
    undisturbed = quiet(second, others_cores)
    found = []
    for name, rounds in quiet(first, others_cores).items():
        if rounds and undisturbed.get(name):
            ours, theirs = series(rounds), series(undisturbed[name])
            for figure in ours:
                if (least := judged(figure)) and figure in theirs:
                    found.append(difference(name, figure, ours[figure], theirs[figure], least))
    return found


def quiet(summary: Mapping[str, Any], others_cores: float) -> dict[str, list[dict[str, Any]]]:
    """The rounds of each stage in which others took no more than so many cores."""
    most_seconds = others_cores * summary.get("settings", {}).get("duration_seconds", math.inf)
    return {
        stage["name"]: [
            found for found in stage["rounds"] if found.get("cpu_seconds_of_others", 0) <= most_seconds
        ]
        for stage in summary["stages"]
    }


def judged(figure: str) -> Least | None:
    if figure.startswith("kinds."):
        figure = figure.rpartition(".")[2]
        return JUDGED[figure] if figure in _OF_A_KIND else None
    return JUDGED.get(figure)


def difference(
    stage: str, figure: str, first: Sequence[float], second: Sequence[float], least: Least
) -> Difference:
    apart = max(first) < min(second) or max(second) < min(first)
    amount = median(second) - median(first)
    real = apart and abs(amount) > max(least.amount, least.part * abs(median(first)))
    return Difference(stage, figure, tuple(first), tuple(second), real, real and amount * least.worse > 0)


def read(path: Path) -> dict[str, Any]:
    """A summary, by its path or its folder's. Raises `SystemExit` where there is none."""
    file = path / "summary.json" if path.is_dir() else path
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"{file} is no summary of a benchmark: {error}") from error
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path, help="a folder of results, or its summary.json")
    parser.add_argument("second", type=Path, help="another; differences are this one's from the first")
    parser.add_argument("--all", action="store_true", help="also what does not differ")
    parser.add_argument("--fail-if-slower", action="store_true", help="exit with 1 where the second is worse")
    about = "leave rounds out in which others took more cores of the machine (%(default)s)"
    parser.add_argument("--others", type=float, default=MUCH_OF_OTHERS_CORES, metavar="CORES", help=about)
    options = parser.parse_args(arguments)
    first, second = read(options.first), read(options.second)
    for line in unlike(first, second):
        print(f"not alike: {line}")
    found = compare(first, second, options.others)
    common = [stage["name"] for stage in first["stages"] if stage["name"] in quiet(second, options.others)]
    if not common:
        raise SystemExit("the two have no stage in common")
    disturbed = [name for name in common if name not in {each.stage for each in found}]
    for name in disturbed:
        print(
            f"not judged: {name}: others took more than {options.others} cores of the machine in every round"
        )
    shown = [each for each in found if options.all or each.real]
    if shown:
        print(as_table(shown))
    worse = [each for each in found if each.worse]
    real = sum(each.real for each in found)
    print(f"\n{len(found)} figures; {real} differ by more than noise, {len(worse)} for the worse.")
    print(
        f"Medians differ by up to {largest(found, 'p50_ms'):.1%} at p50, {largest(found, 'p99_ms'):.1%} at p99."
    )
    if worse and options.fail_if_slower:
        return 1
    return 2 if disturbed else 0


def unlike(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    """Settings and machines that differ: then the figures say little of the code."""
    for part in ("settings", "machine", "versions"):
        for name in sorted({*first.get(part, {}), *second.get(part, {})}):
            one, other = first.get(part, {}).get(name), second.get(part, {}).get(name)
            if one != other:
                yield f"{part}: {name} is {one}, and {other}"


def largest(found: Sequence[Difference], figure: str) -> float:
    """The largest change of this figure in a stage, as a part of what it was."""
    changes = [
        abs(each.amount) / abs(median(each.first))
        for each in found
        if each.figure == figure and any(each.first)
    ]
    return max(changes, default=0.0)


def as_table(found: Sequence[Difference]) -> str:
    rows = [
        [
            each.stage,
            each.figure,
            _spread(each.first),
            _spread(each.second),
            f"{each.amount:+.2f}",
            each.verdict,
        ]
        for each in found
    ]
    return table(["stage", "figure", "first (rounds)", "second (rounds)", "difference", "verdict"], rows)


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    sys.exit(main())
