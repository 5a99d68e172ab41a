"""Starting programs, remembering them in files, and stopping exactly those.

A process is known by its pid and the moment it started, so that a pid that the system has given away meanwhile
is never signalled. The record is a file, so that a later run finds what a killed supervisor left behind.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import psutil

from devcluster.account import Account
from devcluster.errors import ClusterError, Interrupted

# What a server gets of this process's environment: no secret, and nothing that steers libpq (PGHOST, PGOPTIONS).
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_POLL_SECONDS = 0.02
# A log is kept over restarts, and begun anew at the start that finds it larger: nothing else would ever cut it.
_LOG_BYTES = 10_000_000

Argument = str | Path


@dataclass(frozen=True, slots=True)
class Process:
    """A running server: `started` tells it from a later process that has got the same pid."""

    name: str
    kind: str
    pid: int
    started: str


def _signal_group(leader: int, number: int) -> None:
    """Signal a program that has a session of its own, and all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(leader, number)


def start_mark(pid: int) -> str | None:
    """When this process started, as something to compare; None where it does not run (a zombie does not)."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        if not psutil.LINUX:
            return str(process.create_time())
        # Ticks since boot: a wall-clock time would shift whenever the clock is set.
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}:{ticks}"
    except (psutil.Error, OSError):
        return None


class Launcher:
    """Runs programs as the servers' account, each in a session of its own.

    A session of its own keeps the terminal's Ctrl-C from the servers: the supervisor alone gets it, and stops
    them in order. Usable from several threads.
    """

    def __init__(self, account: Account, records: Path, logs: Path) -> None:
        self.account = account
        self.records = records
        self.logs = logs
        self._interrupted = False  # no lock: a signal's handler sets it
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def interrupt(self) -> None:
        """Give up starting: commands that run are ended, new ones refused with `Interrupted`."""
        self._interrupted = True

    def check(self) -> None:
        if self._interrupted:
            raise Interrupted("stopped while starting")

    def command(
        self,
        argv: Sequence[Argument],
        *,
        environ: Mapping[str, str] | None = None,
        cwd: Path = Path("/"),
        text: str = "",
        as_oneself: bool = False,
    ) -> str:
        """Run a program to its end and return what it printed. Raises `ClusterError` with its reason.

        It runs as the servers' account with an environment of almost nothing; `as_oneself`, as this process.
        """
        self.check()
        with subprocess.Popen(
            [str(part) for part in argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**(os.environ if as_oneself else server_environment()), **(environ or {})},
            cwd=cwd,
            start_new_session=True,
            **({} if as_oneself else self.account.demotion),
        ) as process:
            try:
                output = self._communicate(process, text.encode())
            except BaseException:
                _signal_group(process.pid, signal.SIGKILL)
                raise
        self.check()
        printed = output.decode(errors="replace")
        if process.returncode:
            reason = _telling_line(printed) or f"exit status {process.returncode}"
            raise ClusterError(f"{Path(argv[0]).name} failed: {reason}")
        return printed

    def _communicate(self, process: subprocess.Popen[bytes], given: bytes | None) -> bytes:
        while True:
            try:
                return process.communicate(given, timeout=0.2)[0]
            except subprocess.TimeoutExpired:
                given = None  # communicate() keeps what it has not written yet
                if self._interrupted:
                    # pg_basebackup leaves the half that streams the log behind, which holds the pipe and the primary.
                    _signal_group(process.pid, signal.SIGTERM)

    def server(
        self,
        name: str,
        kind: str,
        argv: Sequence[Argument],
        *,
        cwd: Path,
        environ: Mapping[str, str] | None = None,
        text: str = "",
        as_oneself: bool = False,
    ) -> Process:
        """Start a program that stays, its output going to `NAME.log`, and record it."""
        self.check()
        with self._open_log(name) as log:
            child = subprocess.Popen(
                [str(part) for part in argv],
                stdin=subprocess.PIPE if text else subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environ if environ is not None else server_environment(),
                cwd=cwd,
                start_new_session=True,
                **({} if as_oneself else self.account.demotion),
            )
        self._children[child.pid] = child
        process = Process(name, kind, child.pid, start_mark(child.pid) or "")
        self.record(process)
        if child.stdin:
            with (
                suppress(BrokenPipeError),
                child.stdin as pipe,
            ):  # it ended at once: whoever waits for it says so
                pipe.write(text.encode())
        return process

    def record(self, process: Process) -> None:
        write_private(self.records / f"{process.name}.json", json.dumps(asdict(process)))

    def recorded(self) -> list[Process]:
        """What was started and not stopped since, by this supervisor or an earlier one; some may be dead."""
        found = []
        for path in sorted(self.records.glob("[!.]*.json")):
            with suppress(FileNotFoundError):  # stopped, and forgotten, meanwhile
                found.append(Process(**json.loads(path.read_text())))
        return found

    def alive(self, process: Process) -> bool:
        child = self._children.get(process.pid)
        if child is not None and child.poll() is not None:  # poll() reaps it
            return False
        return start_mark(process.pid) == process.started

    def stop(self, processes: Iterable[Process], signals: Sequence[tuple[int, float]]) -> list[Process]:
        """Stop these side by side: each signal in turn, with the seconds it is given. Returns what lives on."""
        left = list(processes)
        for number, seconds in signals:
            for process in left:
                self._signal(process, number)
            deadline = time.monotonic() + seconds
            while (left := [each for each in left if self.alive(each)]) and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
        return left

    def thaw(self, processes: Iterable[Process]) -> None:
        """Let stopped (SIGSTOP) ones go on, with their children: frozen, they take no signal but SIGKILL."""
        for process in processes:
            with suppress(psutil.Error):
                itself = psutil.Process(process.pid)
                for each in [itself, *itself.children(recursive=True)] if self.alive(process) else ():
                    each.send_signal(signal.SIGCONT)

    def end_groups(self, processes: Iterable[Process], seconds: float) -> None:
        """See the workers of stopped processes off: a parent that crashed while it stopped leaves its own.

        Each process leads a group of its own, whose number cannot be given away while anyone is in it.
        """
        left = list(processes)
        deadline = time.monotonic() + seconds
        while (left := [each for each in left if _group_signal(each.pid, 0)]) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        for process in left:
            _group_signal(process.pid, signal.SIGKILL)

    def forget_dead(self) -> None:
        """Remove the records of what runs no more, and reap it where it is this process's child."""
        for process in self.recorded():
            if not self.alive(process):
                (self.records / f"{process.name}.json").unlink(missing_ok=True)
        # All of them: one that was killed and started again has no record of its own left.
        for child in self._children.values():
            if child.poll() is None and start_mark(child.pid) is None:
                child.wait()  # it ended between the two

    def _signal(self, process: Process, number: int) -> None:
        if not self.alive(process):
            return
        with suppress(psutil.Error, ProcessLookupError):
            itself = psutil.Process(process.pid)
            # Its workers too: a killed parent cannot stop them any more. What a person started may lead no group.
            if number != signal.SIGKILL or not _group_signal(process.pid, number):
                itself.send_signal(number)

    def _open_log(self, name: str) -> IO[bytes]:
        path = self.logs / f"{name}.log"
        if path.exists() and path.stat().st_size > _LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
        return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def _group_signal(group: int, number: int) -> bool:
    """Signal a process group; 0 only asks. False where nobody is in it."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
        return False
    return True


def server_environment() -> dict[str, str]:
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return passed_on | {"LC_ALL": "C", "HOME": "/"}


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    with open(
        os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
    ) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _telling_line(printed: str) -> str:
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower() or "fatal" in line.lower()]
    return (telling or lines or [""])[-1]
