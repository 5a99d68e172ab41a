"""The proof that a query stays inside its store, from PostgreSQL's own parse tree.

Claim, for each reference to a tenant table anywhere in the statement: in every row that the query uses, the
reference's `store_id` equals `%(store_id)s` (or the reference found no row, in an outer join). What counts as reason:

- `x.store_id = %(store_id)s`, AND-ed, in WHERE, in an inner join's ON, or in an outer join's ON for the side that may
  be missing. Never under OR, NOT or CASE; no other operator; row comparisons and USING (store_id) count.
- The same with another column that is bound, also one of an enclosing query, or of a subquery or WITH query whose
  output provably is the store.
- INSERT gives `store_id` such a value; ON CONFLICT DO UPDATE infers an index with `store_id`.

It is a least fixpoint: nothing is bound until a reason binds it. Whatever is not followed is refused.
"""

from __future__ import annotations

import re
from typing import Any

from pglast import ast
from pglast.enums import OnConflictAction, SetOperation, SubLinkType

from sql.equalities import Equality, SubqueryColumn, parameter_of, texts
from sql.from_clause import FromClause, Level, Withs
from sql.schema import TENANT_COLUMN, Schema
from sql.scopes import UNKNOWN, Column, Outputs, Relation, Scope, output_name, star_columns
from sql.statement import Statement, StatementError, function_name, walk

_STATEMENTS = (ast.SelectStmt, ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt)

# Built-in functions that take SQL or a table's name as text, or read outside of tables: nothing can be proven of them.
_OPAQUE_FUNCTIONS = re.compile(
    r"(query|table|cursor|schema|database)_to_xml\w*|ts_stat|ts_rewrite|dblink\w*|crosstab\w*|connectby|xpath_table"
    r"|pg_read_\w+|pg_logical_slot_\w+|lo_\w+|loread"
)


def check_tenancy(statement: Statement, schema: Schema, *, spans_stores: bool) -> None:
    """Raises `StatementError` for the first table reference that is not proven to stay in one store; also for
    `spans: stores` on a query that does not need it, so that the header keeps its meaning."""
    if not isinstance(statement.tree, _STATEMENTS):
        if spans_stores:
            return
        line = statement.line(statement.tree)
        raise StatementError(line, "only SELECT, INSERT, UPDATE and DELETE can be proven to stay in a store")
    problems = _Proof(statement, schema).run()
    if spans_stores and not problems:
        raise StatementError(0, "spans: stores, but every table in it is bound to one: remove the header")
    if problems and not spans_stores:
        raise min(problems, key=lambda problem: problem.line)


