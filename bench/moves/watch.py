"""Which phase of its move the store is in, moment by moment, as the catalog has it."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from typing import Self

from psycopg.conninfo import conninfo_to_dict

import config
from lab.servers import Servers

# Often enough for the short phases; the same while nothing moves, so that it costs both alike.
LOOK_SECONDS = 0.02
STILL = "nothing moves"

_PHASE = """
SELECT CASE
    WHEN tidied_at IS NOT NULL THEN 'nothing moves'
    WHEN state = 'done' AND undo_until > clock_timestamp() THEN 'done, follows back'
    WHEN finished_at IS NOT NULL THEN 'the old rows go'
    WHEN attempt = 0 THEN 'a mover begins'
    ELSE state
END
FROM moves ORDER BY id DESC LIMIT 1
"""
_END_UNDO = """
UPDATE moves SET undo_until = clock_timestamp() + %s * interval '1 second' WHERE id = %s AND undo_until IS NOT NULL
"""


class Watch:
    """Looks all the time, between `with` and its end. Times are the wall clock's."""

    def __init__(self, servers: Servers) -> None:
        catalog = conninfo_to_dict(config.load().catalog_dsn)["dbname"]
        node = servers.primary(servers.shards[0])
        self._connection = servers.connect(node, dbname=catalog)
        self._began: list[float] = [time.time()]
        self._phases: list[str] = [STILL]
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()
        self._connection.close()

    def now(self) -> str:
        return self._phases[-1]

    def at(self, moment: float) -> str:
        return self._phases[max(0, bisect_right(self._began, moment) - 1)]

    def spent(self) -> dict[str, float]:
        """Seconds in each phase, up to the last change."""
        found: dict[str, float] = {}
        for phase, began, ended in zip(self._phases, self._began, self._began[1:], strict=False):
            found[phase] = found.get(phase, 0.0) + ended - began
        return found

    def end_undoing(self, move_id: str, seconds: float) -> None:
        """Have the time for undoing be over in so many seconds from now."""
        with self._lock:
            self._connection.execute(_END_UNDO, [seconds, move_id])

    def _run(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            with self._lock:
                row = self._connection.execute(_PHASE).fetchone()
            phase = str(row[0]) if row else STILL
            if phase != self._phases[-1]:
                self._began.append(time.time())
                self._phases.append(phase)
