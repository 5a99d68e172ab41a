"""Imports point downwards only: the folders are the architecture, and this is what keeps them so.

    gunicorn.conf → app → {handlers, commands} → lab → operations → moves → routing → {pools, ephemeral, sql}
    → {flags, logs} → config → {ids, metrics, signing} → {errors, metric_files}

Siblings in braces do not import each other. `devcluster`, `deploy` and `bench` are programs of their own
beside the service. The check reads the syntax tree, so an import inside a function or under TYPE_CHECKING counts
as well; only circles may close under TYPE_CHECKING, which no program ever runs.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# From the bottom up. A top-level module or folder that is not named here has no place yet: give it one.
LAYERS = (
    frozenset({"errors", "metric_files"}),
    frozenset({"ids", "metrics", "signing"}),
    frozenset({"config"}),
    frozenset({"flags", "logs"}),
    frozenset({"pools", "ephemeral", "sql"}),
    frozenset({"routing"}),
    frozenset({"moves"}),
    frozenset({"operations"}),
    frozenset({"lab"}),
    frozenset({"handlers", "commands"}),
    frozenset({"app"}),
    frozenset({"gunicorn_conf"}),
)
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}

# Programs beside the service: what they may import of it. The service imports nothing of theirs.
SERVERS = frozenset({"config", "errors", "sql", "pools", "routing"})
BESIDE = {
    "devcluster": SERVERS,
    "deploy": SERVERS,
    "bench": frozenset(HEIGHT),
    "tests": frozenset({*HEIGHT, "devcluster", "deploy", "bench"}),
}


def python_files(root: Path) -> Iterator[Path]:
    """Every Python file, relative to the root; not in the data folder, nor in hidden ones (.venv, .git)."""
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(
            s for s in subfolders if not s.startswith((".", "__")) and s not in ("var", "results")
        )
        yield from (Path(folder, name).relative_to(root) for name in sorted(files) if name.endswith(".py"))


def module_name(path: Path) -> str:
    """Dotted, as an import names it; gunicorn.conf.py, which nothing can import, becomes gunicorn_conf."""
    parts = [part.replace(".", "_") for part in path.with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports_of(path: Path, tree: ast.AST, modules: frozenset[str]) -> Iterator[tuple[int, str]]:
    """(line, module of this tree) of each import; `from a import b` is a.b if that is a module, else a."""
    # A relative import starts from the folder the file is in, for a package's __init__.py too.
    package = path.parts[:-1]
    rooms = {_room(module) for module in modules}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if _room(alias.name) in rooms:
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, *(node.module or "").split("."))).strip(".")
            if _room(base) not in rooms:
                continue
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield node.lineno, whole if whole in modules else base


def violations(root: Path) -> list[str]:
    """One line for each import that climbs, crosses or closes a circle, and each module without a place."""
    paths = {module_name(path): path for path in python_files(root)}
    modules = frozenset(paths)
    found: list[str] = []
    graph: dict[str, list[str]] = {}
    for module, path in paths.items():
        room = _room(module)
        if room not in HEIGHT and room not in BESIDE:
            found.append(f"{path}: {room} has no place in LAYERS")
        tree = ast.parse((root / path).read_text(encoding="utf-8"), filename=str(path))
        everything = list(imports_of(path, tree, modules))
        for_types = [one for block in _type_checking(tree) for one in imports_of(path, block, modules)]
        graph[module] = [imported for line, imported in everything if (line, imported) not in for_types]
        for line, imported in everything:
            if complaint := _complaint(room, _room(imported)):
                found.append(f"{path}:{line}: {complaint}")
    return found + [" → ".join(circle) + " is a circle" for circle in _circles(graph)]


def _type_checking(tree: ast.AST) -> Iterator[ast.If]:
    """The blocks `if TYPE_CHECKING:`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in (
            getattr(node.test, "id", ""),
            getattr(node.test, "attr", ""),
        ):
            yield node


def _room(module: str) -> str:
    return module.partition(".")[0]


