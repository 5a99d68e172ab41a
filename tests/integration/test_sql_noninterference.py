"""What the tenancy proof is for, tested without looking at it: no accepted query's answer depends on other stores.

Random statements, most of them full of traps (outer joins, shadowed names, correlated subqueries, unions), go through
the proof. Each accepted one runs in databases that hold the same rows of one store and different rows of others: the
answers must be the same, and the others' rows untouched.
"""

# ruff: noqa: S608  (making SQL out of pieces is what it does)

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sql.schema import Schema
from sql.statement import StatementError, parse
from sql.tenancy import check_tenancy
from tests.cluster_fixtures import Databases

Connection = psycopg.Connection[tuple[Any, ...]]

TABLES = """
CREATE TABLE p (store_id uuid, id int, n int);
CREATE TABLE o (store_id uuid, id int, n int);
CREATE TABLE c (id int, n int);
"""
STORE, *OTHERS = (f"00000000-0000-7000-8000-00000000000{number}" for number in range(3))
BOUND = "%(store_id)s"
NAMES = ("a", "b", "x", "p", "o")
STATEMENTS = 3000
# Fewer would say that the generator makes nothing that the proof, or PostgreSQL, accepts.
LEAST_ANSWERS = 100


class Generator:
    """Statements that lean towards binding their store, and get it wrong in many ways."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def statement(self) -> str:
        names: list[str] = []
        queries = []
        while self._chance(0.25):
            name = self._one_of("w", "p", "o")
            queries.append(f"{name}{self._one_of('', '(store_id, id, n)')} AS ({self._select(1, [], names)})")
            names.append(name)
        prefix = f"WITH {', '.join(queries)} " if queries else ""
        if self._chance(0.9):
            return prefix + self._select(1, [], names)
        alias, (tables, aliases) = self._one_of(*NAMES), self._tables(1, [], names)
        change = self._one_of(
            f"UPDATE o AS {alias} SET n = 9 FROM {tables}", f"DELETE FROM p AS {alias} USING {tables}"
        )
        return f"{prefix}{change} WHERE {self._condition([alias, *aliases], 1, names)} RETURNING {alias}.id"

    def _select(self, depth: int, outer: list[str], names: list[str]) -> str:
        if depth and self._chance(0.1):
            operator = self._one_of("UNION", "UNION ALL", "EXCEPT", "INTERSECT")
            return f"{self._select(0, outer, names)} {operator} {self._select(0, outer, names)}"
        tables, aliases = self._tables(depth, outer, names)
        visible = aliases + (outer if self._chance(0.5) else [])
        second = f"{self._one_of(*visible)}.{self._one_of('id AS id', 'id', 'id AS store_id')}"
        columns = self._one_of("*", f"{self._store(visible)}, {second}, {self._one_of(*aliases)}.n")
        where = f" WHERE {self._condition(visible, depth, names)}" if self._chance(0.75) else ""
        return f"SELECT {columns} FROM {tables}{where}"

    def _tables(self, depth: int, outer: list[str], names: list[str]) -> tuple[str, list[str]]:
        tables, alias = self._item([], outer, depth, names)
        aliases = [alias]
        while len(aliases) < 3 and self._chance(0.45):
            item, alias = self._item(aliases, outer, depth, names)
            aliases.append(alias)
            kind = self._one_of("JOIN", "LEFT JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN")
            on = f"ON {self._condition(aliases, depth - 1, names)}"
            tables = f"{tables} {kind} {item} {self._one_of('USING (store_id)', on, on, on)}"
        return tables, aliases

    def _item(self, before: list[str], outer: list[str], depth: int, names: list[str]) -> tuple[str, str]:
        free = [name for name in NAMES if name not in before]
        alias = self._one_of(*free)
        if depth <= 0 or self._chance(0.7):
            return f"{self._one_of('p', 'o', 'p', 'o', 'c', *names)} AS {alias}", alias
        lateral = self._one_of("LATERAL ", "")
        query = self._select(depth - 1, outer + before if lateral else outer, names)
        return (
            f"{lateral}({query}) AS {alias}{self._one_of('', '', '(store_id, id, n)', '(id, store_id)')}",
            alias,
        )

    def _condition(self, visible: list[str], depth: int, names: list[str]) -> str:
        condition = self._atom(visible, depth, names)
        while self._chance(0.4):
            condition += f" {self._one_of(*['AND'] * 7, 'OR')} {self._atom(visible, depth, names)}"
        return f"NOT ({condition})" if self._chance(0.05) else condition

    def _atom(self, visible: list[str], depth: int, names: list[str]) -> str:
        store, other = self._store(visible), self._store(visible)
        atoms = (
            [f"{store} = {BOUND}"] * 5 + [f"{store} = {other}"] * 3 + [f"({store}, 1) = ({BOUND}, 1)", "true"]
        )
        if depth > 0:
            atoms += [f"{self._one_of('', 'NOT ')}EXISTS ({self._select(depth - 1, visible, names)})"]
            tables, aliases = self._tables(depth - 1, visible, names)
            condition = self._condition(aliases + visible, depth - 1, names)
            column = f"SELECT {self._store(aliases)} FROM {tables} WHERE {condition}"
            atoms += [f"{store} IN ({column})", f"{store} NOT IN ({column})", f"{store} = ({column} LIMIT 1)"]
        return self._one_of(*atoms)

    def _store(self, visible: list[str]) -> str:
        return "store_id" if self._chance(0.15) else f"{self._one_of(*visible)}.store_id"

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _one_of(self, *choices: str) -> str:
        return self._random.choice(choices)


@pytest.fixture(scope="module")
def connections(databases: Databases) -> Iterator[list[Connection]]:
    """Three schemas with the tables, where the store has the same rows and the others have different ones."""
    dsn = databases.dsn("shard-0", administrator=True)
    opened = []
    for others in range(3):
        connection = psycopg.connect(dsn, autocommit=True)
        opened.append(connection)
        connection.execute(f"CREATE SCHEMA variant_{others}".encode())
        connection.execute(
            f"SET search_path = variant_{others}; SET statement_timeout = '2s'; {TABLES}".encode()
        )
        connection.execute("INSERT INTO c VALUES (1, 1), (2, 2)")
        for seed, store in [(0, STORE), *((others, store) for store in OTHERS[:others])]:
            draw = random.Random(f"{seed} {store}")
            for table in ("p", "o", "p", "o", "p"):
                row = [store, draw.randrange(4), draw.randrange(4)]
                connection.execute(f"INSERT INTO {table} VALUES (%s, %s, %s)".encode(), row)
    yield opened
    for connection in opened:
        connection.close()


def answer(connection: Connection, statement: str) -> list[str] | None:
    """The answer and what the store then holds, in some fixed order; None where PostgreSQL refuses the statement."""
    rows_of = "SELECT t::text FROM (TABLE p UNION ALL TABLE o) AS t WHERE (store_id = %s) = %s"
    try:
        with connection.transaction(force_rollback=True):
            foreign = connection.execute(rows_of, [STORE, False]).fetchall()
            rows = connection.execute(statement.encode(), {"store_id": STORE}).fetchall()
            own = connection.execute(rows_of, [STORE, True]).fetchall()
            assert connection.execute(rows_of, [STORE, False]).fetchall() == foreign, statement
            return sorted(map(repr, rows)) + sorted(map(repr, own))
    except (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError):
        return None


def test_no_accepted_query_depends_on_other_stores(connections: list[Connection], tmp_path: Path) -> None:
    (tmp_path / "0001_tables.sql").write_text(TABLES, encoding="utf-8")
    schema, generator, answered = Schema.read(tmp_path), Generator(seed=1), 0
    for _ in range(STATEMENTS):
        statement = generator.statement()
        try:
            check_tenancy(parse(statement), schema, spans_stores=False)
        except StatementError:
            continue
        answers = [answer(connection, statement) for connection in connections]
        answered += answers[0] is not None
        assert all(one == other for one, other in pairwise(answers)), statement
    assert answered > LEAST_ANSWERS
