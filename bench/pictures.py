"""Pictures of the control room from a real run: at rest, under load, a replica frozen, a store on its way, a failover.

    make up                                              # in another terminal, a cluster that may be broken
    .venv/bin/python -m bench.pictures docs/pictures     # leaves SITUATION-WIDTH-SCHEME.png there

A service of its own before the running servers, k6's load on it, and four open pages in the system's Chromium: 390 and
1440 pixels wide, light and dark. Servers are frozen and killed, and whole again in the end; flags are as they were.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

import config
from bench.run.load import SCRIPT, find_k6
from bench.service import Service, service
from flags import NAMES
from lab.servers import Servers, wait_for
from lab.wire import Wire

SIZES = {390: 844, 1440: 1000}
SCHEMES = ("light", "dark")
# All of the load comes from one address; a person's quota would refuse it.
LARGE_QUOTA = "100000/10"
# The newest figures of a page, and what a change needs to be in them.
SETTLED_SECONDS = 2.5
# Traffic's charts are to have something in them.
LOADED_SECONDS = 40.0
# Enough for a page; every colour that is told apart is kept.
COLOURS = 96


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.pictures", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rate", type=int, default=80, help="requests a second (%(default)s)")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if browser is None:
        raise SystemExit("there is no chromium in PATH")
    quotas = {f"RATE_LIMIT_{whom}": LARGE_QUOTA for whom in ("SESSION", "KEY", "ADDRESS", "STORE")}
    servers = Servers(config.load().var)
    with service(servers.var, LOG_FORMAT="json", **quotas) as served, sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=browser,
            args=["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])],
        )
        with _flags_on(servers.served_at(served.address)):
            _take(servers.served_at(served.address), served, running, arguments.folder, arguments.rate)
        running.close()


def _take(servers: Servers, served: Service, browser: Browser, folder: Path, rate: int) -> None:
    pages = {(width, scheme): _open(browser, served, width, scheme) for width in SIZES for scheme in SCHEMES}

    def shoot(situation: str) -> None:
        for (width, scheme), page in pages.items():
            path = folder / f"{situation}-{width}-{scheme}.png"
            page.screenshot(path=path)
            with Image.open(path) as image:
                few = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
            few.save(path, optimize=True)
            print(path)

    time.sleep(4 * SETTLED_SECONDS)
    shoot("rest")
    with _load(served, rate, servers) as is_loading:
        wait_for(is_loading, "k6 sends its load")
        time.sleep(LOADED_SECONDS)
        shoot("load")
        replica = servers.replicas("shard-0")[-1]
        servers.freeze(replica)
        time.sleep(SETTLED_SECONDS)
        shoot("frozen")
        servers.thaw(replica)
        servers.await_whole("shard-0")
        _begin_move(servers)
        time.sleep(1.2)
        shoot("move")
        time.sleep(SETTLED_SECONDS)
        servers.kill(servers.primary("shard-0"))
        time.sleep(SETTLED_SECONDS)
        shoot("no-primary")
        servers.fail_over("shard-0")
        time.sleep(SETTLED_SECONDS)
        shoot("failover")
        servers.await_whole("shard-0")


def _open(browser: Browser, served: Service, width: int, scheme: str) -> Page:
    context = browser.new_context(
        viewport={"width": width, "height": SIZES[width]},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    page.goto(f"http://{served.address}/")
    return page


def _begin_move(servers: Servers) -> None:
    """Of the store with most in it, so that there is something to see."""
    with Wire(servers.address) as wire:
        stores = wire.request("GET", "/v1/stores?limit=1", servers.operator).document["data"]
        route = wire.request("GET", f"/live/route/{stores[0]['id']}").document
        elsewhere = next(shard for shard in servers.shards if shard != route["shard"])
        body = {"store_id": stores[0]["id"], "to_shard": elsewhere}
        answer = wire.request("POST", "/v1/admin/moves", servers.operator, body)
    if not answer.good:
        raise SystemExit(f"the store does not move: {answer.body.decode()}")


@contextmanager
def _flags_on(servers: Servers) -> Iterator[None]:
    """All layers on until the block ends."""
    with Wire(servers.address) as wire:
        before = wire.request("GET", "/v1/admin/flags", servers.operator).document
    for name in NAMES:
        servers.switch(name, enabled=True)
    try:
        yield
    finally:
        for name, enabled in before.items():
            servers.switch(name, enabled=enabled)


@contextmanager
def _load(served: Service, rate: int, servers: Servers) -> Iterator[Callable[[], bool]]:
    """k6 until the block ends. Gives what says whether its requests come."""
    token = servers.operator["Authorization"].removeprefix("Bearer ")
    told = {
        "BASE_URL": f"http://{served.address}",
        "OPERATOR_TOKEN": token,
        "RATE": str(rate),
        "DURATION": "10m",
        "WARM_UP": "0s",
        "NEW_STORES": "8",
        "SESSIONS": "80",
        "K6_NO_USAGE_REPORT": "true",
    }
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [find_k6(""), "run", "--quiet", "--address", "", str(SCRIPT)],
            env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **told},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        try:
            yield lambda: process.poll() is not None or _orders(served) > rate
            if process.poll() is not None:
                raise SystemExit("k6 ended early")
        finally:
            process.kill()
            process.wait()


def _orders(served: Service) -> float:
    with Wire(served.address) as wire:
        traffic = json.loads(wire.request("GET", "/live").body)["traffic"]
    return float(sum(kind["answered_total"] for kind in traffic["kinds"] if kind["kind"] == "place order"))


if __name__ == "__main__":
    main()
