"""Which values a condition makes equal: the reasons that the tenancy proof may use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pglast import ast
from pglast.enums import A_Expr_Kind, BoolExprType, SubLinkType

from sql.scopes import Relation, Scope


@dataclass(frozen=True, slots=True)
class Equality:
    """`left = right` holds in every row in which one of `binds` is there: it may bind their columns only.

    The sides are nodes of the tree, a `Column`, or a `SubqueryColumn`.
    """

    left: Any
    right: Any
    scope: Scope
    binds: list[Relation]


@dataclass(frozen=True, slots=True)
class SubqueryColumn:
    """What a subquery inside an expression gives, by position."""

    subquery: Any
    index: int


def equal_pairs(condition: Any) -> Iterator[tuple[Any, Any]]:
    """The pairs that are equal wherever the condition is true: through AND, never through OR, NOT or CASE."""
    if isinstance(condition, ast.BoolExpr) and condition.boolop == BoolExprType.AND_EXPR:
        for part in condition.args or ():
            yield from equal_pairs(part)
    elif isinstance(condition, ast.A_Expr):
        if condition.kind == A_Expr_Kind.AEXPR_OP and texts(condition.name) == ["="]:
            yield from _sides(condition.lexpr, condition.rexpr)
    elif isinstance(condition, ast.SubLink) and condition.subLinkType == SubLinkType.ANY_SUBLINK:
        is_equality = texts(condition.operName) in ([], ["="])  # IN, = ANY
        test = condition.testexpr
        values = (test.args or ()) if isinstance(test, ast.RowExpr) else (test,)
        for index, value in enumerate(values if is_equality else ()):
            yield value, SubqueryColumn(condition.subselect, index)


def _sides(left: Any, right: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(left, ast.RowExpr) and isinstance(right, ast.RowExpr):
        if len(left.args or ()) == len(right.args or ()):
            yield from zip(left.args or (), right.args or (), strict=True)
    else:
        yield left, right


def parameter_of(value: Any) -> int | None:
    """The n of `$n`, also of `$n::uuid`; None for anything else."""
    if isinstance(value, ast.TypeCast):
        kind: Any = value.typeName
        if texts(kind.names) not in (["uuid"], ["pg_catalog", "uuid"]) or kind.arrayBounds:
            return None
        value = value.arg
    return value.number if isinstance(value, ast.ParamRef) else None


def texts(names: Any) -> list[str]:
    """The names in a list of String nodes, which may be None."""
    return [str(name.sval) for name in names or () if isinstance(name, ast.String)]
