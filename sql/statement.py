"""One SQL statement as psycopg sees it, made into one that PostgreSQL's own parser can read.

psycopg replaces `%(name)s` and `%%` everywhere, inside quotes and comments too; here the same is done with
`$1`, `$2`, so that pglast (the server's grammar) can parse the rest. What is refused here would fail, or
surprise, at run time. Nodes are typed `Any`: pglast's stubs call every field optional, which the grammar
contradicts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pglast import ast, parse_sql
from pglast.parser import ParseError, Token, scan

_PERCENT = re.compile(r"%(?:\((?P<name>[^)]*)\)(?P<format>.?)|(?P<other>.?))", re.DOTALL)
_PARAMETER_NAME = re.compile(r"[a-z_][a-z0-9_]*")


class StatementError(Exception):
    """A statement is not acceptable. `line` counts from the statement's first line, which is 0."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class Statement:
    """A parsed statement. `sql` is the whole text with `$n` for `%(name)s`, line for line; `source` is what
    psycopg takes, without the comments around it."""

    source: str
    sql: str
    tree: Any
    parameters: tuple[str, ...]  # `$n` is parameters[n - 1]

    def line(self, node: Any) -> int:
        """The line a node of the tree stands in, 0 for the first."""
        return line_at(self.sql, getattr(node, "location", None) or 0)

    def error(self, node: Any, message: str) -> StatementError:
        """The refusal of a statement for this node's sake."""
        return StatementError(self.line(node), message)

    def number(self, parameter: str) -> int | None:
        """The n of this parameter's `$n`; None where the statement does not take it."""
        return self.parameters.index(parameter) + 1 if parameter in self.parameters else None


def line_at(text: str, offset: int) -> int:
    return text.count("\n", 0, offset)


def parse(body: str) -> Statement:
    """Parse the text of one query: comments, one statement, perhaps a semicolon.

    Raises `StatementError` for a placeholder that psycopg would not take, or would take where it does not
    belong, a syntax error, no statement, and more than one.
    """
    sql, parameters, offsets = _number_placeholders(body)
    try:
        tokens = [token for token in scan(sql) if token.name not in {"SQL_COMMENT", "C_COMMENT"}]
        trees = parse_sql(sql)
    except ParseError as error:
        offset = error.args[1] if len(error.args) > 1 and isinstance(error.args[1], int) else 0
        raise StatementError(line_at(sql, offset), f"{error.args[0]}: PostgreSQL cannot parse it") from error
    if not trees:
        raise StatementError(0, "no SQL statement follows the header: write one, or remove the header")
    if len(trees) > 1:
        second = next(t for a, t in pairwise(tokens) if a.name == "ASCII_59")
        raise StatementError(line_at(sql, second.start), "a second statement: name it and give it headers")
    _check_parameter_tokens(sql, tokens, offsets)
    return Statement(_trimmed(body), sql, trees[0].stmt, parameters)


def walk(root: Any) -> Iterator[Any]:
    """Every node of a tree, parents first; `root` may be a node, a tuple of them, or None."""
    if isinstance(root, tuple):
        for item in root:
            yield from walk(item)
    elif isinstance(root, ast.Node):
        yield root
        for slot in root:
            yield from walk(getattr(root, slot))


def function_name(names: Any) -> str:
    """A function's name without its schema, folded as PostgreSQL folds it."""
    return str(names[-1].sval)


def _number_placeholders(body: str) -> tuple[str, tuple[str, ...], set[int]]:
    """The text with `$n` for placeholders, their names in that order, and the offsets they now stand at."""
    parameters: list[str] = []
    offsets: set[int] = set()
    pieces: list[str] = []
    end = length = 0
    for match in _PERCENT.finditer(body):
        piece = body[end : match.start()]
        end = match.end()
        replacement = _placeholder(match, line_at(body, match.start()), parameters)
        if replacement != "%":
            offsets.add(length + len(piece))
        pieces += [piece, replacement]
        length += len(piece) + len(replacement)
    pieces.append(body[end:])
    return "".join(pieces), tuple(parameters), offsets


def _placeholder(match: re.Match[str], line: int, parameters: list[str]) -> str:
    name = match["name"]
    if match["other"] == "%":
        return "%"
    if name is None:
        if match["other"] == "s":
            raise StatementError(line, "%s is a positional parameter: name it, as in %(store_id)s")
        raise StatementError(line, "a lone %: write %% for the sign itself, %(name)s for a parameter")
    if not _PARAMETER_NAME.fullmatch(name):
        raise StatementError(line, f"%({name})s: a parameter's name is lower case letters, digits and _")
    if match["format"] != "s":
        raise StatementError(line, f"%({name}){match['format']}: write %({name})s")
    if name not in parameters:
        parameters.append(name)
    return f"${parameters.index(name) + 1}"


def _check_parameter_tokens(sql: str, tokens: list[Token], offsets: set[int]) -> None:
    found = {token.start for token in tokens if token.name == "PARAM"}
    for offset in sorted(offsets ^ found):
        if offset in found:
            raise StatementError(
                line_at(sql, offset), "$1 is PostgreSQL's own parameter: name it, as in %(store_id)s"
            )
        # psycopg would replace it here too, and the server would then miss the parameter it announced.
        raise StatementError(
            line_at(sql, offset), "a placeholder inside quotes or a comment: take it out, or use %%"
        )


def _trimmed(body: str) -> str:
    """Without what stands before the statement and after it: comments, the semicolon, blank lines."""
    tokens = [token for token in scan(body) if token.name not in {"SQL_COMMENT", "C_COMMENT"}]
    while tokens[-1].name == "ASCII_59":
        tokens.pop()
    return body[tokens[0].start : tokens[-1].end + 1]
