"""`python -m moves`: be the mover until there is nothing left to move, or until standard input ends.

Whoever starts it (moves/process.py) holds the other end of standard input: the mover does not outlive its parent,
however that ends. Exit status 0 when there is nothing left or another mover is at work.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

import config
import logs
from moves.mover import Mover


def main() -> int:
    settings = config.load()
    logs.configure(settings)
    mover = Mover(settings)

    def end_with_parent() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        mover.stop()

    threading.Thread(target=end_with_parent, name="parent", daemon=True).start()
    signal.signal(signal.SIGTERM, lambda _number, _frame: mover.stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the whole group gets it; the parent says when to stop
    mover.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
