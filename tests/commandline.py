"""Running `flask` as a person does, in a process of its own; and a server that is frozen meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg

from config import Settings
from tests.cluster_fixtures import as_environment

ROOT = Path(__file__).resolve().parent.parent


def flask(settings: Settings | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one command with these settings, or with none at all."""
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", "app", *arguments],
        cwd=ROOT,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def environment(settings: Settings | None) -> Mapping[str, str]:
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    # Where there are no settings, a person's own `make up` in this folder must not lend its own.
    return inherited | (as_environment(settings) if settings else {"VAR": os.devnull})


def assert_refused(answer: subprocess.CompletedProcess[str], *words: str) -> None:
    """It failed, with one line on stderr that holds these words, and no traceback."""
    assert answer.returncode == 1, answer
    (line,) = answer.stderr.splitlines()
    assert line.startswith("Error: ")
    for word in words:
        assert word in line


@contextmanager
def frozen(dsn: str) -> Iterator[None]:
    """Stop the server that this leads to, with SIGSTOP: it keeps its connections and says nothing."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("SELECT pg_read_file('postmaster.pid')").fetchone()
    assert row is not None
    pid = int(row[0].split()[0])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
