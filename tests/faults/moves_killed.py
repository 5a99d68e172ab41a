"""A mover that is killed (SIGKILL) right after it has done so many things. A process of its own.

python -m tests.faults.moves_killed COUNT
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

import config
from moves import drive, replication
from moves.mover import Mover
from moves.record import Record
from moves.side import Side

# Everything that changes something, but for what is only written down.
DEEDS: tuple[tuple[Any, str], ...] = (
    (Side, "claim"),
    (Side, "block"),
    (Side, "drain"),
    (Side, "write_mark"),
    (Side, "hold_block"),
    (Side, "unblock"),
    (Side, "prepare"),
    (Side, "depart"),
    (Side, "open"),
    (Side, "retract"),
    (Side, "delete_batch"),
    (Side, "forget"),
    (Record, "register"),
    (Record, "decide"),
    (Record, "opened"),
    (Record, "forget"),
    (Record, "finish"),
    (replication, "publish"),
    (replication, "make_slot"),
    (replication, "subscribe"),
    (replication, "enable"),
    (replication, "drop"),
    (drive, "Snapshot"),
    (drive, "copy_rows"),
)


def main() -> None:
    left = int(sys.argv[1])
    lock = threading.Lock()

    def fatal(name: str, deed: Any) -> Any:
        def do(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            done = deed(*arguments, **options)
            with lock:
                left -= 1
                if left == 0:
                    sys.stdout.write(name)
                    sys.stdout.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
            return done

        return do

    for owner, name in DEEDS:
        setattr(owner, name, fatal(name, getattr(owner, name)))
    Mover(config.load()).run()
    sys.stdout.write("finished")


if __name__ == "__main__":
    main()
