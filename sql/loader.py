"""Named queries: SQL files in, checked `Query` values out.

One file a table. A query is a header, a sentence, a statement:

    -- name: list_products
    -- role: replica
    -- returns: many
    -- A store's products, newest first; the primary key serves it, read backwards.
    SELECT ... FROM products AS p WHERE p.store_id = %(store_id)s ...

`role` is who may run it: `primary`, or `replica`, which then must only read. `returns` is one, many or none
(rows). `spans: stores` is the fourth header, for the few queries that are not about one store; every other
one proves that it stays inside its store (sql/tenancy.py). Whatever is wrong is told by file and line, and
the process does not start.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, cast

from errors import QueryFileError
from sql.readonly import check_reads_only, returns_rows, star_in_answer
from sql.schema import Schema
from sql.statement import Statement, StatementError, parse
from sql.tenancy import check_tenancy

ROOT = Path(__file__).resolve().parent.parent

Role = Literal["primary", "replica"]
Returns = Literal["one", "many", "none"]

_HEADER = re.compile(r"--\s*(?P<key>[a-z_]+)\s*:\s*(?P<value>.*?)\s*")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_VALUES: Mapping[str, tuple[str, ...]] = {
    "role": ("primary", "replica"),
    "returns": ("one", "many", "none"),
    "spans": ("stores",),
}
_REQUIRED = ("role", "returns")


@dataclass(frozen=True, slots=True)
class Query:
    """One named query. `text` is for psycopg, with `%(name)s` placeholders; its name stands in a comment
    inside, so that pg_stat_activity, pg_stat_statements and the server's log say which query they mean."""

    name: str
    role: Role
    returns: Returns
    about: str
    text: str
    parameters: frozenset[str]
    file: str
    line: int
    spans_stores: bool = False


class Queries(Mapping[str, Query]):
    """The loaded queries by name; an unknown name raises `QueryFileError` with the names that come close."""

    def __init__(self, queries: Mapping[str, Query]) -> None:
        self._queries = dict(queries)

    def __getitem__(self, name: str) -> Query:
        try:
            return self._queries[name]
        except KeyError:
            close = get_close_matches(name, self._queries, n=3)
            hint = f": is it {' or '.join(close)}?" if close else ""
            raise QueryFileError(f"no query is named {name!r} in sql/queries/{hint}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._queries

    def __iter__(self) -> Iterator[str]:
        return iter(self._queries)

    def __len__(self) -> int:
        return len(self._queries)


def load(folder: Path, schema: Schema) -> Queries:
    """Read and check every `*.sql` of a folder. Raises `QueryFileError("path:line: what, how to mend")`."""
    queries: dict[str, Query] = {}
    for path in sorted(folder.glob("*.sql")):
        for query in read_file(path, schema):
            if query.name in queries:
                other = queries[query.name]
                raise QueryFileError(
                    f"{query.file}:{query.line}: {query.name} is named a second time;"
                    f" the first is at {other.file}:{other.line}"
                )
            queries[query.name] = query
    return Queries(queries)


def read_file(path: Path, schema: Schema) -> list[Query]:
    """The queries of one file, in its order."""
    file = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    starts = [number for number, line in enumerate(lines) if _key(line) == "name"]
    for number, line in enumerate(lines[: starts[0]] if starts else lines):
        if line.strip() and not line.startswith("--"):
            raise QueryFileError(f"{file}:{number + 1}: begin the query with a line '-- name: ...'")
    ends = [*starts[1:], len(lines)]
    return [_read_query(file, lines, begin, end, schema) for begin, end in zip(starts, ends, strict=True)]


def _read_query(file: str, lines: list[str], begin: int, end: int, schema: Schema) -> Query:
    """One query, lines[begin:end]; its first line is the name."""
    number = begin
    try:
        headers, number = _read_headers(lines, begin, end)
        about, body = _read_about(lines, number, end)
        number = body
        statement = parse("\n".join(lines[body:end]))
        _check(headers, statement, schema)
    except StatementError as refused:
        line = min(number + refused.line, end - 1)  # what is missing is missed at the end
        raise QueryFileError(f"{file}:{line + 1}: {refused}") from refused
    return Query(
        name=headers["name"],
        role=cast(Role, headers["role"]),
        returns=cast(Returns, headers["returns"]),
        about=about,
        text=_signed(statement.source, headers["name"]),
        parameters=frozenset(statement.parameters),
        file=file,
        line=begin + 1,
        spans_stores="spans" in headers,
    )


def _key(line: str) -> str | None:
    match = _HEADER.fullmatch(line)
    return match["key"] if match else None


def _read_headers(lines: list[str], begin: int, end: int) -> tuple[dict[str, str], int]:
    """The headers, and the number of the line after them. A refusal's line counts from `begin`."""
    headers: dict[str, str] = {}
    number = begin
    while number < end and (match := _HEADER.fullmatch(lines[number])):
        key, value, offset = match["key"], match["value"], number - begin
        if key == "name":
            if not _NAME.fullmatch(value):
                raise StatementError(offset, f"name {value!r}: write verb and noun, such as list_products")
        elif key not in _VALUES:
            raise StatementError(offset, f"unknown header {key!r}: there are name, role, returns and spans")
        elif value not in _VALUES[key]:
            raise StatementError(offset, f"{key}: {value!r} is not one of: {', '.join(_VALUES[key])}")
        if key in headers:
            raise StatementError(offset, f"header {key!r} is here twice: keep one")
        headers[key] = value
        number += 1
    for key in _REQUIRED:
        if key not in headers:
            raise StatementError(0, f"{headers['name']} has no header '-- {key}: {'|'.join(_VALUES[key])}'")
    return headers, number


def _read_about(lines: list[str], begin: int, end: int) -> tuple[str, int]:
    """The sentence, and the number of the first line that is neither comment nor blank."""
    about: list[str] = []
    number = begin
    while number < end and (lines[number].startswith("--") or not lines[number].strip()):
        if _key(lines[number]) in {*_VALUES, "name"}:
            raise StatementError(number - begin, "a header below the sentence: put it above, under the name")
        about.append(lines[number].removeprefix("--").strip())
        number += 1
    text = " ".join(filter(None, about))
    if not text:
        raise StatementError(
            0, "no sentence: say below the headers what the query is for and which index serves it"
        )
    return text, number


def _check(headers: Mapping[str, str], statement: Statement, schema: Schema) -> None:
    if headers["role"] == "replica":
        check_reads_only(statement, schema)
    if headers["returns"] != "none" and not returns_rows(statement.tree):
        raise StatementError(
            0, f"returns: {headers['returns']}, but has no RETURNING: add it, or say returns: none"
        )
    star = star_in_answer(statement.tree)
    if star:
        # Prepared once, it would fail after the next ADD COLUMN: "cached plan must not change result type".
        raise StatementError(statement.line(star), "* in the answer changes with the table: name the columns")
    check_tenancy(statement, schema, spans_stores="spans" in headers)


def _signed(source: str, name: str) -> str:
    """The name goes behind the first word: a comment in front is cut off by pg_stat_statements, one at the
    end by `track_activity_query_size`."""
    first_word = re.match(r"\(*\w+|", source)
    end = first_word.end() if first_word else 0
    return f"{source[:end]} /* {name} */{source[end:]}"