def _complaint(importer: str, imported: str) -> str:
    if importer == imported or importer not in {*HEIGHT, *BESIDE}:
        return ""
    if importer in BESIDE:
        return "" if imported in BESIDE[importer] else f"{importer} may not import {imported}"
    if imported in BESIDE:
        return f"{importer} is the service, {imported} is not part of it"
    if imported not in HEIGHT or HEIGHT[imported] < HEIGHT[importer]:
        return ""
    relation = "its sibling" if HEIGHT[imported] == HEIGHT[importer] else "which is above it"
    return f"{importer} imports {imported}, {relation}"


def _circles(graph: dict[str, list[str]]) -> list[list[str]]:
    """Every circle that a depth-first walk closes."""
    circles: list[list[str]] = []
    finished: set[str] = set()

    def walk(module: str, trail: list[str]) -> None:
        if module in trail:
            circles.append([*trail[trail.index(module) :], module])
        elif module not in finished and module in graph:
            for imported in graph[module]:
                walk(imported, [*trail, module])
            finished.add(module)

    for module in graph:
        walk(module, [])
    return circles


def test_every_import_of_this_repository_points_downwards() -> None:
    assert violations(ROOT) == []


def test_the_walk_sees_this_repository() -> None:
    seen = {module_name(path) for path in python_files(ROOT)}
    assert {"config", "errors", "flags", "tests.unit.test_imports"} <= seen


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        (
            {"config.py": "import flags", "flags.py": ""},
            "config.py:1: config imports flags, which is above it",
        ),
        (
            {"routing/ring.py": "def f():\n    from operations import orders", "operations/orders.py": ""},
            "routing/ring.py:2: routing imports operations, which is above it",
        ),
        (
            {"pools/pool.py": "from sql import query", "sql/__init__.py": "query = 1"},
            "pools/pool.py:1: pools imports sql, its sibling",
        ),
        (
            {"handlers/a.py": "import commands.b", "commands/b.py": ""},
            "handlers/a.py:1: handlers imports commands, its sibling",
        ),
        (
            {"ids.py": "import signing", "signing.py": "import errors", "errors.py": ""},
            "ids.py:1: ids imports signing, its sibling",
        ),
        (
            {"app.py": "from devcluster import ports", "devcluster/ports.py": ""},
            "app.py:1: app is the service, devcluster is not part of it",
        ),
        (
            {"sql/a.py": "import tests.unit.b", "tests/unit/b.py": ""},
            "sql/a.py:1: sql is the service, tests is not part of it",
        ),
        (
            {"devcluster/a.py": "import operations", "operations/__init__.py": ""},
            "devcluster/a.py:1: devcluster may not import operations",
        ),
        (
            {"pools/a.py": "from . import b", "pools/b.py": "from .a import x"},
            "pools.a → pools.b → pools.a is a circle",
        ),
        (
            {
                "pools/a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import flags, app",
                "app.py": "",
            },
            "pools/a.py:3: pools imports app, which is above it",
        ),
        ({"surprise.py": ""}, "surprise.py: surprise has no place in LAYERS"),
    ],
)
def test_a_wrong_import_is_named_by_file_and_line(
    tmp_path: Path, files: dict[str, str], complaint: str
) -> None:
    _write(tmp_path, files)
    assert violations(tmp_path) == [complaint]


def test_skipping_layers_downwards_is_fine(tmp_path: Path) -> None:
    _write(
        tmp_path,
        {
            "gunicorn.conf.py": "import app",
            "app.py": "import json, flask\nfrom handlers import stores\nimport errors",
            "handlers/stores.py": "from operations.stores import make\nimport config",
            "operations/stores.py": "from routing import route\nfrom . import names",
            "operations/names.py": "",
            "routing/__init__.py": "from .route import route",
            "routing/route.py": "import sql, pools.node",
            "pools/node.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .pool import x",
            "pools/pool.py": "from . import node",
            "sql/__init__.py": "",
            "config.py": "import ids",
            "ids.py": "",
            "errors.py": "",
            "devcluster/__main__.py": "import config",
            "tests/conftest.py": "import app, devcluster.__main__",
            ".venv/lib/x.py": "import nothing_of_ours",
        },
    )
    assert violations(tmp_path) == []


def _write(root: Path, files: dict[str, str]) -> None:
    for name, source in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source, encoding="utf-8")
