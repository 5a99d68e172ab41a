"""Flights: what goes out together, what comes back, and what a failure in the middle leaves behind."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import pq

from pools import ShardConnection
from pools.flight import flight
from tests.cluster_fixtures import Databases


@pytest.fixture
def connection(databases: Databases) -> Iterator[ShardConnection]:
    with ShardConnection.connect(databases.dsn("shard-0"), autocommit=True) as connection:
        connection.execute("CREATE TEMP TABLE kept (number integer PRIMARY KEY)")
        yield connection


def kept(connection: ShardConnection) -> list[int]:
    return [row[0] for row in connection.execute("SELECT number FROM kept ORDER BY number").fetchall()]


def insert(connection: ShardConnection, number: int) -> None:
    connection.execute("INSERT INTO kept VALUES (%s)", [number], prepare=True)


def test_every_statements_answer_is_there_after_the_flight(connection: ShardConnection) -> None:
    first, second = connection.cursor(), connection.cursor()
    for number in range(3):
        with flight(connection):
            first.execute("SELECT %s::integer", [number], prepare=True)
            second.execute("SELECT %s::text", [str(number)])
        assert (first.fetchone(), second.fetchone()) == ((number,), (str(number),))
    assert connection.pgconn.pipeline_status == pq.PipelineStatus.OFF


def test_an_answer_larger_than_every_buffer_comes_through(connection: ShardConnection) -> None:
    cursor, text = connection.cursor(), "x" * 1_000_000
    with flight(connection):
        for _ in range(4):
            cursor.execute("SELECT %s::text", [text])
    row = cursor.fetchone()
    assert row is not None
    assert len(row[0]) == len(text)


def test_the_first_failure_is_raised_and_nothing_behind_it_runs(connection: ShardConnection) -> None:
    insert(connection, 1)

    def write() -> None:
        with flight(connection):
            connection.execute("BEGIN", prepare=True)
            insert(connection, 2)
            insert(connection, 1)
            connection.execute("DELETE FROM kept", prepare=True)
            connection.execute("COMMIT", prepare=True)

    for _ in range(2):  # the second time, what the server passed over is not taken for prepared
        with pytest.raises(psycopg.errors.UniqueViolation):
            write()
        assert connection.info.transaction_status == pq.TransactionStatus.INERROR
        connection.rollback()
        assert kept(connection) == [1]
    connection.execute("DELETE FROM kept", prepare=True)
    write_anew = connection.cursor()
    with flight(connection):
        write_anew.execute("COMMIT", prepare=True)
    assert kept(connection) == []


def test_a_flight_whose_block_raises_sends_nothing(connection: ShardConnection, databases: Databases) -> None:
    def write() -> None:
        with flight(connection):
            connection.execute("SELECT pg_advisory_lock(815)")
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert connection.closed
    with psycopg.connect(databases.dsn("shard-0")) as other:
        assert other.execute("SELECT pg_try_advisory_lock(815)").fetchone() == (True,)
