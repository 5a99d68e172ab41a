"""The figures while a worker dies and another takes its place."""

from __future__ import annotations

import psutil

from tests.acceptance.test_ops import counted, get
from tests.cluster_fixtures import Service
from tests.shop import eventually


def workers(service: Service) -> set[int]:
    return {child.pid for child in psutil.Process(service.pid).children()}


def test_a_replaced_worker_takes_no_request_back_and_leaves_no_connection_behind(service: Service) -> None:
    labels = {"method": "GET", "route": "/healthz", "status": "200"}
    pool = {"pool": "shard-0-primary"}

    def figures() -> tuple[float, float]:
        text = get(service, "/metrics").text
        return counted(text, "http_requests_total", **labels), counted(text, "pool_connections", **pool)

    for _ in range(20):
        get(service, "/healthz")
    full = service.settings.workers * service.settings.pool_size
    eventually(lambda: figures() == (20, full))

    before = workers(service)
    dead = min(before)
    psutil.Process(dead).kill()
    eventually(lambda: len(workers(service) - before) == 1)
    # Its gauges are gone: the new one's connections come in the place of its own, not on top of them.
    eventually(lambda: figures() == (20, full))
