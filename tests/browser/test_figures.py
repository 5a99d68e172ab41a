"""The page's own arithmetic, in the language it is written in: differences, rates, quantiles, sentences."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import Browser
from werkzeug.serving import make_server

from handlers import control_room

Run = Callable[..., Any]

BOUNDS = [0.01, 0.1, 1.0, "+Inf"]


@pytest.fixture(scope="module")
def run(browser: Browser) -> Iterator[Run]:
    """`run(module, function, *arguments)` of a module of the page."""
    app = Flask(__name__)
    app.register_blueprint(control_room.blueprint())
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/")
        (path,) = re.findall(r'src="(/control-room/\w+)/main\.js"', page.content())

        def run_one(module: str, function: str, *arguments: Any) -> Any:
            call = "async ([path, name, given]) => (await import(path))[name](...given)"
            return page.evaluate(call, [f"{path}/{module}.js", function, list(arguments)])

        yield run_one
        page.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("q", "counts", "expected"),
    [
        pytest.param(0.5, [0, 0, 0, 0], None, id="nothing-counted"),
        pytest.param(0.5, [10, 0, 0, 0], 0.005, id="the-first-bucket-begins-at-0"),
        pytest.param(0.5, [0, 10, 0, 0], 0.055, id="the-middle-of-a-bucket"),
        pytest.param(0.75, [50, 50, 0, 0], 0.055, id="the-middle-of-the-second-half"),
        pytest.param(1.0, [5, 5, 0, 0], 0.1, id="the-end-of-the-last-one-counted"),
        pytest.param(0.99, [1, 0, 0, 99], 1.0, id="beyond-the-last-bound-the-last-bound"),
    ],
)
def test_a_quantile_is_what_prometheus_would_say(
    run: Run, q: float, counts: list[int], expected: float | None
) -> None:
    found = run("figures", "quantile", q, BOUNDS, counts)
    assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("now", "before", "expected"), [(5, 3, 2), (3, 3, 0), (3, 5, 3), (3, None, 0), (None, 3, 0)]
)
def test_growth_is_never_negative(run: Run, now: int | None, before: int | None, expected: int) -> None:
    assert run("figures", "growth", now, before) == expected


def live(at: float, answered: int, **changed: Any) -> dict[str, Any]:
    kind = {
        "kind": "read cart",
        "answered_total": answered,
        "errors_total": 0,
        "refused_total": 0,
        "buckets_total": [answered, 0, 0, 0],
        "seconds_total": 0.0,
    }
    nodes = [node("shard-0-a", "primary"), node("shard-0-b", "replica")]
    shards = [{"name": "shard-0", "share": 1.0, "stores": 1, "timeline": 1, "nodes": nodes}]
    traffic = {"le": BOUNDS, "kinds": [kind]}
    return {"at": at, "traffic": traffic, "shards": shards, "servers": [], "moves": []} | changed


def node(name: str, state: str) -> dict[str, Any]:
    connections = {"in_use": 0, "available": 2, "waiting": 0}
    return {"name": name, "role": state, "state": state, "connections": connections}


def test_a_rate_is_the_growth_over_the_time_between(run: Run) -> None:
    found = run("figures", "traffic", live(102.0, 50), live(100.0, 10))
    assert (found["perSecond"], found["errors"], found["counts"]) == (20, 0, [40, 0, 0, 0])


def troubles(run: Run, *nodes: dict[str, Any], **changed: Any) -> list[str]:
    shard = {"name": "shard-0", "share": 1.0, "stores": 1, "timeline": 1, "nodes": list(nodes)}
    found = run("headline", "troubles", live(1.0, 0, shards=[shard], **changed), None)
    return [each["text"] for each in found]


def test_the_worst_is_said_first(run: Run) -> None:
    a, b = node("shard-0-a", "primary"), node("shard-0-b", "replica")
    assert troubles(run, a, b) == []
    assert troubles(run, a, b | {"state": "silent"}) == ["shard-0-b does not answer"]
    said = troubles(run, a | {"state": "down"}, b | {"state": "lagging"})
    assert said[0].startswith("shard-0 has no primary")
    assert said[1:] == ["shard-0-a is down", "shard-0-b is too far behind to be read"]
    said = troubles(run, a | {"state": "down"}, b | {"state": "silent"})
    assert said[0] == "shard-0 does not answer: none of its nodes does"
    servers = [{"name": f"lock-{i}", "away": i > 0} for i in range(3)]
    assert troubles(run, a, b, servers=servers) == ["The lock servers have no quorum: 2 of 3 are away"]


@pytest.mark.parametrize(
    ("reason", "owner", "words"),
    [
        ("ring", "shard-1", "Partition 1,234 of 4,096; the ring gives it to shard-1."),
        ("pin", "shard-0", "Pinned to shard-1. Partition 1,234 of 4,096: the ring would give it to shard-0."),
        ("range", "shard-1", "A range of ids gives it to shard-1."),
        ("sharding-off", "shard-0", "Sharding is off"),
    ],
)
def test_a_route_in_words(run: Run, reason: str, owner: str, words: str) -> None:
    route = {
        "partition": 1234,
        "shard": "shard-1",
        "reason": reason,
        "epoch": 3,
        "exists": True,
        "owner": owner,
    }
    first, second = run("route", "routeInWords", route, 4096, True)
    assert words in first
    assert second == "The store exists. Epoch 3."
