"""Figures of several workers, put together as `/metrics` shows them."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]

# A worker: does what each line on its standard input says, and says when it is done.
WORKER = """
import os, signal, sys
from types import SimpleNamespace as Of
import metric_files
metric_files.be_worker(int(sys.argv[1]))
import metrics

class Registry:
    def __init__(self, pools, states, **sent):
        self._pools, self._states, self._sent = pools, states, sent
    def take_statements(self):
        return self._sent
    def pools(self):
        for name, (size, available, waiting) in self._pools.items():
            gauge = Of(size=size, available=available, waiting=waiting)
            yield Of(name=name, gauge=lambda gauge=gauge: gauge)
    def states(self):
        return {
            n: Of(role=r, healthy=h, replay_lag_bytes=b, replay_lag_seconds=b and b / 1024)
            for n, (r, h, b) in self._states.items()
        }

def refresh(registry, away={}, moves=None):
    metrics.refresh(registry, registry.states(), away, moves)

for line in sys.stdin:
    result = eval(line)
    sys.stdout.write(result.decode() if isinstance(result, bytes) else "")
    sys.stdout.write("\\0")
    sys.stdout.flush()
"""


class Worker:
    def __init__(self, folder: Path, number: int) -> None:
        self.number = number
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(number)],
            cwd=ROOT,
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        said = ""
        while not said.endswith("\0"):
            said += self.process.stdout.read(1) or pytest.fail("the worker ended")
        return said[:-1]

    def figures(self) -> dict[str, float]:
        """Every sample by name and labels: `node_up{node="a"}`."""
        found = {}
        for family in text_string_to_metric_families(self.run("metrics.render()")):
            for sample in family.samples:
                labels = ",".join(f'{key}="{value}"' for key, value in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}"] = sample.value
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def working(folder: Path, number: int) -> Iterator[Worker]:
    """One worker, which is killed at the end."""
    worker = Worker(folder, number)
    try:
        yield worker
    finally:
        worker.kill()


@contextmanager
def workers(folder: Path, count: int) -> Iterator[list[Worker]]:
    with ExitStack() as stack:
        yield [stack.enter_context(working(folder, number)) for number in range(1, count + 1)]


REQUEST = "metrics.observe_request('GET', '/v1/stores/{store_id}', 200, 0.004)"
COUNTED = 'http_requests_total{method="GET",route="/v1/stores/{store_id}",status="200"}'
TIMED = 'http_request_duration_seconds_count{method="GET",route="/v1/stores/{store_id}",shard="none"}'


def test_counters_add_up_over_workers_and_outlive_a_killed_one(tmp_path: Path) -> None:
    with workers(tmp_path, 3) as (first, second, third):
        for worker, times in ((first, 2), (second, 3), (third, 4)):
            for _ in range(times):
                worker.run(REQUEST)
        assert first.figures()[COUNTED] == 9
        third.kill()
        first.run(f"metric_files.forget_worker({third.number})")
        assert second.figures()[COUNTED] == 9
        assert second.figures()[TIMED] == 9


def test_pools_are_summed_over_the_living_workers(tmp_path: Path) -> None:
    with workers(tmp_path, 2) as (first, second):
        for worker, waiting in ((first, 1), (second, 4)):
            worker.run(f"refresh(Registry({{'shard-0-primary': (10, 7, {waiting})}}, {{}}))")
        figures = first.figures()
        assert figures['pool_connections{pool="shard-0-primary",state="available"}'] == 14
        assert figures['pool_connections{pool="shard-0-primary",state="in_use"}'] == 6
        assert figures['pool_waiting{pool="shard-0-primary"}'] == 5
        second.kill()
        first.run(f"metric_files.forget_worker({second.number})")
        assert first.figures()['pool_waiting{pool="shard-0-primary"}'] == 1


def test_lag_is_the_latest_look_and_a_node_is_up_only_if_all_see_it_so(tmp_path: Path) -> None:
    with workers(tmp_path, 2) as (first, second):
        first.run("refresh(Registry({}, {'shard-0-b': ('replica', True, 4096)}))")
        second.run("refresh(Registry({}, {'shard-0-b': ('replica', False, 512)}))")
        figures = first.figures()
        assert figures['replica_lag_bytes{node="shard-0-b"}'] == 512
        assert figures['node_up{node="shard-0-b"}'] == 0


def test_what_is_unknown_or_gone_has_no_figure(tmp_path: Path) -> None:
    with workers(tmp_path, 1) as (worker,):
        worker.run("refresh(Registry({'shard-1-b': (2, 2, 0)}, {'shard-1-b': ('replica', True, 7)}))")
        assert worker.figures()['replica_lag_bytes{node="shard-1-b"}'] == 7
        worker.run("refresh(Registry({}, {'shard-1-b': ('replica', False, None)}))")
        figures = worker.figures()
        assert 'replica_lag_bytes{node="shard-1-b"}' not in figures
        assert figures['node_up{node="shard-1-b"}'] == 0
        assert not [name for name in figures if name.startswith(("pool_connections", "pool_waiting"))]
        assert not [name for name in figures if name.startswith("replica_lag")]
        worker.run("refresh(Registry({}, {}))")
        assert not [name for name in worker.figures() if name.startswith("node_up")]


def test_counters_without_an_event_stand_at_0(tmp_path: Path) -> None:
    with workers(tmp_path, 1) as (worker,):
        figures = worker.figures()
        assert figures['cache_requests_total{result="hit"}'] == 0
        assert figures['limiter_decisions_total{decision="limited"}'] == 0


def test_an_invented_method_or_path_makes_no_series_of_its_own(tmp_path: Path) -> None:
    with workers(tmp_path, 1) as (worker,):
        for method in ("BREW", "PROPFIND"):
            worker.run(f"metrics.observe_request({method!r}, None, 404, 0.001)")
        assert worker.figures()['http_requests_total{method="other",route="unmatched",status="404"}'] == 2


def test_who_takes_a_workers_place_goes_on_in_its_files(tmp_path: Path) -> None:
    work = [REQUEST, "refresh(Registry({'shard-0-primary': (4, 4, 3)}, {}))"]
    waiting = 'pool_waiting{pool="shard-0-primary"}'
    with workers(tmp_path, 1) as (other,):
        other.run(REQUEST)
        files: dict[str, int] = {}
        for killed in range(4):
            with working(tmp_path, 2) as worker:
                for line in work:
                    worker.run(line)
                assert other.figures()[COUNTED] == other.figures()[TIMED] == 2 + killed
                assert other.figures()[waiting] == 3
                files = files or sizes(tmp_path)
                assert sizes(tmp_path) == files
            other.run("metric_files.forget_worker(2)")
            assert waiting not in other.figures()


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def test_a_worker_killed_while_it_made_a_file_breaks_nothing(tmp_path: Path) -> None:
    """The file is there, and has no size yet, or a size and no head."""
    with workers(tmp_path, 1) as (worker,):
        worker.run(REQUEST)
        (tmp_path / "counter_2.db").touch()
        (tmp_path / "histogram_2.db").write_bytes(bytes(1 << 16))
        assert worker.figures()[COUNTED] == 1
        with working(tmp_path, 2) as after:
            after.run(REQUEST)
            assert worker.figures()[COUNTED] == after.figures()[TIMED] == 2


def test_a_file_that_cannot_be_read_keeps_no_worker_from_starting(tmp_path: Path) -> None:
    """The service would stop with it: gunicorn gives up when a worker cannot start."""
    with workers(tmp_path, 1) as (worker,):
        worker.run(REQUEST)
        # It says that it is longer than it is: the first key's length leads out of it.
        (tmp_path / "counter_2.db").write_bytes(struct.pack("iii", 64, 0, 1 << 20).ljust(1 << 16, b"x"))
        assert worker.figures()[COUNTED] == 1
        with working(tmp_path, 2) as after:
            after.run(REQUEST)
            assert worker.figures()[COUNTED] == 2


def test_a_process_without_a_number_leaves_no_file(tmp_path: Path) -> None:
    program = f"import metrics; {REQUEST}; print(metrics.render().decode())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{COUNTED} 1.0" in done.stdout
    assert not list(tmp_path.iterdir())


def test_statements_are_added_as_they_are_taken(tmp_path: Path) -> None:
    with workers(tmp_path, 2) as (first, second):
        first.run("refresh(Registry({}, {}, a=3, b=1))")
        first.run("refresh(Registry({}, {}, a=2))")
        second.run("refresh(Registry({}, {}, a=10))")
        figures = first.figures()
        assert figures['statements_total{node="a"}'] == 15
        assert figures['statements_total{node="b"}'] == 1
        assert figures["workers{}"] == 2


def test_a_breaker_is_open_as_soon_as_one_worker_has_opened_it(tmp_path: Path) -> None:
    with workers(tmp_path, 2) as (first, second):
        first.run("refresh(Registry({}, {}), {'redis': True, 'lock-0': False})")
        second.run("refresh(Registry({}, {}), {'redis': False, 'lock-0': False})")
        figures = second.figures()
        assert figures['breaker_open{server="redis"}'] == 1
        assert figures['breaker_open{server="lock-0"}'] == 0


def test_moves_are_as_the_latest_look_at_the_catalog_has_them(tmp_path: Path) -> None:
    with workers(tmp_path, 2) as (first, second):
        first.run("refresh(Registry({}, {}), {}, {'copying': 2})")
        second.run("refresh(Registry({}, {}), {}, {'copying': 1})")
        assert first.figures()['moves{state="copying"}'] == 1
        second.run("refresh(Registry({}, {}), {}, None)")
        assert 'moves{state="copying"}' not in first.figures()


def test_a_read_counts_for_who_answered_it(tmp_path: Path) -> None:
    with workers(tmp_path, 1) as (worker,):
        worker.run("metrics.count_read(())")
        worker.run("metrics.count_read(('shard-0-a', 'shard-1-b'))")
        figures = worker.figures()
        for name in ("cache", "shard-0-a", "shard-1-b"):
            assert figures[f'reads_total{{served_by="{name}"}}'] == 1


def test_waits_are_timed_where_they_end(tmp_path: Path) -> None:
    with workers(tmp_path, 1) as (worker,):
        worker.run("metrics.count_lock('held', 0.003)")
        worker.run("metrics.count_lock('lost')")
        worker.run("metrics.count_pool_wait('shard-0-primary', 'served', 0.02)")
        worker.run("metrics.count_pool_wait('shard-0-primary', 'refused')")
        figures = worker.figures()
        assert figures["lock_wait_seconds_count{}"] == 1
        assert figures['lock_wait_seconds_bucket{le="0.005"}'] == 1
        assert figures['lock_wait_seconds_bucket{le="0.0025"}'] == 0
        assert figures['pool_wait_seconds_count{pool="shard-0-primary"}'] == 1
