"""The control room in a browser, on a running service: what happens shows, what is pressed is done."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import psutil
import pytest
from playwright.sync_api import Locator

from devcluster.cluster import Cluster
from tests.browser.conftest import OpenPage, Room
from tests.cluster_fixtures import Service
from tests.shard_servers import Servers
from tests.shop import Shop, eventually, ok, operator

# Two seconds, in polls of one a second, and the one that was out when it happened.
TWO_SECONDS_OF_POLLS = 3
ALL_IS_WELL = "All is well"


@pytest.fixture(scope="module")
def shops(service: Service) -> dict[str, Shop]:
    """A store on every shard."""
    return Shop.on_each_shard(service)


@pytest.fixture
def room(open_page: OpenPage) -> Room:
    room = open_page()
    room.until(lambda: room.headline == ALL_IS_WELL, "all is well")
    return room


@contextmanager
def load(shop: Shop) -> Iterator[None]:
    """Somebody who lists the shop's products for as long as the block takes; the first list is there when it begins."""
    done, begun = threading.Event(), threading.Event()

    def ask() -> None:
        while not done.is_set():
            ok(shop.anyone.get("/products"))
            begun.set()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        assert begun.wait(30)
        yield
    finally:
        done.set()
        thread.join()


def test_every_node_is_shown_with_its_role(room: Room, cluster: Cluster) -> None:
    for node in cluster.topology.nodes():
        tile = room.text(f"[data-node={node.name}]")
        assert ("primary" if node.name == cluster.primary(node.shard).name else "replica") in tile
        assert "timeline 1" in tile
    room.until(lambda: "4,096 partitions" in room.text("#ring-text"), "the ring is drawn")


def test_figures_move_within_two_seconds_under_load(room: Room, shops: dict[str, Shop]) -> None:
    room.until(lambda: room.text("#top-requests") == "0", "nobody asks")
    with load(shops["shard-0"]):
        before = room.polls
        room.until(lambda: room.text("#top-requests") != "0", "requests are shown")
        assert room.polls - before <= TWO_SECONDS_OF_POLLS
        room.until(lambda: "ms" in room.text("#top-p95"), "their latency is")
        room.until(lambda: "0/s" not in room.text("#legend-requests div:first-child dd"), "and their kind")


def test_a_flag_that_is_turned_on_the_page_is_in_force(room: Room, service: Service) -> None:
    switch = room.page.locator("[data-flag=redis_cache] button")
    before = ok(operator(service).get("/v1/admin/flags"))["redis_cache"]
    assert switch.get_attribute("aria-checked") == str(before).lower()
    assert switch.get_attribute("aria-disabled") == "true"
    room.sign_in(service.operator_token)
    for wanted in (not before, before):
        switch.focus()
        room.page.keyboard.press("Space")
        room.until(partial(is_turned, switch, wanted), "the switch turns")
        eventually(partial(is_in_force, service, wanted))
        line = f"redis_cache switched {'on' if wanted else 'off'}"
        room.until(partial(says, room, line), "the log says so")


def is_turned(switch: Locator, enabled: bool) -> bool:
    return switch.get_attribute("aria-checked") == str(enabled).lower()


def is_in_force(service: Service, enabled: bool) -> bool:
    """On every worker: each question has a connection of its own."""
    return all(ok(operator(service).get("/v1/admin/flags"))["redis_cache"] is enabled for _ in range(8))


def says(room: Room, line: str) -> bool:
    return line in room.text("#event-list")


def test_a_flag_that_is_refused_says_why_and_stays(
    room: Room, service: Service, shops: dict[str, Shop]
) -> None:
    assert shops.keys() >= {"shard-1"}
    room.expects_refusals = True
    room.sign_in(service.operator_token)
    room.page.click("[data-flag=sharding] button")
    message = room.page.locator("[data-flag=sharding] .message")
    room.until(lambda: "gather" in message.inner_text(), "the refusal is shown")
    assert room.page.get_attribute("[data-flag=sharding] button", "aria-checked") == "true"


