"""What an experiment is: variants of one thing, the last of them the cure, and one figure to tell them apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.ground import Ground

Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to do it. `run` gives figures by name, a unit at the end of each name that has one; the headline too."""

    title: str
    run: Callable[[Ground], Figures]


@dataclass(frozen=True, slots=True)
class Found:
    """What one variant came to."""

    title: str
    figures: Figures


@dataclass(frozen=True, slots=True)
class Experiment:
    """`figure` is the name, among each variant's figures, of the number that the pattern is about.

    `naive` are the variants without the pattern, the plainest first, and `cure` is the one with it. `held` says whether
    the numbers of the first and of the last show both: that there is something to prevent, and that it is prevented.
    `picture` draws what was found, in lines of text.
    """

    name: str
    shows: str
    story: str
    figure: str
    naive: Sequence[Variant]
    cure: Variant
    held: Callable[[float, float], bool]
    picture: Callable[[Sequence[Found]], str]


@dataclass(frozen=True, slots=True)
class Outcome:
    experiment: Experiment
    found: Sequence[Found]

    @property
    def without(self) -> float:
        return float(self.found[0].figures[self.experiment.figure])

    @property
    def with_pattern(self) -> float:
        return float(self.found[-1].figures[self.experiment.figure])

    @property
    def held(self) -> bool:
        return self.experiment.held(self.without, self.with_pattern)

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "lab": self.experiment.name,
            "figure": self.experiment.figure,
            "without": self.without,
            "with": self.with_pattern,
            "held": self.held,
            "variants": [{"title": found.title, **found.figures} for found in self.found],
        }


def run_experiment(
    experiment: Experiment, ground: Ground, *, cured: bool = True, report: Callable[[str], None]
) -> Outcome:
    """All variants, one after the other. `report` gets a line before each.

    Not `cured`: the plainest is done twice, the second time in the cure's place, to see that the experiment notices.
    """
    plainest = experiment.naive[0]
    found = []
    for variant in (*experiment.naive, experiment.cure) if cured else (plainest, plainest):
        report(variant.title)
        found.append(Found(variant.title, variant.run(ground)))
    return Outcome(experiment, found)
