"""The service with moments at which a test can hold one request, for as long as it likes.

A worker that comes to a moment waits there if a test has asked for it, and goes on when the test lets it: what happens
between two steps is then no matter of luck. Serve it with `application=HELD_APP`; `hold(service, moment)` is the test's
side.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app import create_app as create
from config import load
from ephemeral.cache import Cache
from ephemeral.carts import Carts
from tests.cluster_fixtures import Service
from tests.shard_servers import until

HELD_APP = "tests.held_app:create_app()"

# Each is the moment before the method does anything.
MOMENTS: dict[str, tuple[type, str]] = {
    "join": (Carts, "join"),
    "leave": (Carts, "leave"),
    "clear": (Carts, "clear"),
    "change": (Cache, "change"),
}
_POLL_SECONDS = 0.002


@contextmanager
def hold(service: Service, moment: str) -> Iterator[Callable[[], int]]:
    """Hold the next request that comes to this moment until the block ends.

    Yields a function that waits for it to be there, and returns its worker's process id.
    """
    folder = _folder(service.settings.var)
    folder.mkdir(exist_ok=True)
    wanted = folder / moment
    wanted.touch()

    def held_by() -> int:
        (found,) = until(lambda: list(folder.glob(f"{moment}-*")))
        return int(found.name.rpartition("-")[2])

    try:
        yield held_by
    finally:
        wanted.unlink(missing_ok=True)
        for held in folder.glob(f"{moment}-*"):
            held.unlink()


def create_app() -> object:
    """The application, of which each worker makes its own."""
    folder = _folder(load().var)
    for moment, (kind, method) in MOMENTS.items():
        setattr(kind, method, _stopping(getattr(kind, method), folder / moment))
    return create()


def _stopping(method: Callable[..., Any], wanted: Path) -> Callable[..., Any]:
    def stop_first(*arguments: Any, **options: Any) -> Any:
        held = _take(wanted)
        while held is not None and held.exists():
            time.sleep(_POLL_SECONDS)
        return method(*arguments, **options)

    return stop_first


def _take(wanted: Path) -> Path | None:
    """Of all who come, one is held: a file can be renamed once."""
    held = wanted.with_name(f"{wanted.name}-{os.getpid()}")
    try:
        return wanted.rename(held)
    except FileNotFoundError:
        return None


def _folder(var: Path) -> Path:
    return var / "moments"
