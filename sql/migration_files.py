"""Migration files: plain SQL, forward only, applied in the order of their numbers.

`0007_name.sql`, numbered from 0001 without gaps. The first line says which lock the migration takes and why
that is safe: `-- lock: ...`. It runs in one transaction; what cannot (CREATE INDEX CONCURRENTLY) says `--
transaction: none` in its second line, and then each of its statements must be one that may run twice.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pglast import ast, parse_sql
from pglast.enums import ObjectType
from pglast.parser import ParseError

from errors import MigrationError
from sql.statement import line_at

_FILE_NAME = re.compile(r"(?P<version>\d{4})_[a-z0-9_]+\.sql")
_LOCK = re.compile(r"--\s*lock:\s*\S.*")
_TRANSACTION = re.compile(r"--\s*transaction:\s*(?P<value>.*?)\s*")


@dataclass(frozen=True, slots=True)
class MigrationStatement:
    """One statement of a file. `index` is the name of the index that it makes CONCURRENTLY, if it does."""

    text: str
    line: int
    concurrent: bool
    index: str | None


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `name` is its name without the suffix, `0007_name`; `lock` its first line's sentence."""

    version: int
    name: str
    lock: str
    in_transaction: bool
    checksum: str
    statements: tuple[MigrationStatement, ...]
    path: Path


def read_migrations(folder: Path) -> tuple[Migration, ...]:
    """Every migration of a folder, in order. Raises `MigrationError`, naming the file that is malformed."""
    migrations: list[Migration] = []
    for path in sorted(folder.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if not match:
            raise MigrationError(f"{path}: name a migration as 0007_what_it_does.sql, in lower case")
        version, expected = int(match["version"]), len(migrations) + 1
        if migrations and version == migrations[-1].version:
            raise MigrationError(
                f"{path}: number {version:04} is taken by {migrations[-1].path.name}: renumber one"
            )
        if version != expected:
            raise MigrationError(f"{path}: number {expected:04} is missing before it: numbers rise by one")
        migrations.append(_read(path, version))
    if not migrations:
        raise MigrationError(f"{folder} holds no migrations")
    return tuple(migrations)


def _read(path: Path, version: int) -> Migration:
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    if not lines or not _LOCK.fullmatch(lines[0]):
        raise MigrationError(
            f"{path}:1: begin with '-- lock: ' and which lock it takes, and why that is safe"
        )
    transaction = _TRANSACTION.fullmatch(lines[1]) if len(lines) > 1 else None
    if transaction and transaction["value"] != "none":
        raise MigrationError(f"{path}:2: '-- transaction: none', or no such line")
    return Migration(
        version=version,
        name=path.stem,
        lock=lines[0].partition(":")[2].strip(),
        in_transaction=not transaction,
        # Of the text with \n, so that a checkout with other line ends is not an edit.
        checksum=hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        statements=_statements(path, text, in_transaction=not transaction),
        path=path,
    )


def _statements(path: Path, text: str, *, in_transaction: bool) -> tuple[MigrationStatement, ...]:
    try:
        trees = parse_sql(text)
    except ParseError as error:
        offset = error.args[1] if len(error.args) > 1 and isinstance(error.args[1], int) else 0
        raise MigrationError(f"{path}:{line_at(text, offset) + 1}: {error.args[0]}") from error
    if not trees:
        raise MigrationError(f"{path}: holds no statement")
    statements = []
    for tree in trees:
        begin = tree.stmt_location or 0
        end = begin + tree.stmt_len if tree.stmt_len else len(text)
        source = text[begin:end]
        line = line_at(text, begin + len(source) - len(source.lstrip())) + 1
        problem = _problem(tree.stmt, in_transaction=in_transaction)
        if problem:
            raise MigrationError(f"{path}:{line}: {problem}")
        node: Any = tree.stmt
        index = node.idxname if isinstance(node, ast.IndexStmt) and node.concurrent else None
        statements.append(MigrationStatement(source.strip(), line, _is_concurrent(node), index))
    return tuple(statements)


def _is_concurrent(node: Any) -> bool:
    return isinstance(node, (ast.IndexStmt, ast.DropStmt)) and bool(node.concurrent)


def _problem(node: Any, *, in_transaction: bool) -> str | None:
    if isinstance(node, ast.TransactionStmt):
        return "BEGIN and COMMIT are the runner's: leave them out"
    if not _is_concurrent(node):
        return None
    if in_transaction:
        return "CONCURRENTLY cannot run in a transaction: write '-- transaction: none' in line 2"
    # A run that died after the statement and before it was written down does it again.
    if isinstance(node, ast.IndexStmt) and not (node.idxname and node.if_not_exists):
        return "write CREATE INDEX CONCURRENTLY IF NOT EXISTS and a name, so that it may run twice"
    if isinstance(node, ast.DropStmt) and not node.missing_ok:
        kind = "INDEX" if node.removeType == ObjectType.OBJECT_INDEX else "..."
        return f"write DROP {kind} CONCURRENTLY IF EXISTS, so that it may run twice"
    return None
