"""From k6's lines to the figures of a round, and from rounds to medians and spread."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from bench.run import figures
from bench.run.limit import following, is_borne
from bench.run.options import parse, seconds
from bench.run.trace import Request, quantile, read
from bench.run.trace import figures as figures_of

LINES = [
    "prepared\t1000000",
    "placed\to0",
    "begun\tk1",
    "request\tload\tplace order\t1001200\t201\t12.50\t-\tright\t-\tshard-0-a\t0.40\to1",
    "begun\tk2",
    "request\tload\tplace order\t1001300\t409\t3.00\t1409\tshort\t-\tshard-0-a\t0.10\t-",
    "begun\tk3",
    "request\tload\tplace order\t1002300\t0\t10000.00\t1050\twrong\t-\t-\t-\t-",
    "begun\tk4",  # broken off with its scenario
    "request\twarm_up\tlist products\t1000300\t200\t1.00\t-\tright\tmiss\tshard-0-b\t0.05\t-",
    "request\tload\tlist products\t1001900\t200\t2.00\t-\tright\thit\tcache\t-\t-",
    "request\tload\tlist products\t1002900\t503\t1000.00\t1503\twrong\tmiss\t-\t1000.00\t-",
    "request\tload\tread product\t1002950\t200\t1.00\t-\twrong\tmiss\tshard-0-b\t0.02\t-",
    "a wrong answer: GET http://127.0.0.1",
]


def measured() -> dict[str, Any]:
    requests = [request for request in read(LINES).requests if request.scenario == "load"]
    return figures_of(requests, 2.0, 1001.0)


def test_orders_that_nobody_was_told_of_are_in_doubt() -> None:
    told = read(LINES).told
    assert told.placed == {"o0", "o1"}
    assert (told.sent, told.refused, told.in_doubt) == (5, 1, 2)


def test_what_k6_itself_says_is_kept() -> None:
    assert read(LINES).others == ["a wrong answer: GET http://127.0.0.1"]


def test_errors_are_named_by_status_or_reason() -> None:
    found = measured()
    assert found["errors"] == {"timeout": 1, "503": 1, "wrong answer": 1}
    assert found["error_rate"] == 3 / 6
    assert (found["wrong_answers"], found["insufficient_stock"]) == (1, 1)
    assert (found["requests_per_second"], found["good_requests_per_second"]) == (3.0, 1.5)


def test_the_cache_is_judged_by_its_own_header_and_the_pool_by_its_wait() -> None:
    found = measured()
    assert found["cache_hit_rate"] == 1 / 3
    assert found["served_by"] == {"shard-0-a": 2, "cache": 1, "shard-0-b": 1}
    assert found["pool_wait_ms"]["p50"] == pytest.approx(0.25)


def test_requests_belong_to_the_second_in_which_they_were_sent() -> None:
    assert [(each["second"], each["requests"], each["errors"]) for each in measured()["over_time"]] == [
        (0, 3, 0),
        (1, 3, 3),
    ]


def test_a_quantile_lies_between_the_two_nearest_values() -> None:
    assert quantile([1.0, 2.0, 3.0, 4.0], 50) == 2.5
    assert quantile([1.0, 2.0], 100) == 2.0
    assert quantile([], 50) is None


def test_nothing_measured_is_no_figure_and_no_failure() -> None:
    assert figures_of([], 1.0, 0.0)["p99_ms"] is None
    assert figures_of([], 1.0, 0.0)["error_rate"] == 0


def of_round(p99_ms: float, *, wrong: int = 0, errors: dict[str, int] | None = None) -> dict[str, Any]:
    request = Request("load", "read cart", 1.0, 200, p99_ms, "-", "right", None, None, None)
    found = figures_of([request], 1.0, 1.0)
    return {
        **found,
        "wrong_answers": wrong,
        "errors": errors or {},
        "cpu_seconds": {"http": p99_ms / 10},
        "faults": ["lost"] if wrong else [],
    }


def test_a_stage_has_the_medians_of_its_rounds_and_their_spread() -> None:
    stage = figures.stage("baseline", {}, [of_round(10), of_round(30), of_round(20)])
    assert stage["p99_ms"] == 20
    assert stage["spread"]["p99_ms"] == [10, 30]
    assert stage["spread"]["cpu_seconds.http"] == [1, 3]
    assert stage["spread"]["kinds.read cart.p50_ms"] == [10, 30]
    assert [each["p99_ms"] for each in stage["rounds"]] == [10, 30, 20]
    assert stage["over_time"][0]["p99_ms"] == 20
    assert stage["percentiles"][0] == [50, 20]


def test_a_wrong_answer_of_one_round_is_not_lost_in_the_median() -> None:
    stage = figures.stage("baseline", {}, [of_round(1), of_round(1, wrong=1, errors={"503": 2}), of_round(1)])
    assert stage["wrong_answers"] == 1
    assert stage["errors"] == {"503": 2}
    assert stage["faults"] == ["round 2: lost"]


def test_the_median_of_what_was_not_measured_is_none() -> None:
    assert figures.middle([None, None]) is None
    assert figures.middle([{"p50": None}, {"p50": 3.0}]) == {"p50": 3.0}


def test_the_limit_is_approached_from_both_sides() -> None:
    assert following(400, None) == 520
    assert following(400, 520) == 460
    assert following(500, 520) is None
    assert following(None, 400) == 308
    assert following(None, 1) is None


def test_a_rate_is_borne_without_any_error() -> None:
    good = {"p99_ms": 99.0, "error_rate": 0.0, "dropped_iterations": 0, "faults": []}
    assert is_borne(good)
    for worse in (
        {"p99_ms": 100.0},
        {"p99_ms": None},
        {"error_rate": 0.001},
        {"dropped_iterations": 1},
        {"faults": ["x"]},
    ):
        assert not is_borne({**good, **worse})


def test_a_short_run_has_one_round_and_no_longer_warm_up_than_itself() -> None:
    options = parse([], {"RATE": "200", "DURATION": "3s"})
    assert (options.rate, options.rounds, options.warm_up_seconds) == (200, 1, 3.0)
    assert parse([], {}).rounds == 3
    assert parse(["--rounds=2"], {"ROUNDS": "5"}).rounds == 2


def test_a_budget_goes_with_the_rate_unless_it_is_named() -> None:
    assert parse([], {"RATE": "1000"}).budgets == {"postgres": 0.25, "redis": 0.5, "lock": 0.2, "http": 0.0}
    assert parse([], {"RATE": "200"}).budgets["postgres"] == 0.05
    assert parse(["--budget-postgres=0.4"], {"RATE": "200"}).budgets["postgres"] == 0.4
    assert not any(parse(["--no-budgets"], {}).budgets.values())


def test_stages_run_in_their_order_whatever_order_they_are_named_in() -> None:
    assert parse([], {"STAGES": "everything, baseline"}).stages == ("baseline", "everything")


@pytest.mark.parametrize(
    "environ", [{"STAGES": "all,fast"}, {"RATE": "0"}, {"DURATION": "soon"}, {"BUDGET_POSTGRES": "-1"}]
)
def test_a_wrong_variable_ends_the_program(
    environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse([], environ)
    assert "error" in capsys.readouterr().err


def test_a_duration_is_written_as_k6_writes_it() -> None:
    assert seconds("1m30s") == 90
    assert seconds("500ms") == 0.5
    with pytest.raises(argparse.ArgumentTypeError):
        seconds("30")
