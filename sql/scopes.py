"""Names inside a statement, as PostgreSQL resolves them: relations, their columns, and which query level
sees what.

A column is *bound* when in every row that the query uses it holds `%(store_id)s`, or NULL because an outer
join found nothing. The proof (sql/tenancy.py) finds out which are; this module answers which column a name
means. Where that cannot be told for certain it answers None, and the proof then refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pglast import ast


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a query gives: (name, bound) for each column. `ordered` is False where a `*` hides the order.

    A name is None where PostgreSQL makes one up in a way that is not followed here: it may be any.
    """

    columns: tuple[tuple[str | None, bool], ...]
    ordered: bool = True

    def is_bound(self, index: int) -> bool:
        return self.ordered and index < len(self.columns) and self.columns[index][1]

    def renamed(self, names: Sequence[str]) -> Outputs:
        """With a column alias list, `AS x(a, b)`."""
        if not names:
            return self
        if not self.ordered or len(names) > len(self.columns):
            return UNKNOWN
        bound = [bound for _, bound in self.columns]
        kept = [name for name, _ in self.columns[len(names) :]]
        return Outputs(tuple(zip([*names, *kept], bound, strict=True)))


# Of a relation whose columns cannot be told: a function's, or a recursive query's own.
UNKNOWN = Outputs(((None, False),), ordered=False)


@dataclass(eq=False, slots=True)
class Relation:
    """One item of a FROM clause, or the target of a change. Two references to a table are two relations."""

    alias: str
    columns: frozenset[str] | None  # None: it may have any
    bound: set[str] = field(default_factory=set)

    def take(self, outputs: Outputs) -> bool:
        """Learn the columns of the subquery this relation stands for; True where that bound one more."""
        names = {name for name, _ in outputs.columns}
        self.columns = None if None in names else frozenset(name for name in names if name)
        unbound = {name for name, bound in outputs.columns if not bound}
        before = len(self.bound)
        self.bound |= {name for name in names - unbound if name}
        return len(self.bound) > before


@dataclass(frozen=True, slots=True)
class Column:
    """A column of one relation."""

    relation: Relation
    name: str

    @property
    def is_bound(self) -> bool:
        return self.name in self.relation.bound


@dataclass(slots=True)
class Scope:
    """The relations that an expression sees, innermost level first."""

    relations: list[Relation]
    parent: Scope | None = None
    # Columns that JOIN ... USING merged into another one: a name without an alias does not mean them.
    merged: set[tuple[int, str]] = field(default_factory=set)
    # Columns of FULL JOIN ... USING: neither side's.
    ambiguous: set[str] = field(default_factory=set)

    def narrowed(self, relations: list[Relation]) -> Scope:
        """The same level with only these relations in sight."""
        return Scope(relations, self.parent, self.merged, self.ambiguous)

    def column(self, reference: ast.ColumnRef) -> Column | None:
        """The column a reference means; None where that is not certain, also for `*` and
        `schema.table.column`."""
        names = [getattr(part, "sval", None) for part in reference.fields or ()]
        if len(names) == 1 and names[0]:
            return self._unqualified(names[0])
        if len(names) == 2 and names[0] and names[1]:  # noqa: PLR2004
            return self._qualified(names[0], names[1])
        return None

    def candidates(self, name: str) -> list[Column] | None:
        """What `name` alone can mean at this level; None where it cannot be told."""
        if name in self.ambiguous or any(relation.columns is None for relation in self.relations):
            return None
        return [
            Column(relation, name)
            for relation in self.relations
            if name in (relation.columns or ()) and (id(relation), name) not in self.merged
        ]

    def _unqualified(self, name: str) -> Column | None:
        for scope in self._levels():
            found = scope.candidates(name)
            if found is None or len(found) > 1:
                return None
            if found:
                return found[0]
        return None

    def _qualified(self, alias: str, name: str) -> Column | None:
        for scope in self._levels():
            found = [relation for relation in scope.relations if relation.alias == alias]
            if found:
                [relation, *others] = found
                known = relation.columns is None or name in relation.columns
                return Column(relation, name) if known and not others else None
            if any(not relation.alias for relation in scope.relations):
                return None  # a function without an alias goes by a name that is not followed
        return None

    def _levels(self) -> Iterator[Scope]:
        scope: Scope | None = self
        while scope:
            yield scope
            scope = scope.parent


def star_columns(scope: Scope, alias: str | None) -> Outputs:
    """What `*`, or `alias.*`, stands for at this level."""
    relations = [relation for relation in scope.relations if alias in {None, relation.alias}]
    if not relations or (alias is None and scope.ambiguous):
        return UNKNOWN
    columns: list[tuple[str | None, bool]] = []
    for relation in relations:
        if relation.columns is None:
            return UNKNOWN
        columns += [
            (name, name in relation.bound)
            for name in relation.columns
            if alias or (id(relation), name) not in scope.merged
        ]
    return Outputs(tuple(columns), ordered=False)


def output_name(expression: Any) -> str | None:
    """The name PostgreSQL gives an output column without AS; None where that takes more than a look."""
    if isinstance(expression, ast.ColumnRef):
        return getattr(expression.fields[-1], "sval", None)  # type: ignore[index]
    if isinstance(expression, ast.TypeCast):
        return output_name(expression.arg)
    if isinstance(expression, ast.FuncCall):
        return str(expression.funcname[-1].sval)  # type: ignore[index]
    if isinstance(expression, (ast.A_Const, ast.ParamRef, ast.A_Expr)):
        return "?column?"
    return None
