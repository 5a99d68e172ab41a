"""UUIDv7 (RFC 9562 section 5.7): 48 bits of milliseconds, then a counter and randomness.

Ids of one process rise strictly, so that a list by id is a list by time (`created_at` is the id's own millisecond).
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from datetime import UTC, datetime

_VERSION_AND_VARIANT = (7 << 76) | (0b10 << 62)
_COUNTER_BITS = 42  # rand_a's 12 bits and the first 30 of rand_b (RFC 9562 section 6.2, method 1)


def build(milliseconds: int, low_74_bits: int) -> uuid.UUID:
    """The UUIDv7 of this millisecond with these 74 free bits; the seeder makes its reproducible ids with it."""
    value = (milliseconds & (1 << 48) - 1) << 80
    value |= (low_74_bits >> 62 & 0xFFF) << 64
    value |= low_74_bits & (1 << 62) - 1
    return uuid.UUID(int=value | _VERSION_AND_VARIANT)


def timestamp(identifier: uuid.UUID) -> datetime:
    """The moment an id was made, to the millisecond, UTC."""
    return datetime.fromtimestamp((identifier.int >> 80) / 1000, UTC)


class _Generator:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._milliseconds = 0
        self._counter = 0

    def next(self) -> uuid.UUID:
        now = time.time_ns() // 1_000_000
        with self._lock:
            if now > self._milliseconds:
                # A fresh random counter with its top bit clear leaves 2^41 steps before it could overflow.
                self._milliseconds = now
                self._counter = int.from_bytes(os.urandom(6)) & (1 << _COUNTER_BITS - 1) - 1
            else:
                # Same millisecond, or a clock that stepped back: keep the last one and count on.
                self._counter += 1
            milliseconds, counter = self._milliseconds, self._counter
        return build(milliseconds, counter << 32 | int.from_bytes(os.urandom(4)))


_generator = _Generator()


def new_id() -> uuid.UUID:
    """A new UUIDv7, greater than every one this process made before."""
    return _generator.next()
