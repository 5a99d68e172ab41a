"""What is called a difference between two results, and what noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.compare import Least, compare, difference, main

MILLISECONDS = Least(1.0, 0.1, 1)


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ([10, 11, 12], [15, 16, 17], "worse"),
        ([15, 16, 17], [10, 11, 12], "better"),
        ([10, 11, 30], [15, 16, 17], ""),  # a round of the first is as slow
        ([10, 11, 12], [12, 13, 14], ""),  # they touch
        ([1.0, 1.1], [1.5, 1.6], ""),  # apart, and too little to matter
        ([100, 101], [105, 106], ""),  # more than a millisecond, less than a tenth
        ([5], [5], ""),
    ],
)
def test_a_difference_is_outside_both_spreads_and_large_enough(
    first: list[float], second: list[float], verdict: str
) -> None:
    assert difference("baseline", "p50_ms", first, second, MILLISECONDS).verdict == verdict


def test_less_is_worse_of_what_one_wants_more_of() -> None:
    assert difference("baseline", "x", [100, 101], [50, 51], Least(1, 0.1, -1)).worse


def summary(p50_ms: float, kind_ms: float, name: str = "baseline") -> dict[str, Any]:
    rounds = [
        {
            "p50_ms": p50_ms + noise,
            "kinds": {"list products": {"p50_ms": kind_ms + noise, "p99_ms": kind_ms * 9}},
        }
        for noise in (0.0, 0.2, 0.4)
    ]
    return {"settings": {"rate": 200}, "stages": [{"name": name, "rounds": rounds}]}


def test_one_slow_kind_of_request_is_found_among_fast_ones() -> None:
    found = compare(summary(3, 4), summary(3.1, 9))
    assert [(each.figure, each.verdict) for each in found if each.real] == [
        ("kinds.list products.p50_ms", "worse")
    ]


def test_stages_that_only_one_has_are_left_out() -> None:
    assert compare(summary(3, 4), summary(3, 4, "everything")) == []


def write(folder: Path, name: str, value: dict[str, Any]) -> str:
    (folder / name).mkdir()
    (folder / name / "summary.json").write_text(json.dumps(value))
    return str(folder / name)


def test_it_fails_only_when_asked_to_and_only_for_the_worse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fast, slow = write(tmp_path, "fast", summary(3, 4)), write(tmp_path, "slow", summary(3, 9))
    assert main([fast, slow]) == 0
    assert main(["--fail-if-slower", fast, slow]) == 1
    assert main(["--fail-if-slower", slow, fast]) == 0
    assert main(["--fail-if-slower", fast, fast]) == 0
    assert "worse" in capsys.readouterr().out


def test_other_settings_are_pointed_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = summary(3, 4)
    other["settings"] = {"rate": 500}
    main([write(tmp_path, "a", summary(3, 4)), write(tmp_path, "b", other)])
    assert "settings: rate is 200, and 500" in capsys.readouterr().out


def disturbed(value: dict[str, Any], cpu_seconds: list[float]) -> dict[str, Any]:
    value["settings"]["duration_seconds"] = 10
    for found, seconds in zip(value["stages"][0]["rounds"], cpu_seconds, strict=True):
        found["cpu_seconds_of_others"] = seconds
    return value


def test_a_round_in_which_others_had_the_machine_is_left_out() -> None:
    slow = summary(3, 9)
    slow["stages"][0]["rounds"][0]["kinds"]["list products"]["p50_ms"] = 3.0
    assert not [each for each in compare(summary(3, 4), slow) if each.real]
    assert [
        each.figure for each in compare(summary(3, 4), disturbed(slow, [5.0, 1.0, 1.0])) if each.real
    ] == ["kinds.list products.p50_ms"]


def test_a_stage_without_a_quiet_round_is_not_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    busy = write(tmp_path, "busy", disturbed(summary(30, 90), [5.0, 6.0, 7.0]))
    fast = write(tmp_path, "fast", summary(3, 4))
    assert main(["--fail-if-slower", fast, busy]) == 2
    assert "not judged: baseline" in capsys.readouterr().out
    assert main(["--fail-if-slower", "--others=1", fast, busy]) == 1


def test_what_is_no_result_ends_the_program(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no summary"):
        main([str(tmp_path), str(tmp_path)])
