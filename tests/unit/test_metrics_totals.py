"""The sums that the control room reads are those that `/metrics` tells."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import metrics
from metrics.totals import TotalsReader

_WORKERS = """
import os, sys, json
sys.path.insert(0, {root!r})
os.environ["PROMETHEUS_MULTIPROC_DIR"] = {folder!r}
import metric_files
metric_files.be_worker({number})
import metrics
from metrics import definitions as of
from metrics.totals import TotalsReader
for seconds in (0.0004, 0.004, 0.04, 40):
    metrics.observe_request("GET", "/v1/stores/{{store_id}}/products", 200, seconds, "shard-0")
metrics.observe_request("POST", "/v1/stores/{{store_id}}/orders", 503, 0.1, "shard-1")
of.breaker_open.labels("redis").set({number} - 1)
of.pool_waiting.labels("shard-0-primary").set(2)
of.workers.set(1)
totals = TotalsReader().read()
print(json.dumps([
    totals.sum("http_requests_total"),
    totals.by("http_requests_total", "status"),
    [sample.value for sample in totals["http_request_duration_seconds_bucket"]
     if sample.labels["method"] == "GET" and sample.value],
    totals.by("breaker_open", "server"),
    totals.sum("pool_waiting"),
    totals.sum("workers"),
]))
"""


def _worker(folder: Path, number: int) -> list[object]:
    root = str(Path(__file__).resolve().parents[2])
    text = _WORKERS.format(root=root, folder=str(folder), number=number)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    found: list[object] = json.loads(done.stdout)
    return found


def test_all_workers_figures_are_added_up(tmp_path: Path) -> None:
    assert _worker(tmp_path, 1) == [
        5.0,
        {"200": 4.0, "503": 1.0},
        [1.0, 1.0, 1.0, 1.0],
        {"redis": 0.0},
        2.0,
        1.0,
    ]
    assert _worker(tmp_path, 2) == [
        10.0,
        {"200": 8.0, "503": 2.0},
        [2.0, 2.0, 2.0, 2.0],
        {"redis": 1.0},
        4.0,
        2.0,
    ]


def test_a_file_that_is_just_being_made_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "counter_7.db").write_bytes(b"")
    (tmp_path / "gauge_livesum_7.db").write_bytes(b"\1")
    found = _worker(tmp_path, 1)
    assert found[0] == 5.0


def test_without_files_a_process_tells_of_itself_and_buckets_do_not_contain_each_other() -> None:
    route = "/v1/stores/{store_id}/cart"
    before = TotalsReader().read().sum("http_request_duration_seconds_bucket", route=route)
    for seconds in (0.0004, 40.0):
        metrics.observe_request("GET", route, 200, seconds, "shard-0")
    after = TotalsReader().read().sum("http_request_duration_seconds_bucket", route=route)
    assert after - before == 2
