"""What the commands print: one line an error; tables and progress for a person, plain lines for a pipe."""

from __future__ import annotations

import functools
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import click
import psycopg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from errors import MarketplaceError
from sql.session import error_line

# What psycopg says when a DSN names several hosts and none will do.
_TRIED = "Multiple connection attempts failed. All failures were:"
_ATTEMPT = re.compile(
    r"- host: '([^']*)', port: '([^']*)'[^:]*(?:: '[^']*')?: (?:connection failed: connection to .*? failed: )?"
    r"(.*?)(?= - host: |$)"
)

P = ParamSpec("P")
T = TypeVar("T")

# Between two lines of progress where there is no terminal: a log stays readable.
LINE_SECONDS = 3.0


def plain_errors(command: Callable[P, T]) -> Callable[P, T]:
    """Ends a command with one line on stderr and exit status 1 where it meets an error it knows."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except (MarketplaceError, psycopg.Error) as error:
            raise Failure(error_text(error)) from error

    return wrapped


class Failure(click.ClickException):
    """Ends a command with this message, made one line, and exit status 1."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def error_text(error: BaseException) -> str:
    return one_line(error_line(error) if isinstance(error, psycopg.Error) else str(error))


def one_line(message: str) -> str:
    """libpq's report on several hosts, eight lines of it, as `host:port reason; host:port reason`."""
    message = " ".join(message.split())
    before, tried, attempts = message.partition(_TRIED)
    if not tried:
        return message
    reasons = [f"{host}:{port} {reason}" for host, port, reason in _ATTEMPT.findall(attempts)]
    what = before.partition("connection failed:")[0].strip() or "no server could be used:"
    return f"{what} {'; '.join(reasons)}"


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A ruled table on a terminal, else aligned columns as wide as they need: a pipe gets every letter."""
    if sys.stdout.isatty():
        table = Table(*headings)
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        return
    widths = [max(len(row[i]) for row in (headings, *rows)) for i in range(len(headings))]
    for row in (headings, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """On stderr, a bar on a terminal, else a line every few seconds.

    Gives the function that advances it by so many rows, from any thread.
    """
    if sys.stderr.isatty():
        columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=total)
            yield lambda rows: bar.advance(task, rows)
    else:
        yield _Lines(title, total)


class _Lines:
    def __init__(self, title: str, total: int) -> None:
        self._title, self._total, self._done = title, total, 0
        self._lock = threading.Lock()
        self._next = time.monotonic() + LINE_SECONDS

    def __call__(self, rows: int) -> None:
        with self._lock:
            self._done += rows
            if (now := time.monotonic()) >= self._next:
                self._next = now + LINE_SECONDS
                click.echo(f"{self._title}: {self._done:,} of {self._total:,} rows", err=True)