def test_a_token_that_is_not_the_operators_signs_nobody_in_and_signing_out_forgets(
    room: Room, service: Service
) -> None:
    room.expects_refusals = True
    room.page.fill("#token", "somebody")
    room.page.keyboard.press("Enter")
    room.until(lambda: "not the operator's token" in room.text("#sign-in-message"), "it is refused")
    room.sign_in(service.operator_token)
    room.page.reload()
    room.page.wait_for_selector("#sign-out:visible")
    room.page.click("#sign-out")
    room.page.wait_for_selector("#token:visible")
    assert room.page.evaluate("sessionStorage.length + localStorage.length") == 0
    room.until(lambda: room.polls > 0, "figures go on")


def test_a_store_is_found_pinned_and_unpinned(room: Room, service: Service, shops: dict[str, Shop]) -> None:
    shop = shops["shard-1"]
    room.page.fill("#store-id", shop.id)
    room.page.keyboard.press("Enter")
    room.until(lambda: "the ring gives it to shard-1" in room.text("#route-answer"), "its route is said")
    assert not room.page.is_visible("#route-pin")
    room.sign_in(service.operator_token)
    room.page.wait_for_selector("#route-pin:visible")
    room.page.select_option("#route-shard", "shard-1")

    room.page.click("#route-pin")
    room.page.keyboard.press("Escape")
    assert route(service, shop) == "ring"
    room.page.click("#route-pin")
    room.page.click("#confirm-yes")
    room.until(lambda: "Pinned to shard-1" in room.text("#route-answer"), "the pin is shown")
    eventually(lambda: route(service, shop) == "pin")
    room.page.click("#route-unpin")
    room.page.click("#confirm-yes")
    room.until(lambda: "the ring gives it" in room.text("#route-answer"), "so is its end")
    eventually(lambda: route(service, shop) == "ring")


def route(service: Service, shop: Shop) -> str:
    return str(ok(operator(service).get(f"/v1/admin/stores/{shop.id}/route"))["reason"])


def test_a_move_that_is_begun_on_the_page_shows_until_it_is_done(
    room: Room, service: Service, shops: dict[str, Shop]
) -> None:
    shop = Shop.create(service)
    home = ok(operator(service).get(f"/v1/admin/stores/{shop.id}/route"))["shard"]
    target = "shard-1" if home == "shard-0" else "shard-0"
    room.sign_in(service.operator_token)
    room.page.fill("#move-store", shop.id)
    room.page.select_option("#move-shard", target)
    room.page.click("#move-form button")
    room.page.click("#confirm-yes")
    shown = room.page.locator("#move-list .move", has_text=shop.id)
    room.until(lambda: shown.count() == 1, "the move is shown")
    room.until(lambda: shown.get_attribute("data-state") == "done", "it is done")
    assert ok(operator(service).get(f"/v1/admin/stores/{shop.id}/route"))["shard"] == target


def test_a_frozen_replica_shows_within_two_seconds_and_so_does_its_return(
    room: Room, cluster: Cluster
) -> None:
    servers = Servers(cluster)
    (node,) = (n.name for n in cluster.topology.nodes("shard-0") if n.name.endswith("-b"))
    tile = room.page.locator(f"[data-node={node}]")
    before = room.polls
    servers.freeze(node)
    try:
        room.until(lambda: tile.get_attribute("data-state") == "silent", "it is frozen")
        assert room.polls - before <= TWO_SECONDS_OF_POLLS
        assert "FROZEN" in tile.inner_text().upper()
        assert "ejected" in tile.inner_text()
        assert room.headline == f"{node} does not answer"
        room.until(lambda: f"{node} does not answer" in room.text("#event-list"), "the log says so")
    finally:
        servers.thaw(node)
    room.until(lambda: room.headline == ALL_IS_WELL, "all is well again")


def test_a_lost_connection_is_said_and_its_return_too(room: Room, service: Service) -> None:
    room.expects_refusals = True
    with stopped(service):
        room.until(lambda: room.headline == "Connection to the service lost", "it is said")
        assert "figures are from" in room.text("#headline-note")
    room.until(lambda: room.headline == ALL_IS_WELL, "so is its return")
    before = room.polls
    room.until(lambda: room.polls > before, "figures go on")


@contextmanager
def stopped(service: Service) -> Iterator[None]:
    """The whole service frozen: it takes connections, and answers none."""
    main = psutil.Process(service.pid)
    processes = [main, *main.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()
