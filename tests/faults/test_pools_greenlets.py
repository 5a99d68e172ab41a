"""What gevent does to a greenlet in the middle of anything costs no connection."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster_fixtures import ROOT, as_environment
from tests.shard_servers import Servers, running_servers

INTERRUPTIONS = 10_000


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with running_servers(shards=1) as servers:
        yield servers


def run(servers: Servers, program: str, **told: Any) -> dict[str, Any]:
    settings = as_environment(servers.settings(pool_size=5, pool_timeout_seconds=0.05))
    nodes = [[node.name, node.shard, node.host, node.port] for node in servers.nodes]
    done = subprocess.run(
        [sys.executable, "-W", "error", Path(__file__).with_name(program)],
        input=json.dumps({"settings": settings, "nodes": nodes, **told}),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.timeout(300)
def test_ten_thousand_timeouts_and_kills_at_random_moments_lose_no_connection(servers: Servers) -> None:
    report = run(servers, "pools_greenlets.py", interruptions=INTERRUPTIONS, seed=7)

    assert sum(report["interrupted"].values()) >= INTERRUPTIONS
    # At every kind of moment, and often.
    for moment in ("in line", "in a statement", "in a transaction", "in a pipeline"):
        assert report["interrupted"][moment] > INTERRUPTIONS / 100
    assert (report["size"], report["available"], report["waiting"], report["served"]) == (5, 5, 0, 5)
    assert report["backends"] == 5  # as the server counts
