"""The benchmark as a person runs it, as small as it can be: two stages, two seconds each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from bench.run.budgets import find_place

ROOT = Path(__file__).resolve().parents[2]
NODES = {f"shard-{number}-{letter}" for number in (0, 1) for letter in "abc"}
SETTINGS = {
    "RATE": "20",
    "DURATION": "2s",
    "WARM_UP": "0",
    "STAGES": "baseline,everything",
    "SESSIONS": "8",
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    data = {"STORES": "4", "PRODUCTS": "80", "ORDERS": "40"}
    environ = {**os.environ, **SETTINGS, **data, "OUT": str(folder), "REDIS_PATIENCE_SECONDS": "0.5"}
    ran = subprocess.run(
        [sys.executable, "-m", "bench.run", "--no-fsync", "--budget-postgres=0.5", "--budget-redis=0.5"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return folder


@pytest.fixture(scope="module")
def stages(out: Path) -> dict[str, dict[str, Any]]:
    summary = json.loads((out / "summary.json").read_text())
    return {stage["name"]: stage for stage in summary["stages"]}


def test_requests_are_answered_and_none_wrong(stages: dict[str, dict[str, Any]]) -> None:
    for stage in stages.values():
        assert 38 <= stage["requests"] <= 42
        assert stage["wrong_answers"] == 0
        assert stage["error_rate"] < 0.1, stage["errors"]  # on a busy machine something may be late
        assert stage["faults"] == []


def test_the_flags_are_in_force_while_a_stage_is_measured(stages: dict[str, dict[str, Any]]) -> None:
    baseline, everything = stages["baseline"], stages["everything"]
    assert baseline["served_by"].keys() - {"cache"} == {"shard-0-a"}
    assert baseline["cache_hit_rate"] is None
    assert {"shard-0-a", "shard-1-a"} < everything["served_by"].keys()
    assert everything["cache_hit_rate"] > 0


def test_what_the_servers_counted_is_by_node(stages: dict[str, dict[str, Any]]) -> None:
    for stage in stages.values():
        assert stage["statements"].keys() == stage["rows"].keys() == stage["wal_bytes"].keys() == NODES
        assert stage["wal_bytes"]["shard-0-a"] > 0
        assert stage["wal_bytes"]["shard-0-b"] > 0


def test_what_the_processes_spent_is_by_kind(stages: dict[str, dict[str, Any]]) -> None:
    for stage in stages.values():
        assert stage["cpu_seconds"].keys() == {"http", "postgres", "redis", "k6"}
        # Redis may have less to do in two seconds than the kernel's clock tells.
        assert all(spent > 0 for kind, spent in stage["cpu_seconds"].items() if kind != "redis")
        assert stage["cpu_seconds_by_node"].keys() >= NODES | {"redis", "lock-0", "http"}


def test_the_result_says_what_it_was_measured_with(out: Path) -> None:
    summary = json.loads((out / "summary.json").read_text())
    assert summary["settings"]["rate"] == 20
    assert summary["versions"]["k6"]
    assert summary["settings"]["budgets_enforced"] == (find_place() is not None)
    assert "<html" in (out / "k6-baseline.html").read_text()


def test_nothing_is_left_behind(out: Path) -> None:
    assert out.exists()
    left = [
        path for path in Path(tempfile.gettempdir()).glob("infinite-scaling-bench-*") if _is_nobodys(path)
    ]
    assert left == []
    if place := find_place():
        assert [path for path in place.folder.glob("infinite-scaling-bench-*") if _is_nobodys(path)] == []


def _is_nobodys(path: Path) -> bool:
    """Another run, beside this one, has its own."""
    maker = path.name.removeprefix("infinite-scaling-bench-").partition("-")[0]
    return not Path(f"/proc/{maker}").exists()
