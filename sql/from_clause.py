"""The FROM clause of one query level: its relations, what each sees, and what its joins make equal.

An outer join restricts only the side that may find no row, and what a JOIN's ON sees is that join's own tables: both
are told here, in what an `Equality` may bind and in the scope it is read in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pglast import ast
from pglast.enums import JoinType

from sql.equalities import Equality, equal_pairs, texts
from sql.schema import Schema
from sql.scopes import Outputs, Relation, Scope
from sql.statement import Statement, StatementError

# WITH queries in sight, by name.
Withs = Mapping[str, Outputs]
Sides = tuple[list[Relation], list[Relation]]


@dataclass(slots=True)
class Level:
    """One query level: what its FROM clause brings, for the proof to solve."""

    scope: Scope
    withs: Withs
    equalities: list[Equality] = field(default_factory=list)
    # (what it is called, the query, what it sees, its renamed columns)
    subqueries: list[tuple[Relation, Any, Scope, list[str]]] = field(default_factory=list)
    # ON conditions and functions' arguments, which may hold subqueries, and what they see.
    expressions: list[tuple[Any, Scope]] = field(default_factory=list)
    # Tenant tables that must be bound, and where each is named.
    tenants: list[tuple[Relation, Any]] = field(default_factory=list)

    def assume(self, condition: Any, scope: Scope, binds: list[Relation]) -> None:
        """Every row in which one of `binds` is there fulfils this condition."""
        self.equalities += [Equality(left, right, scope, binds) for left, right in equal_pairs(condition)]


class FromClause:
    """Reads FROM items of one statement. `seen` are the ids of the table references that were read."""

    def __init__(self, statement: Statement, schema: Schema) -> None:
        self._statement = statement
        self._schema = schema
        self.seen: set[int] = set()

    def read(self, item: Any, level: Level, problems: list[StatementError]) -> list[Relation]:
        """Add what an item of FROM brings to its level, and return those relations."""
        before = level.scope.narrowed(list(level.scope.relations))  # what a LATERAL item sees
        if isinstance(item, ast.JoinExpr):
            return self._join(item, level, problems)
        if isinstance(item, ast.RangeTableSample):
            level.expressions.append((item.args, before))
            return self.read(item.relation, level, problems)
        if isinstance(item, ast.RangeVar):
            relation = self._table(item, level, problems)
        elif isinstance(item, ast.RangeSubselect):
            relation = Relation(item.alias.aliasname if item.alias else "", None)  # type: ignore[arg-type]
            scope = before if item.lateral else Scope([], level.scope.parent)
            names = texts(item.alias.colnames) if item.alias else []
            level.subqueries.append((relation, item.subquery, scope, names))
        else:
            relation = self._function(item, level, before)
        level.scope.relations.append(relation)
        return [relation]

    def _table(self, item: Any, level: Level, problems: list[StatementError]) -> Relation:
        alias = item.alias.aliasname if item.alias else item.relname
        names = texts(item.alias.colnames) if item.alias else []
        if item.schemaname is None and item.relname in level.withs:
            self.seen.add(id(item))
            relation = Relation(alias, None)
            relation.take(level.withs[item.relname].renamed(names))
            return relation
        relation = self.named_table(item, level.tenants, problems)
        if names:
            problems.append(
                self._statement.error(item, f"{item.relname} AS {alias}(...): leave its columns' names")
            )
        return relation

    def named_table(
        self, item: Any, tenants: list[tuple[Relation, Any]], problems: list[StatementError]
    ) -> Relation:
        """A table by its name, never a WITH query: also what INSERT, UPDATE and DELETE change."""
        self.seen.add(id(item))
        alias = item.alias.aliasname if item.alias else item.relname
        table = self._schema.table(item.relname)
        is_system = item.schemaname in {"pg_catalog", "information_schema"}
        if is_system or (table is None and item.relname.startswith("pg_")):
            return Relation(alias, frozenset())
        if table is None:
            problems.append(self._statement.error(item, f"no migration makes a table {item.relname}"))
            return Relation(alias, None)
        relation = Relation(alias, table.columns)
        if table.is_tenant:
            tenants.append((relation, item))
        return relation

    def _function(self, item: Any, level: Level, before: Scope) -> Relation:
        """A function, XMLTABLE, JSON_TABLE: no tenant's rows, unless a function we made (see _look)."""
        level.expressions.append((item, before))
        alias = item.alias.aliasname if item.alias else ""
        definitions = getattr(item, "coldeflist", None)
        return Relation(alias, frozenset(column.colname for column in definitions) if definitions else None)

    def _join(self, item: Any, level: Level, problems: list[StatementError]) -> list[Relation]:
        left = self.read(item.larg, level, problems)
        right = self.read(item.rarg, level, problems)
        relations = left + right
        place = item.larg if isinstance(item.larg, ast.RangeVar) else item.rarg
        if item.isNatural:
            problems.append(
                self._statement.error(place, "NATURAL JOIN changes with each new column: write ON")
            )
        if item.alias:
            problems.append(
                self._statement.error(place, "a join with an alias hides its tables: drop the alias")
            )
        # Which side ON restricts: an outer join keeps every row of its other side.
        binds = {
            JoinType.JOIN_INNER: relations,
            JoinType.JOIN_LEFT: right,
            JoinType.JOIN_RIGHT: left,
        }.get(item.jointype, [])
        scope = level.scope.narrowed(relations)
        for name in texts(item.usingClause):
            self._using(name, item.jointype, (left, right), binds, level)
        if item.join_using_alias:
            level.scope.relations.append(Relation(item.join_using_alias.aliasname, frozenset()))
        if item.quals:
            level.assume(item.quals, scope, binds)
            level.expressions.append((item.quals, scope))
        return relations

    def _using(self, name: str, kind: JoinType, sides: Sides, binds: list[Relation], level: Level) -> None:
        found = [level.scope.narrowed(side).candidates(name) for side in sides]
        if not all(columns and len(columns) == 1 for columns in found):
            level.scope.ambiguous.add(name)
            return
        [[one], [other]] = found  # type: ignore[misc]
        level.equalities.append(Equality(one, other, level.scope, binds))
        if kind == JoinType.JOIN_FULL:
            level.scope.ambiguous.add(name)
        hidden = one if kind == JoinType.JOIN_RIGHT else other
        level.scope.merged.add((id(hidden.relation), name))
