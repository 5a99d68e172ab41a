"""Budgets on a made-up tree of control groups: what would be written where."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.run.budgets import Budgets, Place, find_place

CORES = {"shard-0-a": 0.12, "redis": 0.5, "http": 0.0}


@pytest.fixture
def version_1(tmp_path: Path) -> Path:
    """Controllers mounted one by one, as `/sys/fs/cgroup` was until version 2 took its place."""
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1")
    (tmp_path / "own").write_text("2:cpuacct:/\n1:cpu:/\n0::/\n")
    return tmp_path


@pytest.fixture
def version_2(tmp_path: Path) -> Path:
    """This process in a scope of a user's session, of which the slice above is the user's own."""
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory")
    user = tmp_path / "user.slice" / "app.slice"
    (user / "run.scope").mkdir(parents=True)
    (user / "cgroup.subtree_control").write_text("cpu memory")
    (tmp_path / "own").write_text("0::/user.slice/app.slice/run.scope\n")
    return tmp_path


def test_version_1_is_found_by_its_mounted_controller(version_1: Path) -> None:
    assert find_place(version_1, version_1 / "own") == Place(1, version_1 / "cpu")


def test_version_1_is_found_in_a_container_that_sees_its_own_group_as_the_root(version_1: Path) -> None:
    (version_1 / "own").write_text("4:cpu,cpuacct:/docker/1234\n")
    assert find_place(version_1, version_1 / "own") == Place(1, version_1 / "cpu")


def test_version_2_groups_are_made_beside_this_processs_own(version_2: Path) -> None:
    assert find_place(version_2, version_2 / "own") == Place(2, version_2 / "user.slice" / "app.slice")


def test_a_group_that_does_not_hand_on_the_controller_is_asked_to(version_2: Path) -> None:
    control = version_2 / "user.slice" / "app.slice" / "cgroup.subtree_control"
    control.write_text("memory")
    assert find_place(version_2, version_2 / "own") is not None
    assert control.read_text() == "+cpu"


def test_there_is_no_place_without_control_groups(tmp_path: Path) -> None:
    assert find_place(tmp_path, tmp_path / "own") is None
    (tmp_path / "own").write_text("0::/\n")
    assert find_place(tmp_path, tmp_path / "own") is None


def test_there_is_no_place_where_no_group_can_be_made(version_1: Path) -> None:
    (version_1 / "cpu").rename(version_1 / "elsewhere")
    (version_1 / "cpu").write_text("no folder")
    assert find_place(version_1, version_1 / "own") is None


def test_version_1_gets_quota_and_period(version_1: Path) -> None:
    budgets = Budgets(Place(1, version_1), CORES, period_ms=10).__enter__()
    budgets.enforce()
    assert files(version_1, "shard-0-a") == {"cpu.cfs_period_us": "10000", "cpu.cfs_quota_us": "1200"}
    budgets.lift()
    assert files(version_1, "shard-0-a")["cpu.cfs_quota_us"] == "-1"


def test_a_kernel_that_can_carries_over_what_was_not_used(version_1: Path) -> None:
    budgets = Budgets(Place(1, version_1), CORES, period_ms=10).__enter__()
    (group(version_1, "redis") / "cpu.cfs_burst_us").write_text("0")
    budgets.enforce()
    assert files(version_1, "redis")["cpu.cfs_burst_us"] == "5000"
    budgets.lift()
    assert files(version_1, "redis")["cpu.cfs_burst_us"] == "0"


def test_version_2_gets_quota_and_period_in_one_file(version_2: Path) -> None:
    budgets = Budgets(Place(2, version_2), CORES, period_ms=10).__enter__()
    budgets.enforce()
    assert files(version_2, "redis")["cpu.max"] == "5000 10000"
    budgets.lift()
    assert files(version_2, "redis")["cpu.max"] == "max 10000"


def test_a_budget_below_the_smallest_quota_gets_a_longer_period(version_2: Path) -> None:
    budgets = Budgets(Place(2, version_2), {"lock-0": 0.05}, period_ms=10).__enter__()
    budgets.enforce()
    assert files(version_2, "lock-0")["cpu.max"] == "1000 20000"


def test_a_budget_of_nothing_is_no_limit_and_needs_no_group(version_2: Path) -> None:
    Budgets(Place(2, version_2), CORES, period_ms=10).__enter__()
    assert {path.name for path in group(version_2, "redis").parent.iterdir() if path.is_dir()} == {
        "shard-0-a",
        "redis",
    }


def test_processes_are_taken_in_until_none_is_new(version_2: Path) -> None:
    budgets = Budgets(Place(2, version_2), CORES, period_ms=10).__enter__()
    listed = iter([[10, 11], [10, 11, 12], [10, 11, 12]])
    budgets.adopt("redis", lambda: next(listed))
    assert files(version_2, "redis")["cgroup.procs"] == "12"
    with pytest.raises(StopIteration):
        next(listed)


@pytest.mark.parametrize(
    ("version", "text", "seconds"),
    [
        (1, "nr_periods 9\nthrottled_time 2500000000\n", 2.5),
        (2, "usage_usec 7\nthrottled_usec 2500000\n", 2.5),
    ],
)
def test_throttled_time_is_in_seconds(tmp_path: Path, version: int, text: str, seconds: float) -> None:
    budgets = Budgets(Place(version, tmp_path), {"redis": 0.5}, period_ms=10).__enter__()
    (group(tmp_path, "redis") / "cpu.stat").write_text(text)
    assert budgets.throttled_seconds() == {"redis": seconds}


def test_without_a_place_nothing_is_limited_and_that_is_said() -> None:
    with Budgets(None, CORES, period_ms=10) as budgets:
        budgets.adopt("redis", lambda: [1])
        budgets.enforce()
        budgets.lift()
        assert not budgets.enforced
        assert budgets.throttled_seconds() == {}
        assert "share the machine" in budgets.how


def group(root: Path, name: str) -> Path:
    (found,) = root.glob(f"infinite-scaling-bench-*/{name}")
    return found


def files(root: Path, name: str) -> dict[str, str]:
    return {path.name: path.read_text() for path in group(root, name).iterdir()}
