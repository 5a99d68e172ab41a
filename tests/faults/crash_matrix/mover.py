"""`python -m moves` that stands still after chosen deeds until it may go on.

As many stores are on the move as have a gate at which nobody has stood yet; otherwise as few as ever.

$VAR/gates/STORE says after which deed of that store's move, and the how manieth of them. STORE.reached appears there
when it has come so far, with the mover's process id, and it goes on when STORE.open does. Once: whoever does the deed
later passes.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import UUID

import config
from moves import __main__ as program
from moves import mover
from moves.record import Move
from moves.side import Side
from moves.switch import Handover
from tests.faults.crash_matrix.steps import DEEDS, deed_name

_POLL_SECONDS = 0.005


class Gates:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._done: Counter[tuple[UUID, str]] = Counter()

    def stand(self, store_id: UUID, deed: str) -> None:
        """Stand still if this is where to."""
        gate = self._folder / str(store_id)
        if not gate.exists():
            return
        with self._lock:
            self._done[store_id, deed] += 1
            number = self._done[store_id, deed]
        reached = gate.with_suffix(".reached")
        if gate.read_text() != f"{deed} {number}" or reached.exists():
            return
        written = gate.with_suffix(".writing")
        written.write_text(str(os.getpid()))
        written.rename(reached)
        while not gate.with_suffix(".open").exists():
            time.sleep(_POLL_SECONDS)

    def are_shut(self) -> bool:
        """Whether there is one at which nobody has stood."""
        gates = {path.stem for path in self._folder.iterdir() if not path.suffix}
        return bool(gates - {path.stem for path in self._folder.iterdir() if path.suffix == ".reached"})


def _store(arguments: Iterable[Any]) -> UUID:
    """Whose deed it is."""
    for each in arguments:
        if isinstance(each, Move):
            return each.store_id
        if isinstance(each, Handover):
            return each.move.store_id
        if isinstance(each, Side):
            return UUID(str(each.values["store"]))
    raise AssertionError("a deed of no store")


def _standing(gates: Gates, name: str, deed: Any) -> Any:
    def do(*arguments: Any, **options: Any) -> Any:
        done = deed(*arguments, **options)
        gates.stand(_store(arguments), name)
        return done

    return do


def main() -> int:
    gates = Gates(config.load().var / "gates")
    for owner, name in DEEDS:
        setattr(owner, name, _standing(gates, deed_name(owner, name), getattr(owner, name)))
    if gates.are_shut():
        mover.COPIES = mover.UNDOABLE = 20
    return program.main()


if __name__ == "__main__":
    sys.exit(main())
