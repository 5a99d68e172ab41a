"""Several statements in one packet, and one wait for all their answers.

psycopg's pipeline waits for no answer in between either, but it sends each statement by itself: five system calls for
a write, each of which wakes the server. A flight keeps what is executed inside it and sends it at the block's end.

Source: https://www.postgresql.org/docs/current/libpq-pipeline-mode.html (libpq keeps what is sent in its buffer until
a Sync); https://www.psycopg.org/psycopg3/docs/advanced/pipeline.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import Pipeline
from psycopg.abc import PQGen

from pools.connection import ShardConnection


@contextmanager
def flight(connection: ShardConnection) -> Iterator[None]:
    """Execute inside; fetch after. A block that raises sends nothing, and its connection is closed.

    Raises, at the end, the error of the first statement that failed: the server passes over all those behind it.
    """
    pipeline = connection._pipeline = _Flight(connection)
    try:
        with pipeline:
            try:
                yield
            except BaseException:
                # psycopg counts statements as prepared from when they are executed; the server never saw these.
                pipeline.command_queue.clear()
                pipeline.result_queue.clear()
                connection.abandon()
                raise
    finally:
        connection._pipeline = None


class _Flight(Pipeline):
    """psycopg's pipeline with its two moments of sending made one. Private methods: `make test` tells of a change."""

    def _communicate_gen(self) -> PQGen[None]:
        """After each statement: not yet."""
        yield from ()

    def _exit_gen(self) -> PQGen[None]:
        """At the end: everything at once. The Sync ends it, so no flush is asked for as well."""
        if self.result_queue:
            self._enqueue_sync()
        while self.command_queue:
            self.command_queue.popleft()()
        try:
            yield from super()._communicate_gen()
        finally:
            yield from self._fetch_gen(flush=False)
