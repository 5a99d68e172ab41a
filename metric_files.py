"""Which files this process counts in: named by the worker's number, which comes back when a worker is replaced.

prometheus_client names its files by the process id, and keeps those of dead processes for their counters: so each
worker that is replaced would leave files behind, and each scrape read all of them. Here the next worker of a number
goes on in its predecessor's files, which are as many, and as large, as there have ever been workers at one time.

A process without a number (the arbiter, a command, a mover) counts in its own memory: nobody adds that up.

Two processes that write one file would take each other's counts away. gunicorn's arbiter gives a number only to one at
a time: it is free when the arbiter has reaped the process that had it (`pre_fork` in gunicorn.conf.py). The number is
this module's variable and not the environment's: what a worker starts does not inherit it.

The arbiter imports this module and never `metrics`: the metrics' definitions open the files of whoever imports them
first, and a fork would hand them on.
"""

from __future__ import annotations

import logging
import os
import struct
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import mark_process_dead

# prometheus_client's own variable: it looks there for the folder whenever it opens a file.
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
# What a file says of itself when its text cannot be what this library wrote.
UNREADABLE = (struct.error, RuntimeError, ValueError)

logger = logging.getLogger("metrics")

_number: int | None = None


def folder() -> Path | None:
    """Where all workers' files are; None for a process that counts in its own memory."""
    return Path(os.environ[FOLDER_VARIABLE]) if _number is not None else None


def be_worker(number: int) -> None:
    """Count in this number's files from now on. In the worker, before anything imports `metrics`."""
    global _number  # noqa: PLW0603 - a process is one worker
    _number = number
    for path in _of_number(number):
        _check(path)


def use() -> None:
    """Have what `metrics` defines next live in the files of this process's number, or in its memory."""
    number = _number
    values.ValueClass = values.MutexValue
    if number is not None:
        values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]


def forget_worker(number: int) -> None:
    """Take a dead worker's gauges out of the figures; its counters stay. In the arbiter."""
    mark_process_dead(number)  # type: ignore[no-untyped-call]


def sound(paths: list[Path]) -> list[Path]:
    """Those of the files that can be read; the log names the others."""
    return [path for path in paths if _is_sound(path)]


def _check(path: Path) -> None:
    """A file that cannot be read would keep every worker of its number from starting, and with it the service."""
    if not _is_sound(path):
        path.unlink(missing_ok=True)


def _is_sound(path: Path) -> bool:
    try:
        # Without a size it was made by a worker that died in that moment: it holds nothing, and can be gone on with.
        if path.stat().st_size:
            deque(MmapedDict.read_all_values_from_file(path), maxlen=0)  # type: ignore[no-untyped-call]
    except FileNotFoundError:
        return False  # of a worker that was reaped just now
    except UNREADABLE as error:
        logger.warning("figures in %s cannot be read, and are left out: %s", path.name, error)
        return False
    return True


def _of_number(number: int) -> Iterator[Path]:
    return Path(os.environ[FOLDER_VARIABLE]).glob(f"*_{number}.db")
