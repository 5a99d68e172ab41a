"""What the benchmark's report says, of results made up here: honest about noise, and about what got worse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.report.compare import Verdict, difference
from bench.report.summary import Stage, read_summary
from bench.report.words import of_stage, what_one_sees
from tests.summaries import stage, summary


def sees(folder: Path, document: object) -> list[str]:
    """All that is said, in its order."""
    (folder / "summary.json").write_text(json.dumps(document), encoding="utf-8")
    found = read_summary(folder / "summary.json")
    of_stages = [
        each for n, s in enumerate(found.stages) for each in of_stage(s, found.stages[n - 1] if n else None)
    ]
    return [remark.text for remark in (*what_one_sees(found), *of_stages)]


def read(folder: Path, *stages: dict[str, Any]) -> list[Stage]:
    (folder / "summary.json").write_text(json.dumps(summary(*stages)), encoding="utf-8")
    return list(read_summary(folder / "summary.json").stages)


def said(before: Stage, after: Stage) -> str:
    return " ".join(remark.text for remark in of_stage(after, before))


def test_what_rounds_do_not_tell_apart_is_called_noise(tmp_path: Path) -> None:
    before, after = read(tmp_path, stage("+replicas", 310), stage("+cache", 305))
    assert "p99 is within noise (310 and 305 ms)" in said(before, after)
    assert "No difference to +replicas that could be told from noise" in said(before, after)


def test_rounds_that_overlap_are_noise_however_far_the_medians_are_apart(tmp_path: Path) -> None:
    wide = [
        stage(str(n), p99, rounds=[{"p99_ms": v} for v in (50, p99, 400)]) for n, p99 in enumerate((100, 300))
    ]
    before, after = read(tmp_path, *wide)
    found = difference(before, after, "p99_ms")
    assert found is not None
    assert found.verdict is Verdict.NOISE


def test_a_difference_of_less_than_a_twentieth_is_noise_however_quiet_the_rounds(tmp_path: Path) -> None:
    quiet = [[{"p99_ms": value}, {"p99_ms": value}] for value in (100, 104, 106)]
    near = read(tmp_path, *(stage(str(n), each[0]["p99_ms"], rounds=each) for n, each in enumerate(quiet)))
    found = [difference(near[0], other, "p99_ms") for other in near[1:]]
    assert [each and each.verdict for each in found] == [Verdict.NOISE, Verdict.WORSE]


def test_a_stage_that_got_worse_is_said_to_be_worse(tmp_path: Path) -> None:
    before, after = read(tmp_path, stage("+sharding", 61), stage("everything", 80))
    remarks = of_stage(after, before)
    worse = [
        remark
        for remark in remarks
        if "Worse than +sharding: p99 rose from 61 to 80 ms, by 31.1 %" in remark.text
    ]
    assert [remark.bad for remark in worse] == [True]


def test_more_requests_a_second_are_better(tmp_path: Path) -> None:
    slow = stage("a", 10, requests_per_second=500, rounds=[{"requests_per_second": 500}] * 2)
    fast = stage("b", 10, requests_per_second=900, rounds=[{"requests_per_second": 900}] * 2)
    before, after = read(tmp_path, slow, fast)
    found = difference(before, after, "requests_per_second")
    assert found is not None
    assert found.verdict is Verdict.BETTER


def test_many_refusals_a_second_are_no_throughput(tmp_path: Path) -> None:
    good = stage("a", 10, requests_per_second=500, good_requests_per_second=500)
    refusing = stage("b", 10, requests_per_second=900, good_requests_per_second=90)
    for each in (good, refusing):
        each["rounds"] = [
            {k: each[k] for k in ("p99_ms", "requests_per_second", "good_requests_per_second")}
        ] * 2
    before, after = read(tmp_path, good, refusing)
    assert "Worse than a: p99 stayed at 10 ms; good answers fell from 500 to 90 a second" in said(
        before, after
    )


def test_errors_of_all_rounds_are_shown_by_their_share_of_one(tmp_path: Path) -> None:
    (found,) = read(tmp_path, stage("a", 10, requests=1000, error_rate=0.1, errors={"503": 225, "429": 75}))
    assert found.errors_by_share == {"503": 75, "429": 25}


@pytest.mark.parametrize(
    ("enforced", "told"),
    [
        (True, "Each node had a CPU budget"),
        (False, "No node had a CPU budget: all of them share the machine's."),
    ],
)
def test_it_says_whether_a_node_more_was_capacity_more(tmp_path: Path, *, enforced: bool, told: str) -> None:
    document = summary(stage("baseline", 10), settings={"budgets_enforced": enforced})
    assert any(text.startswith(told) for text in sees(tmp_path, document))


def test_with_one_round_no_difference_is_claimed_without_a_doubt(tmp_path: Path) -> None:
    one = [
        stage(name, p99, rounds=[{"p99_ms": p99}])
        for name, p99 in (("baseline", 400.0), ("everything", 40.0))
    ]
    told = " ".join(sees(tmp_path, summary(*one)))
    assert "no difference can be told from noise" in told
    assert "p99 fell from 400 to 40 ms, by a factor of 10, by one round each" in told


def test_the_spread_stands_in_for_rounds_that_are_not_listed(tmp_path: Path) -> None:
    (found,) = read(tmp_path, stage("baseline", 10, rounds=[], spread={"p99_ms": [9, 12]}))
    assert found.range_of("p99_ms") == (9, 12)


def test_what_left_one_node_and_came_to_another_is_counted_for_each_request(tmp_path: Path) -> None:
    before, after = read(
        tmp_path,
        stage("baseline", 10, requests=1000, statements={"shard-0-a": 2000, "shard-0-b": 0}),
        stage("+replicas", 10, requests=2000, statements={"shard-0-a": 1000, "shard-0-b": 3000}),
    )
    expected = (
        "Statements, for 1,000 requests: less on shard-0-a (2,000 → 500); more on shard-0-b (0 → 1,500)."
    )
    assert expected in said(before, after)


def test_the_service_s_own_cpu_does_not_hide_that_of_the_databases(tmp_path: Path) -> None:
    cpu = {"http": 30.0, "shard-0-a": 2.0}
    before, after = read(
        tmp_path,
        stage("baseline", 10, statements={"shard-0-a": 9}, cpu_seconds_by_node=cpu),
        stage("+cache", 10, statements={"shard-0-a": 9}, cpu_seconds_by_node={**cpu, "shard-0-a": 1.0}),
    )
    assert "CPU, ms a request: less on shard-0-a (0.0667 → 0.0333)." in said(before, after)


def test_a_stage_without_a_good_answer_is_told_as_such(tmp_path: Path) -> None:
    dead = stage(
        "baseline", None, error_rate=1, errors={"connection refused": 30000}, over_time=[], percentiles=[], rounds=[]
    )  # fmt: skip
    for stages in ((dead,), (dead, stage("+replicas", 20)), (stage("+replicas", 20), dead)):
        told = sees(tmp_path, summary(*stages))
        assert "No request was answered as it should be: there is no latency to speak of." in told
        assert "100 % of the requests were errors: connection refused (30,000)." in told


def test_wrong_answers_and_broken_data_come_first(tmp_path: Path) -> None:
    broken = stage("baseline", 10, wrong_answers=3, faults=["stock of store 7: 9, not 10"])
    told = sees(tmp_path, summary(broken))
    assert "3 answers were wrong" in told[0]
    assert "stock of store 7: 9, not 10" in told[1]
