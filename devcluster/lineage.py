"""Which node of a shard is its primary, by what lies on disk, whether it runs or not.

A server without `standby.signal` starts as a primary. A promotion begins a new timeline and leaves a history file,
so of several such servers the one on the newest timeline is the shard's primary, and the others were failed over.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from devcluster.errors import ClusterError

STANDBY_SIGNAL = "standby.signal"

# A node, or its name.
N = TypeVar("N")


def is_standby(folder: Path) -> bool:
    return (folder / STANDBY_SIGNAL).exists()


def timeline(folder: Path) -> int:
    """The timeline a server is on: each promotion begins a new one, and leaves a history file."""
    histories = (folder / "pg_wal").glob("????????.history")
    return max((int(path.stem, 16) for path in histories), default=1)


def history(folder: Path) -> dict[int, int]:
    """The position at which each timeline before this server's own was left, in bytes."""
    path = folder / "pg_wal" / f"{timeline(folder):08X}.history"
    lines = path.read_text().splitlines() if path.exists() else []
    fields = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    return {int(left): _position(at) for left, at, *_ in fields}


def system_identifier(folder: Path) -> int:
    """Tells a server, with all its copies, from every other. First in the control file since its first format."""
    with (folder / "global" / "pg_control").open("rb") as file:
        return int.from_bytes(file.read(8), sys.byteorder)


def newest_primaries(folders: Mapping[N, Path]) -> list[N]:
    """The servers that would be primary on the newest timeline: one, but for what only a person can have done."""
    timelines = {
        node: timeline(folder)
        for node, folder in folders.items()
        if folder.exists() and not is_standby(folder)
    }
    newest = max(timelines.values(), default=0)
    return [node for node, each in timelines.items() if each == newest]


def primary(shard: str, folders: Mapping[str, Path]) -> str:
    """The name of a shard's primary. Raises `ClusterError` where none is, or more than one."""
    found = newest_primaries(folders)
    if not found:
        made = [name for name, folder in folders.items() if folder.exists()]
        raise ClusterError(f"{shard} has no primary: every one of {', '.join(made)} is a replica")
    if len(found) > 1:
        raise ClusterError(f"{shard} has more than one primary on disk: {', '.join(found)}")
    return found[0]


def _position(text: str) -> int:
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)
