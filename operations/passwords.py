"""Passwords: scrypt (RFC 7914), kept as a PHC string, made off the path of every other request.

A hash costs a core for some 200 ms on purpose. In a worker it runs in one thread of gevent's own pool: hashlib lets
go of the interpreter meanwhile, the thread has the lowest priority, so that a sign-in storm only takes what the other
requests leave, and beyond a bounded queue it is answered 503 instead of piling up.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from gevent import monkey
from gevent.threadpool import ThreadPool

from errors import Unavailable

T = TypeVar("T")

# OWASP's password storage cheat sheet: N = 2^14, r = 8, p = 5 takes 16 MiB; N comes from the settings.
_R, _P = 8, 5
_KEY_BYTES = 32
_SALT_BYTES = 16
# Twice what scrypt says it needs (128 * r * N): OpenSSL refuses a tight bound.
_MEMORY_FACTOR = 2 * 128 * _R
# At six a second, who is last in this queue waits some eleven seconds, which a person still sits out.
MAX_WAITING = 64
_LOWEST_PRIORITY = 19


class PasswordHasher:
    """Makes and checks hashes. One for each worker."""

    def __init__(self, log2_n: int) -> None:
        self._log2_n = log2_n
        self._waiting = threading.BoundedSemaphore(MAX_WAITING)
        self._threads: ThreadPool | None = None

    def hash(self, password: str) -> str:
        """The string to keep. Raises `Unavailable` where too many wait."""
        return self._off_the_path(partial(hash_password, password, self._log2_n))

    def verify(self, password: str, kept: str | None) -> bool:
        """Whether the password is the kept one's; as slow with nothing kept. Raises `Unavailable`."""
        # Where there is no such customer a hash is made as well, so that the answer takes as long.
        work = partial(verify_password, password, kept) if kept else partial(self._hash_for_nobody, password)
        return self._off_the_path(work)

    def _hash_for_nobody(self, password: str) -> bool:
        hash_password(password, self._log2_n)
        return False

    def _off_the_path(self, work: Callable[[], T]) -> T:
        if not monkey.is_module_patched("threading"):
            return work()
        if not self._waiting.acquire(blocking=False):
            raise Unavailable("Too many are signing in at this moment.", retry_after_seconds=2)
        try:
            if self._threads is None:
                # Made by the first use and not by the constructor: threads do not survive gunicorn's fork.
                self._threads = ThreadPool(1)
                self._threads.apply(_lower_priority)
            result: T = self._threads.apply(work)
            return result
        finally:
            self._waiting.release()


def hash_password(password: str, log2_n: int) -> str:
    """`$scrypt$ln=14,r=8,p=5$salt$hash`, both base64 without padding."""
    salt = secrets.token_bytes(_SALT_BYTES)
    return f"$scrypt$ln={log2_n},r={_R},p={_P}${_encode(salt)}${_encode(_derive(password, salt, log2_n, _R, _P))}"


def verify_password(password: str, kept: str) -> bool:
    """Whether `kept`, made by `hash_password` with whatever cost, is this password's."""
    _, _, cost, salt, expected = kept.split("$")
    log2_n, r, p = (int(part.partition("=")[2]) for part in cost.split(","))
    return hmac.compare_digest(_derive(password, _decode(salt), log2_n, r, p), _decode(expected))


def _derive(password: str, salt: bytes, log2_n: int, r: int, p: int) -> bytes:
    n = 1 << log2_n
    return hashlib.scrypt(
        password.encode(), salt=salt, n=n, r=r, p=p, maxmem=_MEMORY_FACTOR * n, dklen=_KEY_BYTES
    )


def _lower_priority() -> None:
    if os.uname().sysname == "Linux":
        # On Linux a priority is a thread's own. Elsewhere it is the whole process's: leave it.
        os.setpriority(os.PRIO_PROCESS, 0, _LOWEST_PRIORITY)


def _encode(data: bytes) -> str:
    return base64.b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))
