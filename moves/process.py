"""The mover as a process of its own: copying and comparing take a processor, and no worker's requests wait for that.

Whoever finds that there is something to move and nobody who does it starts one; of several that are started, one gets
the lease. It ends when nothing is left, or with whoever started it, killed or not: then the kernel closes its standard
input.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import fields
from time import monotonic

import psycopg

from config import ROOT, Settings
from errors import Unavailable
from routing.catalog import Catalog
from sql import query

# It is killed then: whatever it was doing is taken up by the next one all the same.
STOP_SECONDS = 3.0
# So long it may run and not be the mover: longer than it takes to start, or to give up what was under way.
IDLE_SECONDS = 12.0
# What is run (moves/__main__.py).
MOVER = "moves"
# Of the service's own: a mover has no figures to write where the workers write theirs.
_NOT_INHERITED = ("PROMETHEUS_MULTIPROC_DIR",)


class MoverProcess:
    """Starts a mover where one is needed. For one process, and any thread of it."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._settings = settings
        self._catalog = catalog
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._idle_since: float | None = None

    @property
    def is_possible(self) -> bool:
        """Whether these settings have the administrator's role, which a mover takes."""
        return bool(self._settings.admin_user)

    def look(self) -> None:
        """Start one if there is something to do and nobody does it; a catalog that is away is asked next time."""
        if not self.is_possible:
            return
        try:
            with self._catalog.connect() as connection:
                row = connection.execute(query("has_work_for_mover").text).fetchone()
        except (psycopg.Error, Unavailable):
            return
        if not (row and row[0]):
            self._idle_since = None
        elif not self.is_running():
            self._start()
        elif self._idle_since is None:
            self._idle_since = monotonic()
        elif monotonic() - self._idle_since > IDLE_SECONDS:
            self._replace()

    def wait(self) -> None:
        """Until nothing is left to do for the one that was started here."""
        process = self._process
        if process is not None:
            process.wait()

    def stop(self) -> None:
        """End it; what is under way is taken up by the next one."""
        with self._lock:
            self._stopped = True
            process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            return
        process.kill()
        process.wait()

    def is_running(self) -> bool:
        with self._lock:
            return self._process is not None and self._process.poll() is None

    def _replace(self) -> None:
        """It runs and is not the mover, as one that is frozen: killed, it cannot wake when another one has its work."""
        self._idle_since = None
        with self._lock:
            process = self._process
        if process is not None:
            process.kill()
            process.wait()
            self._start()

    def _start(self) -> None:
        told = {field.name.upper(): str(getattr(self._settings, field.name)) for field in fields(Settings)}
        inherited = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        with self._lock:
            if self._stopped or (self._process is not None and self._process.poll() is None):
                return
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.close()
            self._process = subprocess.Popen(  # noqa: S603 - a module of ours
                [sys.executable, "-m", MOVER],
                cwd=ROOT,
                env={**inherited, **told},
                stdin=subprocess.PIPE,
            )