class _Proof:
    def __init__(self, statement: Statement, schema: Schema) -> None:
        self._statement = statement
        self._schema = schema
        self._parameter = statement.number(TENANT_COLUMN)
        self._from = FromClause(statement, schema)

    def run(self) -> list[StatementError]:
        tree = self._statement.tree
        _, problems = self._query(tree, None, {})
        locks = [node for node in walk(tree) if isinstance(node, ast.LockingClause)]
        locked = {id(node) for clause in locks for node in walk(clause)}
        for node in walk(tree):
            # A net below the proof: a table in a place that no rule here has looked at.
            if isinstance(node, ast.RangeVar) and id(node) not in self._from.seen | locked:
                problems.append(
                    self._statement.error(node, f"{node.relname} stands where no rule follows it")
                )
        return problems

    # Queries: each gives its outputs and the problems found inside.

    def _query(self, node: Any, outer: Scope | None, withs: Withs) -> tuple[Outputs, list[StatementError]]:
        withs, problems = self._with_queries(node, outer, withs)
        if isinstance(node, ast.SelectStmt):
            if node.intoClause:
                problems.append(
                    self._statement.error(node.intoClause.rel, "SELECT INTO makes a table: leave it out")
                )
            if node.op != SetOperation.SETOP_NONE:
                outputs, found = self._set_operation(node, outer, withs)
            elif node.valuesLists:
                outputs, found = self._values(node, outer, withs)
            else:
                outputs, found = self._select(node, outer, withs)
        elif isinstance(node, ast.InsertStmt):
            outputs, found = self._insert(node, outer, withs)
        elif isinstance(node, (ast.UpdateStmt, ast.DeleteStmt)):
            outputs, found = self._change(node, outer, withs)
        else:
            message = "only SELECT, INSERT, UPDATE and DELETE are followed"
            return UNKNOWN, [*problems, self._statement.error(node, message)]
        return outputs, problems + found

    def _with_queries(
        self, node: Any, outer: Scope | None, withs: Withs
    ) -> tuple[Withs, list[StatementError]]:
        clause = getattr(node, "withClause", None)
        problems: list[StatementError] = []
        if clause is None:
            return withs, problems
        if clause.recursive:
            # Each sees all of them. What one gives is not known while it is read.
            withs = {**withs, **{query.ctename: UNKNOWN for query in clause.ctes}}
        for query in clause.ctes:
            outputs, found = self._query(query.ctequery, outer, withs)
            outputs = outputs.renamed(texts(query.aliascolnames))
            extended = query.search_clause or query.cycle_clause
            withs = {**withs, query.ctename: UNKNOWN if extended else outputs}
            problems += found
        return withs, problems

    def _set_operation(
        self, node: Any, outer: Scope | None, withs: Withs
    ) -> tuple[Outputs, list[StatementError]]:
        left, problems = self._query(node.larg, outer, withs)
        right, found = self._query(node.rarg, outer, withs)
        problems += found
        self._look(problems, [node.sortClause, node.limitCount, node.limitOffset], Scope([], outer), withs)
        if not left.ordered or not right.ordered or len(left.columns) != len(right.columns):
            return UNKNOWN, problems
        pairs = zip(left.columns, right.columns, strict=True)
        return Outputs(tuple((name, bound and other) for (name, bound), (_, other) in pairs)), problems

    def _values(self, node: Any, outer: Scope | None, withs: Withs) -> tuple[Outputs, list[StatementError]]:
        scope = Scope([], outer)
        problems: list[StatementError] = []
        rest = [node.sortClause, node.limitCount, node.limitOffset]
        self._look(problems, [node.valuesLists, *rest], scope, withs)
        if len({len(row) for row in node.valuesLists}) > 1:
            return UNKNOWN, problems  # an error on the server
        columns = zip(*node.valuesLists, strict=True)
        bound = [all(self._is_bound(value, scope, withs) for value in column) for column in columns]
        names = (f"column{number}" for number in range(1, len(bound) + 1))
        return Outputs(tuple(zip(names, bound, strict=True))), problems

    def _select(self, node: Any, outer: Scope | None, withs: Withs) -> tuple[Outputs, list[StatementError]]:
        level = Level(Scope([], outer), withs)
        problems: list[StatementError] = []
        for item in node.fromClause or ():
            self._from.read(item, level, problems)
        level.assume(node.whereClause, level.scope, level.scope.relations)
        problems += self._solve(level)
        rest = [node.targetList, node.whereClause, node.distinctClause, node.groupClause, node.havingClause]
        rest += [node.windowClause, node.sortClause, node.limitCount, node.limitOffset]
        self._look(problems, rest, level.scope, withs)
        return self._outputs(node.targetList, level.scope, withs), problems

    def _outputs(self, targets: Any, scope: Scope, withs: Withs) -> Outputs:
        columns: list[tuple[str | None, bool]] = []
        ordered = True
        for target in targets or ():
            value: Any = target.val
            if isinstance(value, ast.ColumnRef) and isinstance(value.fields[-1], ast.A_Star):  # type: ignore[index]
                alias = texts(value.fields)
                star = star_columns(scope, alias[0] if alias else None) if len(alias) <= 1 else UNKNOWN
                columns += star.columns
                ordered = False
            else:
                columns.append((target.name or output_name(value), self._is_bound(value, scope, withs)))
        return Outputs(tuple(columns), ordered)

    # Reasons.

    def _solve(self, level: Level) -> list[StatementError]:
        """Bind what there is reason to bind, until nothing is added; then say what is left unbound."""
        changed = True
        while changed:
            problems: list[StatementError] = []
            changed = False
            for relation, query, scope, names in level.subqueries:
                outputs, found = self._query(query, scope, level.withs)
                changed |= relation.take(outputs.renamed(names))
                problems += found
            for equality in level.equalities:
                changed |= self._bind(equality, level.withs)
        for expression, scope in level.expressions:
            self._look(problems, [expression], scope, level.withs)
        return problems + [
            self._statement.error(item, _unbound_message(item, relation))
            for relation, item in level.tenants
            if TENANT_COLUMN not in relation.bound
        ]

    def _bind(self, equality: Equality, withs: Withs) -> bool:
        changed = False
        for this, that in ((equality.left, equality.right), (equality.right, equality.left)):
            column = equality.scope.column(this) if isinstance(this, ast.ColumnRef) else this
            if not isinstance(column, Column) or column.is_bound or column.relation not in equality.binds:
                continue
            if self._is_bound(that, equality.scope, withs):
                column.relation.bound.add(column.name)
                changed = True
        return changed

    def _is_bound(self, value: Any, scope: Scope, withs: Withs) -> bool:
        """Is this value the store's id, wherever it is not NULL?"""
        number = parameter_of(value)
        if number is not None:
            return number == self._parameter
        if isinstance(value, ast.ColumnRef):
            column = scope.column(value)
            return column is not None and column.is_bound
        if isinstance(value, Column):
            return value.is_bound
        if isinstance(value, ast.SubLink) and value.subLinkType == SubLinkType.EXPR_SUBLINK:
            value = SubqueryColumn(value.subselect, 0)
        if isinstance(value, SubqueryColumn):
            outputs, _ = self._query(value.subquery, scope, withs)
            return outputs.is_bound(value.index)
        return False

    def _look(self, problems: list[StatementError], expression: Any, scope: Scope, withs: Withs) -> None:
        """Prove the subqueries and function calls inside of expressions; `scope` is what they see around
        them."""
        if isinstance(expression, (list, tuple)):
            for item in expression:
                self._look(problems, item, scope, withs)
        elif isinstance(expression, (*_STATEMENTS, ast.MergeStmt)):
            problems += self._query(expression, scope, withs)[1]
        elif isinstance(expression, ast.Node):
            if isinstance(expression, ast.FuncCall):
                problems += self._call(expression, scope, withs)
            elif isinstance(expression, (ast.ColumnRef, ast.A_Indirection)):
                problems += self._attribute(expression)
            for slot in expression:
                self._look(problems, getattr(expression, slot), scope, withs)

    def _call(self, call: Any, scope: Scope, withs: Withs) -> list[StatementError]:
        name = function_name(call.funcname)
        if _OPAQUE_FUNCTIONS.fullmatch(name):
            return [self._statement.error(call, f"what {name} reads cannot be proven")]
        if not self._schema.may_read_tables(name):
            return []
        arguments = [
            getattr(argument, "arg", argument) if isinstance(argument, ast.NamedArgExpr) else argument
            for argument in call.args or ()
        ]
        if any(self._is_bound(argument, scope, withs) for argument in arguments):
            return []
        return [
            self._statement.error(call, f"{name} is called without its store: pass it %({TENANT_COLUMN})s")
        ]

    def _attribute(self, reference: Any) -> list[StatementError]:
        """`row.name` calls the function name(row) where the row has no such column."""
        names = texts(reference.fields if isinstance(reference, ast.ColumnRef) else reference.indirection)
        called = [name for name in names[-1:] if self._schema.may_read_tables(name)]
        return [
            self._statement.error(reference, f"{name} is called as a column: call it as a function")
            for name in called
        ]

    # Changes.

    def _insert(self, node: Any, outer: Scope | None, withs: Withs) -> tuple[Outputs, list[StatementError]]:
        problems: list[StatementError] = []
        tenants: list[tuple[Relation, Any]] = []
        target = self._from.named_table(node.relation, tenants, problems)
        outputs = Outputs(())
        if node.selectStmt:
            outputs, found = self._query(node.selectStmt, outer, withs)
            problems += found
        if tenants:
            names = [column.name for column in node.cols or ()]
            if TENANT_COLUMN not in names or not outputs.is_bound(names.index(TENANT_COLUMN)):
                message = f"INSERT INTO {node.relation.relname} must list {TENANT_COLUMN} among its columns"
                problems.append(
                    self._statement.error(node.relation, f"{message}, and give it %({TENANT_COLUMN})s")
                )
            target.bound.add(TENANT_COLUMN)
        if node.onConflictClause:
            problems += self._conflict(node.onConflictClause, node.relation, target, outer, withs)
        scope = _returning_scope([target], outer, node)
        return self._returning(node, scope, withs, problems), problems

    def _conflict(
        self, clause: Any, table: Any, target: Relation, outer: Scope | None, withs: Withs
    ) -> list[StatementError]:
        """The row in the way is of this store if the index that found it holds the store's id."""
        excluded = Relation("excluded", target.columns, set(target.bound))
        scope = Scope([target, excluded], outer)
        problems: list[StatementError] = []
        self._look(problems, [clause.targetList, clause.whereClause, clause.infer], scope, withs)
        if clause.action != OnConflictAction.ONCONFLICT_UPDATE or TENANT_COLUMN not in target.bound:
            return problems
        elements = clause.infer.indexElems or () if clause.infer else ()
        if not any(element.name == TENANT_COLUMN for element in elements):
            message = f"ON CONFLICT may meet another store's row of {table.relname}"
            problems.append(
                self._statement.error(clause, f"{message}: name an index that has {TENANT_COLUMN}")
            )
        return problems + self._set_store(clause.targetList, scope, withs)

    def _change(self, node: Any, outer: Scope | None, withs: Withs) -> tuple[Outputs, list[StatementError]]:
        """UPDATE and DELETE."""
        is_update = isinstance(node, ast.UpdateStmt)
        level = Level(Scope([], outer), withs)
        problems: list[StatementError] = []
        for item in (node.fromClause if is_update else node.usingClause) or ():
            self._from.read(item, level, problems)
        target = self._from.named_table(node.relation, level.tenants, problems)
        level.scope.relations.append(target)  # last: a LATERAL item does not see it
        level.assume(node.whereClause, level.scope, level.scope.relations)
        problems += self._solve(level)
        self._look(problems, [node.whereClause], level.scope, withs)
        if is_update:
            self._look(problems, [node.targetList], level.scope, withs)
            if any(relation is target for relation, _ in level.tenants):
                problems += self._set_store(node.targetList, level.scope, withs)
        scope = _returning_scope(level.scope.relations, outer, node)
        return self._returning(node, scope, withs, problems), problems

    def _set_store(self, targets: Any, scope: Scope, withs: Withs) -> list[StatementError]:
        message = f"SET {TENANT_COLUMN} would give the row to another store: leave it out"
        return [
            self._statement.error(target, message)
            for target in targets or ()
            if target.name == TENANT_COLUMN and not self._is_bound(target.val, scope, withs)
        ]

    def _returning(self, node: Any, scope: Scope, withs: Withs, problems: list[StatementError]) -> Outputs:
        if not node.returningClause:
            return Outputs(())
        self._look(problems, [node.returningClause.exprs], scope, withs)
        return self._outputs(node.returningClause.exprs, scope, withs)


def _returning_scope(relations: list[Relation], outer: Scope | None, node: Any) -> Scope:
    """RETURNING also sees the row before and after: old and new, or names of its own (PostgreSQL 18)."""
    options = node.returningClause.options or () if node.returningClause else ()
    images = {"old", "new"} - {relation.alias for relation in relations} | {
        option.value for option in options
    }
    # No columns: a name without an alias never means one of them, and neither is ever a reason.
    return Scope([*relations, *(Relation(name, frozenset()) for name in images)], outer)


def _unbound_message(item: Any, relation: Relation) -> str:
    name = item.relname if relation.alias == item.relname else f"{item.relname} AS {relation.alias}"
    return (
        f"{name} is not bound to one store: add {relation.alias}.{TENANT_COLUMN} = %({TENANT_COLUMN})s"
        " with AND to its WHERE, or, where an outer join may find no row of it, to that join's ON"
    )
