"""What happened, as lines of one file that all workers of this machine write to and read.

Each worker sees for itself that a node went silent or a flag went on, and says so; whoever comes second finds it said.
Nobody is in charge, so nobody can be missing. The file outlives the workers and the service, and stays small.

A line is one JSON object: `id` rises, `at` is in seconds since 1970, `key` and `state` are what is compared.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep, time
from typing import Literal

import msgspec

Level = Literal["info", "warning", "error"]
Kind = Literal["node", "failover", "flag", "move", "map", "server", "worker"]

# Kept when the file is cut, which is when it has twice as many. A page shows the last hundred.
KEPT = 200
SHOWN = 100
# Workers look once a second: what another one has said so lately is the same happening.
SAME_SECONDS = 3.0
# A line takes microseconds. Who holds the file longer is frozen; nobody waits for him, it is said a second later.
LOCK_SECONDS = 0.05
_LOCK_PAUSE_SECONDS = 0.005


class Happening(msgspec.Struct, frozen=True):
    """What a worker has noticed. `key` names whose state it is, `state` what it is now."""

    kind: Kind
    level: Level
    subject: str
    text: str
    key: str
    state: str
    store_id: str | None = None  # for the operator's eyes


class Event(msgspec.Struct, frozen=True):
    """A happening in the file."""

    id: int
    at: float
    kind: Kind
    level: Level
    subject: str
    text: str
    key: str
    state: str
    store_id: str | None = None


class EventLog:
    """The file. `path` is in a folder that exists when somebody writes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: tuple[tuple[int, int, int], list[Event]] | None = None

    def write(self, happenings: Sequence[Happening]) -> bool:
        """Add those that nobody has said yet. False where the file could not be had, and nothing was written."""
        try:
            with self._locked() as held:
                if held:
                    self._add(happenings)
                return held
        except OSError:
            return False

    def after(self, number: int) -> list[Event]:
        """Events with a higher number, the oldest first: the last hundred at most."""
        return [event for event in self.events() if event.id > number][-SHOWN:]

    def events(self) -> list[Event]:
        """All that are kept."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return []
        version = found.st_ino, found.st_size, found.st_mtime_ns
        if self._read is None or self._read[0] != version:
            self._read = version, list(_parse(self._path.read_bytes()))
        return self._read[1]

    def _add(self, happenings: Sequence[Happening]) -> None:
        events = self.events()
        at = time()
        number = events[-1].id if events else 0
        new: list[Event] = []
        for each in happenings:
            if _was_said(each, [*events, *new], at):
                continue
            number += 1
            new.append(Event(id=number, at=round(at, 3), **msgspec.structs.asdict(each)))
        if not new:
            return
        if len(events) + len(new) > 2 * KEPT:
            # Beside the old one and then in its place: a reader finds the one or the other, and both whole.
            beside = self._path.with_suffix(".new")
            beside.write_bytes(_lines([*events, *new][-KEPT:]))
            beside.replace(self._path)
            return
        with open(os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "wb", 0) as file:
            file.write(_lines(new))

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """Whether the file is this process's. Its lock is another file, since the file itself is replaced."""
        with open(os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600), "rb") as lock:
            until = monotonic() + LOCK_SECONDS
            while True:
                try:
                    # Never waits inside the call: it would hold up every greenlet of this worker.
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if monotonic() > until:
                        yield False
                        return
                    sleep(_LOCK_PAUSE_SECONDS)
                else:
                    yield True
                    return


def _was_said(happening: Happening, events: Sequence[Event], now: float) -> bool:
    of_key = [event for event in events if event.key == happening.key]
    if not of_key:
        return False
    lately = [event for event in of_key if now - event.at < SAME_SECONDS]
    return any(event.state == happening.state for event in (of_key[-1], *lately))


def _parse(text: bytes) -> Iterator[Event]:
    for line in text.splitlines():
        try:
            yield _decode(line)
        except (msgspec.DecodeError, msgspec.ValidationError):
            continue  # of another version, or the disk was full


def _lines(events: Sequence[Event]) -> bytes:
    return b"".join(_encode(event) + b"\n" for event in events)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Event).decode
