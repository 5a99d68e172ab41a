"""What one sees, in sentences that follow from the figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.report.compare import Difference, Verdict, difference
from bench.report.numerals import count, milliseconds, percent, plain, volume
from bench.report.shifts import MOST_NODES, shifts
from bench.report.summary import Stage, Summary

# What is less than this is not worth a sentence; the tables have it.
_LEAST_THROTTLED = 0.05
_LEAST_POOL_WAIT_MS = 10
_SAY_AS_FACTOR = 1.5
_ALL_FLOW, _GOOD_FLOW = "requests_per_second", "good_requests_per_second"


@dataclass(frozen=True, slots=True)
class Remark:
    """A sentence or two. `stage` is the one it is about; `bad` what a reader must not miss."""

    text: str
    stage: str = ""
    bad: bool = False


def what_one_sees(summary: Summary) -> list[Remark]:
    """The whole of it: what was wrong, then first against last, then how much to believe."""
    stages = summary.stages
    if not stages:
        return [Remark("No stage was measured.", bad=True)]
    remarks = [*_wrong(stages)]
    if len(stages) > 1:
        first, last = stages[0], stages[-1]
        told = f"From {first.name} to {last.name}: {_against(first, last)}"
        remarks += [Remark(told, bad=not last.answered), *_steps(stages)]
    else:
        remarks.append(Remark(f"Only {stages[0].name} was measured: there is nothing to compare it with."))
    remarks.extend(_credence(summary))
    return remarks


def of_stage(stage: Stage, before: Stage | None) -> list[Remark]:
    """What is to be said of one stage, against the one before it."""
    found = [*_health(stage)]
    if before is not None and stage.answered:
        found.append(_change(before, stage))
        found.extend(_moved(before, stage))
    found.extend(Remark(text) for text in _layers(stage))
    return [Remark(remark.text, stage.name, remark.bad) for remark in found]


def _wrong(stages: Sequence[Stage]) -> Iterator[Remark]:
    for stage in stages:
        if wrong := stage.get("wrong_answers"):
            yield Remark(
                f"{count(wrong)} answers were wrong. However fast they came, nothing else here counts before"
                " that is explained.",
                stage.name,
                bad=True,
            )
        for fault in stage.faults:
            yield Remark(f"The data was not whole afterwards: {fault}", stage.name, bad=True)
    if stages and all(stage.get("wrong_answers") == 0 and not stage.faults for stage in stages):
        yield Remark("No answer was wrong, and the data was whole after each stage.")


def _against(first: Stage, last: Stage) -> str:
    if not last.answered:
        return f"{last.name} answered nothing that could be compared."
    if not first.answered:
        return f"{first.name} answered nothing that could be compared."
    return "; ".join(_sentences(first, last)) + "."


def _steps(stages: Sequence[Stage]) -> Iterator[Remark]:
    """Which step helped the most at p99, which did harm, and which cannot be told."""
    steps = [
        (after.name, found)
        for before, after in pairwise(stages)
        if before.answered and after.answered and (found := difference(before, after, "p99_ms"))
    ]
    better = [(found.factor or 0.0, name) for name, found in steps if found.verdict is Verdict.BETTER]
    worse = [name for name, found in steps if found.verdict is Verdict.WORSE]
    noise = [name for name, found in steps if found.verdict is Verdict.NOISE]
    if better and len(steps) > 1:
        factor, best = max(better)
        yield Remark(f"At p99 {best} helped the most{f': by a factor of {plain(factor)}' if factor else ''}.")
    if worse:
        yield Remark(f"Worse at p99 than the stage before: {', '.join(worse)}.", bad=True)
    if noise:
        yield Remark(f"At p99 not to be told from noise: {', '.join(noise)}.")


def _credence(summary: Summary) -> Iterator[Remark]:
    rounds = max((len(stage.rounds) for stage in summary.stages), default=0)
    if rounds > 1:
        yield Remark(
            f"Figures are medians of {rounds} rounds. A difference counts as one where the rounds of both stages do not"
            " overlap and the medians are 5 % apart; all else is called noise."
        )
    elif all(stage.range_of("p99_ms") is None for stage in summary.stages):
        yield Remark("There was one round of each stage: how far two rounds would differ is not known, so no difference"
                     " can be told from noise.", bad=True)  # fmt: skip
    yield from _budgets(summary)
    overloaded = [stage.name for stage in summary.stages if stage.get("dropped_iterations")]
    if overloaded:
        yield Remark(
            f"Overloaded: {', '.join(overloaded)}. There, latency is that of a full queue: it says how long the queue"
            " was allowed to get, not how fast the service is. Compare the throughput."
        )


def _budgets(summary: Summary) -> Iterator[Remark]:
    enforced, how = summary.settings.get("budgets_enforced"), summary.settings.get("budgets_by")
    if enforced is True:
        yield Remark(f"Each node had a CPU budget{f' ({how})' if how else ''}: a node more is capacity more.")
    elif enforced is False:
        yield Remark(
            "No node had a CPU budget: all of them share the machine's. A replica or a shard more adds no capacity"
            " here, and work that moves from one node to another gains nothing by that.",
            bad=True,
        )


def _health(stage: Stage) -> Iterator[Remark]:
    if not stage.answered:
        yield Remark("No request was answered as it should be: there is no latency to speak of.", bad=True)
    if dropped := stage.get("dropped_iterations"):
        share = dropped / (dropped + stage.requests)
        yield Remark(
            f"It was overloaded: {count(dropped)} requests ({percent(share)} of the load) were never sent, since"
            " every virtual user was still waiting for an answer.",
            bad=True,
        )
    if held := _held_back(stage):
        yield Remark(f"Held back by the CPU budget: {held}.")
    rate = stage.get("error_rate")
    if rate:
        kinds = sorted(stage.errors.items(), key=lambda item: -item[1])[:MOST_NODES]
        which = ", ".join(f"{kind} ({count(n)})" for kind, n in kinds)
        rounds = f", in {len(stage.rounds)} rounds" if which and len(stage.rounds) > 1 else ""
        yield Remark(
            f"{percent(rate)} of the requests were errors{which and f': {which}'}{rounds}.", bad=True
        )


def _held_back(stage: Stage) -> str:
    seconds = stage.seconds
    least = _LEAST_THROTTLED * seconds if seconds else 0
    nodes = sorted(
        ((n, s) for n, s in stage.throttled_seconds.items() if s > least), key=lambda pair: -pair[1]
    )
    return ", ".join(f"{node} for {plain(s)} s" for node, s in nodes[:MOST_NODES]) + (
        f" in a stage of {plain(seconds)} s" if nodes and seconds else ""
    )


def _change(before: Stage, stage: Stage) -> Remark:
    if not before.answered:
        return Remark(f"{before.name} answered nothing that it could be compared with.")
    found = [difference(before, stage, figure) for figure in ("p99_ms", _flow(before, stage))]
    verdicts = {each.verdict for each in found if each}
    if not verdicts:
        return Remark(f"It has no figures to compare with {before.name}.")
    worse = Verdict.WORSE in verdicts
    start = f"Against {before.name}"
    if worse:
        start = f"{'In one thing worse' if Verdict.BETTER in verdicts else 'Worse'} than {before.name}"
    elif verdicts == {Verdict.NOISE}:
        start = f"No difference to {before.name} that could be told from noise"
    return Remark(f"{start}: {'; '.join(_sentences(before, stage))}.", bad=worse)


def _sentences(before: Stage, after: Stage) -> list[str]:
    flow = _flow(before, after)
    told = (
        _sentence(before, after, "p99_ms", "p99", "ms"),
        _sentence(before, after, flow, "throughput" if flow == _ALL_FLOW else "good answers", "a second"),
    )
    return [sentence for sentence in told if sentence]


def _flow(before: Stage, after: Stage) -> str:
    """Good answers where both were counted: who refuses everything at once answers the most a second."""
    return _GOOD_FLOW if all(stage.get(_GOOD_FLOW) is not None for stage in (before, after)) else _ALL_FLOW


def _sentence(before: Stage, after: Stage, figure: str, name: str, unit: str) -> str:
    found = difference(before, after, figure)
    if found is None:
        return ""
    a, b = (
        (milliseconds if unit == "ms" else plain)(found.before),
        (milliseconds if unit == "ms" else plain)(found.after),
    )
    if a == b:
        return f"{name} stayed at {b} {unit}"
    if found.verdict is Verdict.NOISE:
        return f"{name} is within noise ({a} and {b} {unit})"
    verb = "rose" if found.rose else "fell"
    by = f", {_by(found)}" if found.factor else ""
    doubt = ", by one round each" if found.verdict is Verdict.UNKNOWN else ""
    return f"{name} {verb} from {a} to {b} {unit}{by}{doubt}"


def _by(found: Difference) -> str:
    if found.factor and found.factor >= _SAY_AS_FACTOR:
        return f"by a factor of {plain(found.factor)}"
    return f"by {percent(abs(found.after - found.before) / found.before)}"


def _moved(before: Stage, stage: Stage) -> Iterator[Remark]:
    """What left which node, and where it went, for each request: an overloaded stage has fewer of them."""
    for title, unit, scale, of in (
        ("Statements", "for 1,000 requests", 1000, (before.statements, stage.statements)),
        ("CPU", "ms a request", 1000, (before.database_cpu_seconds, stage.database_cpu_seconds)),
    ):
        less, more = shifts(before, stage, of, scale)
        if less or more:
            told = "; ".join(
                f"{word} on " + ", ".join(f"{node} ({plain(a)} → {plain(b)})" for node, a, b in nodes)
                for word, nodes in (("less", less), ("more", more))
                if nodes
            )
            yield Remark(f"{title}, {unit}: {told}.")


def _layers(stage: Stage) -> Iterator[str]:
    if (hits := stage.get("cache_hit_rate")) is not None:
        yield f"The cache answered {percent(hits)} of what it was asked."
    lag = stage.replica_lag_bytes.get("max")
    if lag and stage.flags.get("read_replicas", True):
        usual = stage.replica_lag_bytes.get("p50")
        often = f", {volume(usual)} half of the time" if usual is not None else ""
        yield f"Replicas were behind by {volume(lag)} at most{often}."
    if (waited := stage.pool_wait_ms.get("p99", 0.0)) >= _LEAST_POOL_WAIT_MS:
        yield f"One request in a hundred waited {milliseconds(waited)} ms or longer for a connection."
