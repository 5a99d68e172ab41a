"""Running `flask` commands as a person does; and a server that is frozen meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import psycopg
from flask import Flask

import commands
from config import Settings
from tests.cluster_fixtures import as_environment

ROOT = Path(__file__).resolve().parent.parent


class Answer(NamedTuple):
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


def flask(settings: Settings, *arguments: str) -> Answer:
    """Run one command with these settings, in this process: a new one takes a second to start."""
    app = Flask("commandline")
    commands.init_app(app)
    result = app.test_cli_runner().invoke(args=arguments, env=environment(settings))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Answer(result.exit_code, result.stdout, result.stderr)


def flask_process(settings: Settings | None, *arguments: str) -> Answer:
    """The same in a process of its own, through the whole service's `create_app`; also without any settings."""
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "app", *arguments],
        cwd=ROOT,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def environment(settings: Settings | None) -> Mapping[str, str]:
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    # Where there are no settings, a person's own `make up` in this folder must not lend its own.
    return inherited | (as_environment(settings) if settings else {"VAR": os.devnull})


def assert_refused(answer: Answer, *words: str) -> None:
    """It failed, with one line on stderr that holds these words, and no traceback."""
    assert answer.returncode == 1, answer
    (line,) = [line for line in answer.stderr.splitlines() if line.startswith("Error: ")]
    assert "Traceback" not in answer.stderr
    for word in words:
        assert word in line


@contextmanager
def frozen(dsn: str) -> Iterator[None]:
    """Stop every process of the server that this leads to, with SIGSTOP: connections stay, and are silent."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("SELECT pg_read_file('postmaster.pid')").fetchone()
    assert row is not None
    parent = psutil.Process(int(row[0].split()[0]))
    parent.suspend()  # first, so that it starts no others
    stopped = [parent, *parent.children()]
    try:
        for process in stopped:
            with suppress(psutil.NoSuchProcess):  # one that was ending
                process.suspend()
        yield
    finally:
        for process in reversed(stopped):
            with suppress(psutil.NoSuchProcess):
                process.resume()
