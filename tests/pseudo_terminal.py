"""A program at a pseudo-terminal, as a person has it before them."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

PATIENCE_SECONDS = 30.0
_ROWS, _COLUMNS = 200, 200  # so tall that no pager comes in between


class Terminal:
    """What the program has shown, and its keyboard."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._unread = ""

    def until(self, text: str) -> str:
        """Wait until the program has shown this; returns what came before it, and goes on behind it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while text not in self._unread:
            ready, _, _ = select.select([self._descriptor], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"waited in vain for {text!r}; there is {self._unread!r}"
            self._unread += os.read(self._descriptor, 65536).decode()
        before, _, self._unread = self._unread.partition(text)
        return before

    def enter(self, line: str) -> None:
        os.write(self._descriptor, f"{line}\n".encode())


@contextmanager
def terminal(command: Sequence[str], environ: Mapping[str, str], folder: str) -> Iterator[Terminal]:
    """Run a command at a terminal of its own; it is killed at the end."""
    pid, descriptor = pty.fork()
    if pid == 0:
        with suppress(BaseException):
            os.chdir(folder)
            os.execvpe(command[0], list(command), dict(environ))  # noqa: S606
        os._exit(127)
    try:
        fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
        yield Terminal(descriptor)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(descriptor)
