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
    with running_servers() as servers:
        yield servers


def run(servers: Servers, program: str, settings: dict[str, float], **told: Any) -> dict[str, Any]:
    told["settings"] = as_environment(servers.settings(pool_size=5, **settings))
    nodes = [[node.name, node.shard, node.host, node.port] for node in servers.nodes]
    done = subprocess.run(
        [sys.executable, "-W", "error", Path(__file__).with_name(program)],
        input=json.dumps({"nodes": nodes, **told}),
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
    settings = {"pool_timeout_seconds": 0.05}
    report = run(servers, "pools_greenlets.py", settings, interruptions=INTERRUPTIONS, seed=7)

    assert sum(report["interrupted"].values()) >= INTERRUPTIONS
    # At every kind of moment, and often.
    for moment in ("in line", "in a statement", "in a transaction", "in a pipeline"):
        assert report["interrupted"][moment] > INTERRUPTIONS / 100
    assert (report["size"], report["available"], report["waiting"], report["served"]) == (5, 5, 0, 5)
    assert report["backends"] == 5  # as the server counts


def test_a_frozen_server_holds_up_no_other_greenlet_of_a_worker(servers: Servers) -> None:
    settings = {"statement_timeout_seconds": 0.5}
    report = run(servers, "pools_greenlets_frozen.py", settings, pid=servers.pid("shard-0-a"))

    assert not report["waits_c"]
    assert report["outcomes"][:5] == ["StatementDeadline"] * 5
    assert report["outcomes"][5:] == ["NodeUnavailable"] * 20
    assert report["others"] == report["ticks"] > 20
    assert report["after"] == "answered"
