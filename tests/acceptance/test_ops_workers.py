"""The figures while a worker dies and another takes its place."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
import requests

from tests.acceptance.test_ops import counted, get
from tests.cluster_fixtures import Databases, Service, serving
from tests.shop import Shop, eventually


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


# What each worker has: one for each kind of metric, and of each way to put gauges together.
FILES = ("counter", "histogram", "gauge_livesum", "gauge_livemin", "gauge_livemax", "gauge_livemostrecent")


class Crowd(threading.Thread):
    """Asks without a pause, over its own connection. `answered` is what it read whole, `lost` what it did not."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self.answered = self.lost = 0
        self.done = threading.Event()

    def run(self) -> None:
        http = requests.Session()
        http.trust_env = False
        while not self.done.is_set():
            try:
                self.answered += http.get(self._url, timeout=30).status_code == 200
            except requests.RequestException:
                self.lost += 1


def test_totals_are_right_after_ten_workers_were_killed_and_replaced(service: Service) -> None:
    folder = service.settings.var / "metrics"
    shop = Shop.create(service)
    labels = {"method": "GET", "route": "/v1/stores/{store_id}/products"}
    totals: list[float] = []

    def look() -> str:
        """The figures; whoever is asked may be the one that is killed."""
        while True:
            with suppress(requests.ConnectionError):
                answer = requests.get(f"{service.base_url}/metrics", timeout=30)
                assert answer.status_code == 200, answer.text
                totals.append(counted(answer.text, "http_requests_total", **labels))
                return answer.text

    def is_replaced(before: set[int]) -> bool:
        return len(workers(service) - before) == 1

    def is_whole() -> bool:
        return counted(look(), "workers") == service.settings.workers

    crowd = [Crowd(f"{service.base_url}{shop.path}/products") for _ in range(4)]
    for one in crowd:
        one.start()
    eventually(lambda: sum(one.answered for one in crowd) > 100)
    eventually(lambda: len(sizes(folder)) == len(FILES) * service.settings.workers)
    files = sizes(folder)

    for number in range(10):
        before = workers(service)
        # The oldest serves; the newest may just be starting, and making its files.
        victim = (min if number % 2 else max)(before, key=lambda pid: psutil.Process(pid).create_time())
        psutil.Process(victim).kill()
        eventually(partial(is_replaced, before))
        look()
        if number % 2:
            eventually(is_whole)

    eventually(is_whole)
    for one in crowd:
        one.done.set()
    for one in crowd:
        one.join(60)
    answered, lost = (sum(getattr(one, name) for one in crowd) for name in ("answered", "lost"))
    look()
    assert totals == sorted(totals)
    assert answered <= totals[-1] <= answered + lost
    eventually(lambda: sizes(folder) == files)


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.glob("*.db")}


@pytest.mark.parametrize("way", ["reloaded", "handed over"])
def test_workers_that_come_beside_others_count_in_files_of_their_own(databases: Databases, way: str) -> None:
    """SIGHUP makes new workers before it ends the old ones; SIGUSR2 a new parent, and both have workers for a while."""
    labels = {"method": "GET", "route": "/healthz", "status": "200"}
    # As a module it cannot start itself anew: its folder would hide the standard library's `http`. The image runs this.
    program = [str(Path(sys.executable).with_name("gunicorn"))]
    with serving(databases.settings, program=program) as service:
        folder, own = service.settings.var / "metrics", service.settings.workers

        def figures() -> tuple[float, float]:
            text = get(service, "/metrics").text
            return counted(text, "http_requests_total", **labels), counted(text, "workers")

        def numbers() -> set[int]:
            return {int(path.stem.rpartition("_")[2]) for path in folder.glob("counter_*.db")}

        def ask() -> None:
            for _ in range(20):
                assert get(service, "/healthz").status_code == 200

        ask()
        eventually(lambda: figures() == (20, own))
        before = numbers()
        if way == "reloaded":
            old = workers(service)
            os.kill(service.pid, signal.SIGHUP)
            eventually(lambda: not old & workers(service))
        else:
            os.kill(service.pid, signal.SIGUSR2)
            eventually(lambda: figures()[1] == 2 * own)
            os.kill(service.pid, signal.SIGTERM)
        eventually(lambda: figures() == (20, own))
        ask()
        assert figures() == (40, own)
        assert len(numbers() - before) == own
        assert before < numbers()
