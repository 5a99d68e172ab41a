"""Does a statement only read? What runs on a replica must: anything else fails there, or would have to.

Also says whether a statement gives rows back at all, and whether it says which columns.
"""

from __future__ import annotations

import re
from typing import Any

from pglast import ast

from sql.schema import Schema
from sql.statement import Statement, StatementError, function_name, walk

_WRITES: dict[type[ast.Node], str] = {
    ast.InsertStmt: "INSERT",
    ast.UpdateStmt: "UPDATE",
    ast.DeleteStmt: "DELETE",
    ast.MergeStmt: "MERGE",
}

# Built-in functions that write, take a lock, or need a transaction id, which a replica cannot give.
_WRITING_FUNCTIONS = re.compile(
    r"nextval|setval|pg_(try_)?advisory_\w+|pg_notify|txid_current|pg_current_xact_id|pg_logical_emit_message"
    r"|pg_(create|drop)_\w*|pg_switch_wal|pg_promote|lo_\w+|set_config|dblink\w*"
)


def check_reads_only(statement: Statement, schema: Schema) -> None:
    """Raises `StatementError` for the first thing that writes or locks."""
    if not isinstance(statement.tree, ast.SelectStmt):
        raise StatementError(
            statement.line(statement.tree), "role: replica, but it is no SELECT: say role: primary"
        )
    for node in walk(statement.tree):
        what = _writing(node, schema)
        if what:
            raise StatementError(statement.line(node), f"role: replica, but it has {what}: say role: primary")


def _writing(node: Any, schema: Schema) -> str | None:
    for kind, name in _WRITES.items():
        if isinstance(node, kind):
            return f"a {name} inside"
    if isinstance(node, ast.SelectStmt) and node.intoClause:
        return "SELECT INTO, which makes a table"
    if isinstance(node, ast.SelectStmt) and node.lockingClause:
        return "FOR UPDATE or FOR SHARE, which writes a lock into each row"
    if isinstance(node, ast.FuncCall):
        name = function_name(node.funcname)
        if schema.is_volatile(name) or _WRITING_FUNCTIONS.fullmatch(name):
            return f"a call of {name}, which writes or locks"
    return None


def returns_rows(tree: Any) -> bool:
    """True for SELECT and VALUES, and for a change of rows with RETURNING."""
    if isinstance(tree, (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)):
        return tree.returningClause is not None
    return isinstance(tree, ast.SelectStmt) and tree.intoClause is None


def star_in_answer(tree: Any) -> Any:
    """The `*`, or `x.*`, among the columns that a statement answers with; None where each has a name."""
    while getattr(tree, "larg", None):  # UNION: the left one decides
        tree = tree.larg
    clause = getattr(tree, "returningClause", None)
    targets = clause.exprs if clause else getattr(tree, "targetList", None)
    if not isinstance(tree, ast.SelectStmt) and not clause:
        return None
    for target in targets or ():
        fields: Any = getattr(target.val, "fields", None) or (None,)
        if isinstance(fields[-1], ast.A_Star):
            return target.val
    return None
