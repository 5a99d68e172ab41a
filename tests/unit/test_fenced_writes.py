"""Whatever is written to a store passes the fence: a move could lose it otherwise."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import sql
from tests.cluster_fixtures import ROOT
from tests.moving import TABLES

WRITES = re.compile(rf"\b(?:INSERT INTO|UPDATE|DELETE FROM)\s+({'|'.join(TABLES)})\b", re.IGNORECASE)
# A store that is being made is not on the move, and the map is held still; what is swept is of no store on the move.
UNFENCED = {"create_store": {"create"}, "sweep_idempotency_keys": set(), "sweep_revoked_sessions": set()}
ROUTER = {"read", "write", "create", "on_shard", "run_on_shard", "on_every_shard"}


def uses() -> dict[str, set[str]]:
    """The router's methods that each query of the operations is handed to, by a name in capitals."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "operations").glob("*.py"):
        tree = ast.parse(path.read_text())
        names = {
            node.targets[0].id: node.value.args[0].value
            for node in tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Call)
            and ast.unparse(node.value.func) == "sql.query"
            and isinstance(node.value.args[0], ast.Constant)
        }
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            for argument in call.args:
                if isinstance(argument, ast.Name) and argument.id in names and call.func.attr in ROUTER:
                    found.setdefault(str(names[argument.id]), set()).add(call.func.attr)
    return found


def queries() -> dict[str, str]:
    texts = "\n".join(path.read_text() for path in Path(ROOT / "sql/queries").glob("*.sql"))
    named = re.findall(r"^-- name: (\w+)$", texts, re.MULTILINE)
    # Without the name, which the loader writes behind the first word.
    return {name: sql.query(name).text.replace(f"/* {name} */ ", "") for name in named}


def test_every_write_of_a_store_is_fenced() -> None:
    used = uses()
    writing = {name for name, text in queries().items() if WRITES.search(text)}
    assert writing > set(UNFENCED)
    assert {name: used.get(name, set()) for name in writing} == {
        name: UNFENCED.get(name, {"write"}) for name in writing
    }


def test_what_is_swept_is_of_no_store_on_the_move() -> None:
    for name in UNFENCED:
        if name.startswith("sweep"):
            assert "NOT EXISTS (SELECT FROM moving_stores" in sql.query(name).text
