"""What open pages of the control room cost the service: processor time of its workers.

    make up                                   # in another terminal
    .venv/bin/python -m bench.pages           # prints a table in Markdown

A service of its own before the running servers, at rest but for the pages: each asks `GET /live` once a second over a
connection that it keeps, as the page's script does. The rounds take turns: what else goes on falls on all alike.
"""

from __future__ import annotations

import argparse
import http.client
import json
import threading
from statistics import median
from time import monotonic

import psutil

import config
from bench.service import service
from bench.table import table

PAGES = (0, 1, 10)
POLL_SECONDS = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.pages", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of each number of pages (%(default)s)")
    arguments = parser.parse_args()
    seen: dict[int, list[float]] = {pages: [] for pages in PAGES}
    asked = 0
    with service(config.load().var, LOG_FORMAT="json") as served:
        for _ in range(arguments.rounds):
            for pages in PAGES:
                share, answers = _round(served.address, served.pid, pages, arguments.seconds)
                seen[pages].append(share)
                asked += answers
    idle = median(seen[0])
    rows = [
        (
            str(pages),
            f"{100 * median(shares):.2f} %",
            f"{100 * min(shares):.2f} to {100 * max(shares):.2f} %",
            f"{100 * (median(shares) - idle) / pages:.2f} %" if pages else "-",
        )
        for pages, shares in seen.items()
    ]
    print(table(("pages open", "of a core, all workers", "rounds", "more, for each page"), rows))
    print(f"\n{asked} answers of `GET /live`; {arguments.rounds} rounds of {arguments.seconds:.0f} s each.")


def _round(address: str, pid: int, pages: int, seconds: float) -> tuple[float, int]:
    """The workers' processor time a second, and how many answers there were."""
    over = threading.Event()
    answers = [0] * pages
    threads = [threading.Thread(target=_page, args=(address, over, answers, page)) for page in range(pages)]
    for thread in threads:
        thread.start()
    over.wait(POLL_SECONDS)  # connected, and asked once
    began, before = monotonic(), _processor_seconds(pid)
    over.wait(seconds)
    used, took = _processor_seconds(pid) - before, monotonic() - began
    over.set()
    for thread in threads:
        thread.join()
    return used / took, sum(answers)


def _page(address: str, over: threading.Event, answers: list[int], number: int) -> None:
    connection = http.client.HTTPConnection(address, timeout=5)
    after = 0
    over.wait(number / 10)  # nobody opens ten pages in one moment
    while not over.is_set():
        connection.request("GET", f"/live?after={after}")
        found = json.loads(connection.getresponse().read())
        after = max([after, *(event["id"] for event in found["events"])])
        answers[number] += 1
        over.wait(POLL_SECONDS)
    connection.close()


def _processor_seconds(pid: int) -> float:
    workers = psutil.Process(pid).children()
    return sum(sum(worker.cpu_times()[:2]) for worker in workers)


if __name__ == "__main__":
    main()
