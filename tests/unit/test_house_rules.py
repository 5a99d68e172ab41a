"""What every file of the repository keeps to, so that no review has to look for it."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = {
    ".py",
    ".sql",
    ".lua",
    ".js",
    ".md",
    ".toml",
    ".yml",
    ".yaml",
    ".txt",
    ".in",
    ".sh",
    ".html",
    ".css",
    ".json",
}
TEXT_NAMES = {"Makefile", "Dockerfile", "run", ".gitignore", ".dockerignore", ".editorconfig"}

OLD_WORDS = re.compile(r"(?i)\b(master|slave)s?\b")
REGISTRY = re.compile(r"(?i)pypi\.(org|python)|pythonhosted\.org|registry\.npmjs|index-url|extra-index")
# A folder of one machine. A container's own paths (/run, /var, /app) are the same on all.
MACHINE_PATH = re.compile(r"(?<![\w.~$}/-])/(home|root|Users|mnt|srv|opt|work|tmp)/[\w.-]")
VAGUE_NAMES = {"master", "slave", "secondary", "manager", "helper", "helpers", "utils"}
LONGEST_PYTHON_FILE_LINES = 400


def repository_files() -> Iterator[Path]:
    """The text files a person wrote, without this one, which has to name what it forbids."""
    for folder, subfolders, files in os.walk(ROOT):
        subfolders[:] = [
            s for s in subfolders if s == ".ci" or not (s.startswith((".", "__")) or s in ("var", "results"))
        ]
        for name in files:
            path = Path(folder, name)
            if (path.suffix in TEXT or name in TEXT_NAMES) and path != Path(__file__):
                yield path


FILES = sorted(repository_files())


def lines_matching(pattern: re.Pattern[str], files: list[Path]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]


def defined_names(source: str) -> Iterator[tuple[int, str]]:
    """(line, name) of everything a Python file names itself: functions, classes, arguments, variables."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id


def words_of(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(OLD_WORDS, id="the-old-words-for-primary-and-replica"),
        pytest.param(REGISTRY, id="addresses-of-package-registries"),
        pytest.param(MACHINE_PATH, id="folders-of-one-machine"),
    ],
)
def test_no_file_holds(pattern: re.Pattern[str]) -> None:
    assert lines_matching(pattern, FILES) == []


def test_no_name_is_vague() -> None:
    vague = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in FILES
        if path.suffix == ".py"
        for line, name in [(0, path.stem), *defined_names(path.read_text(encoding="utf-8"))]
        if words_of(name) & VAGUE_NAMES
    ]
    assert vague == []


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (OLD_WORDS, "the MASTER node"),
        (REGISTRY, "https://pypi.org/simple"),
        (REGISTRY, "--index-url x"),
        (MACHINE_PATH, 'open("/home/someone/file")'),
        (MACHINE_PATH, "see /tmp/out"),
    ],
)
def test_the_patterns_see_what_they_forbid(pattern: re.Pattern[str], line: str) -> None:
    assert pattern.search(line)


@pytest.mark.parametrize(
    "line", ["mastery", "#!/usr/bin/env bash", "$HOME/opt/x", "http://host/opt/x", "./tmp/x"]
)
def test_the_patterns_leave_the_rest_alone(line: str) -> None:
    assert not any(pattern.search(line) for pattern in (OLD_WORDS, REGISTRY, MACHINE_PATH))


def test_python_files_are_one_thought_long() -> None:
    lengths = {p: len(p.read_text(encoding="utf-8").splitlines()) for p in FILES if p.suffix == ".py"}
    assert {str(p.relative_to(ROOT)): n for p, n in lengths.items() if n > LONGEST_PYTHON_FILE_LINES} == {}


def test_documents_name_files_that_exist() -> None:
    named = [
        (path.relative_to(ROOT), name)
        for path in FILES
        if path.suffix == ".md"
        for name in re.findall(
            r"`((?:[\w-]+/)*[\w.-]+\.(?:py|sql|lua|md|yml))`", path.read_text(encoding="utf-8")
        )
    ]
    anywhere = {path.name for path in FILES}
    missing = [
        (document, name) for document, name in named if not (ROOT / name).exists() and name not in anywhere
    ]
    assert missing == []


def test_a_migration_says_first_which_lock_it_takes() -> None:
    migrations = [
        p for folder in ("migrations", "catalog") for p in sorted((ROOT / "sql" / folder).glob("*.sql"))
    ]
    assert migrations
    assert [p.name for p in migrations if not re.fullmatch(r"\d{4}_[a-z0-9_]+\.sql", p.name)] == []
    assert [p.name for p in migrations if not p.read_text(encoding="utf-8").startswith("-- lock:")] == []


def test_a_lua_script_documents_its_keys_and_arguments() -> None:
    for path in FILES:
        if path.suffix == ".lua":
            comments = [
                line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("--")
            ]
            for needed in ("KEYS", "ARGV", "returns"):
                assert any(needed in line for line in comments), f"{path.name} does not say its {needed}"


@pytest.mark.parametrize(
    "compiled", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: str(path.name)
)
def test_every_requirement_is_pinned_with_hashes(compiled: Path) -> None:
    entries = compiled.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    entries = [entry for entry in entries if not entry.startswith("#")]
    unpinned = [entry for entry in entries if not re.match(r"[\w.-]+==\S+ .*--hash=sha256:", entry)]
    assert unpinned == []
    pinned = {re.sub(r"[-_.]+", "-", entry.partition("==")[0]).lower() for entry in entries}
    assert names_in(compiled.with_suffix(".in")) - pinned == set()


def names_in(source: Path) -> set[str]:
    """The packages an .in file asks for, with those of the files it includes."""
    names: set[str] = set()
    if not source.exists():  # speed.txt is written by hand: one package
        return names
    for line in source.read_text(encoding="utf-8").splitlines():
        if included := re.match(r"-r\s+(\S+)", line):
            names |= names_in(source.parent / included[1])
        elif asked := re.match(r"[A-Za-z0-9._-]+", line):
            names.add(re.sub(r"[-_.]+", "-", asked[0]).lower())
    return names
