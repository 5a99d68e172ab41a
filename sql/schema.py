"""What the migrations make, read from their parse tree: tables with their columns, and functions.

The tenancy proof asks which tables are a tenant's: those with a column `store_id`. Nobody keeps a list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pglast import ast, parse_sql
from pglast.enums import AlterTableType, ObjectType
from pglast.parser import ParseError

from errors import QueryFileError
from sql.statement import function_name, line_at, walk

TENANT_COLUMN = "store_id"
_WORD = re.compile(r"[a-z_][a-z0-9_$]*")


@dataclass(frozen=True, slots=True)
class Table:
    """`columns` is None where the migrations do not spell them out (a view, CREATE TABLE AS)."""

    name: str
    columns: frozenset[str] | None

    @property
    def is_tenant(self) -> bool:
        """True where a row belongs to one store; also where we cannot know."""
        return self.columns is None or TENANT_COLUMN in self.columns


class Schema:
    """The tables and functions that a folder of migrations makes. Names are folded, schemas are left out."""

    def __init__(self) -> None:
        self._tables: dict[str, Table] = {}
        self._volatile: dict[str, bool] = {}
        # For each function what its body may name: every word of it, or None where it is only an expression.
        self._words: dict[str, frozenset[str] | None] = {}

    @classmethod
    def read(cls, tenant_migrations: Path, other_migrations: Path | None = None) -> Schema:
        """From the shards' migrations, and those of another database, whose tables are no tenant's, whatever
        columns they have. Raises `QueryFileError` where one cannot be parsed."""
        schema = cls()
        if other_migrations:
            catalog = cls()
            catalog._read_folder(other_migrations)
            schema._tables = {name: Table(name, frozenset()) for name in catalog._tables}
        schema._read_folder(tenant_migrations)
        return schema

    def table(self, name: str) -> Table | None:
        return self._tables.get(name)

    def may_read_tables(self, name: str) -> bool:
        """True for a function of the migrations that may read a tenant's table.

        False where its body is an expression over its arguments, or names no such table, runs no SQL that it puts
        together, and calls no function of which that is true.
        """
        words = self._words.get(name)
        if words is None:
            return False
        tenants = any(word in words for word, table in self._tables.items() if table.is_tenant)
        return tenants or "execute" in words or any(map(self.may_read_tables, words - {name}))

    def is_volatile(self, name: str) -> bool:
        """True for a function of the migrations that may write; false for one of PostgreSQL's own."""
        return self._volatile.get(name, False)

    def _read_folder(self, folder: Path) -> None:
        for path in sorted(folder.glob("*.sql")):
            text = path.read_text(encoding="utf-8")
            try:
                statements = parse_sql(text)
            except ParseError as error:
                offset = error.args[1] if len(error.args) > 1 and isinstance(error.args[1], int) else 0
                raise QueryFileError(f"{path}:{line_at(text, offset) + 1}: {error.args[0]}") from error
            for statement in statements:
                self._read(statement.stmt)

    def _read(self, node: Any) -> None:
        kind = type(node)
        if kind is ast.CreateStmt:
            self._set(node.relation.relname, self._created_columns(node))
        elif kind is ast.AlterTableStmt:
            self._alter(node)
        elif kind is ast.RenameStmt:
            self._rename(node)
        elif kind is ast.ViewStmt:
            self._set(node.view.relname, None)
        elif kind is ast.CreateTableAsStmt:
            self._set(node.into.rel.relname, None)
        elif kind is ast.CreateFunctionStmt:
            options = {option.defname: option.arg for option in node.options or ()}
            volatility = options.get("volatility")
            name = function_name(node.funcname)
            self._volatile[name] = (
                volatility is None or volatility.sval == "volatile" or self.is_volatile(name)
            )
            words = _words(node, options.get("as"))
            earlier = self._words.get(name)
            self._words[name] = words | earlier if words is not None and earlier is not None else words

    def _set(self, name: str, columns: Iterable[str] | None) -> None:
        self._tables[name] = Table(name, None if columns is None else frozenset(columns))

    def _created_columns(self, node: Any) -> set[str] | None:
        """Its own columns, those of tables it is LIKE, inherits from or is a partition of."""
        columns: set[str] = set()
        parents = list(node.inhRelations or ())
        for element in node.tableElts or ():
            if type(element) is ast.ColumnDef:
                columns.add(str(element.colname))
            elif isinstance(element, ast.TableLikeClause):
                parents.append(element.relation)
        for parent in parents:
            table = self._tables.get(parent.relname)
            if table is None or table.columns is None:
                return None
            columns |= table.columns
        return None if node.ofTypename else columns

    def _alter(self, node: Any) -> None:
        table = self._tables.get(node.relation.relname)
        if table is None or table.columns is None:
            return
        columns = set(table.columns)
        for command in node.cmds or ():
            if command.subtype == AlterTableType.AT_AddColumn:
                columns.add(command.def_.colname)
            elif command.subtype == AlterTableType.AT_DropColumn:
                columns.discard(command.name)
        self._set(table.name, columns)

    def _rename(self, node: Any) -> None:
        table = self._tables.get(node.relation.relname) if node.relation else None
        if table is None:
            return
        if node.renameType == ObjectType.OBJECT_COLUMN and table.columns is not None:
            self._set(table.name, table.columns - {node.subname} | {node.newname})
        elif node.renameType in {ObjectType.OBJECT_TABLE, ObjectType.OBJECT_VIEW}:
            self._set(node.newname, table.columns)


def _words(function: Any, text: Any) -> frozenset[str] | None:
    """Every name that the function's body may stand for; None for an expression that selects from nothing.

    A body in standard SQL (RETURN ...) is part of the tree; of one that is text, each word counts, comments too.
    """
    if function.sql_body is None:
        return frozenset(_WORD.findall(" ".join(part.sval for part in text or ()).lower()))
    found: set[str] = set()
    for part in walk(function.sql_body):
        if isinstance(part, ast.FuncCall):
            found.add(function_name(part.funcname))
        elif isinstance(part, ast.RangeVar):
            found.add(str(part.relname))
    return frozenset(found)
