"""A word that all workers of one service share: it changes when one of them could not have something remembered.

It lies in a page of memory that is made when this module is imported, and is common to whoever is forked after that:
gunicorn.conf.py imports it. So what one worker could not tell the Redis-compatible server the others know all the same,
before the request is answered. A service on another machine does not.
"""

from __future__ import annotations

import mmap
import secrets

_page = mmap.mmap(-1, mmap.PAGESIZE)
_words = memoryview(_page).cast("Q")


def note() -> None:
    """There is something. Any other value will do, whoever writes last."""
    _words[0] = secrets.randbits(64)


def latest() -> int:
    """What it is now; another one than before: there was something in between."""
    return _words[0]
