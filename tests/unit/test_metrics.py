"""Figures of several workers, put together as `/metrics` shows them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]

# A worker: does what each line on its standard input says, and says when it is done.
WORKER = """
import os, sys
from types import SimpleNamespace as Of
import metrics

class Registry:
    def __init__(self, pools, states):
        self._pools, self._states = pools, states
    def pools(self):
        for name, (size, available, waiting) in self._pools.items():
            gauge = Of(size=size, available=available, waiting=waiting)
            yield Of(name=name, gauge=lambda gauge=gauge: gauge)
    def states(self):
        return {n: Of(role=r, healthy=h, replay_lag_bytes=b) for n, (r, h, b) in self._states.items()}

def refresh(registry):
    metrics.refresh(registry, registry.states())

for line in sys.stdin:
    result = eval(line)
    sys.stdout.write(result.decode() if isinstance(result, bytes) else "")
    sys.stdout.write("\\0")
    sys.stdout.flush()
"""


class Worker:
    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
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
def workers(folder: Path, count: int) -> Iterator[list[Worker]]:
    started = [Worker(folder) for _ in range(count)]
    try:
        yield started
    finally:
        for worker in started:
            worker.kill()


REQUEST = "metrics.observe_request('GET', '/v1/stores/{store_id}', 200, 0.004)"
COUNTED = 'http_requests_total{method="GET",route="/v1/stores/{store_id}",status="200"}'
TIMED = 'http_request_duration_seconds_count{method="GET",route="/v1/stores/{store_id}"}'


def test_counters_add_up_over_workers_and_outlive_a_killed_one(tmp_path: Path) -> None:
    with workers(tmp_path, 3) as (first, second, third):
        for worker, times in ((first, 2), (second, 3), (third, 4)):
            for _ in range(times):
                worker.run(REQUEST)
        assert first.figures()[COUNTED] == 9
        third.kill()
        first.run(f"metrics.forget_process({third.process.pid})")
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
        first.run(f"metrics.forget_process({second.process.pid})")
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
        assert not [name for name in figures if name.startswith("pool_")]
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


def test_a_file_of_a_worker_that_starts_is_waited_for(tmp_path: Path) -> None:
    """It has been made, and has no size yet."""
    half_made = tmp_path / "counter_1.db"
    with workers(tmp_path, 1) as (worker,):
        worker.run(REQUEST)
        half_made.touch()
        # Made whole once it has been found half made twice.
        worker.run(
            'exec("import os, struct\\nlooks = []\\n'
            "def pause(seconds):\\n    looks.append(seconds)\\n"
            f"    len(looks) > 1 and open({str(half_made)!r}, 'wb').write(struct.pack('ii', 8, 0))\\n"
            'metrics.sleep = pause")'
        )
        assert worker.figures()[COUNTED] == 1
        assert worker.run("str(len(looks)).encode()") == "2"
