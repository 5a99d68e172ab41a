"""What a folder of migrations must look like, and what is said where it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

import sql
from errors import MigrationError
from sql.migration_files import read_migrations

LOCK = "-- lock: none, the table is new.\n"


def folder_of(tmp_path: Path, **files: str) -> Path:
    for name, text in files.items():
        (tmp_path / f"{name.removeprefix('m')}.sql").write_text(text, encoding="utf-8", newline="")
    return tmp_path


def test_migrations_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path,
        m0002_two=f"{LOCK}-- transaction: none\nVACUUM;",
        m0001_one=f"{LOCK}-- What for.\nCREATE TABLE a (\n  b int);\n\n\nCREATE TABLE c ();",
    )
    one, two = read_migrations(folder)
    assert (one.version, one.name, one.lock) == (1, "0001_one", "none, the table is new.")
    assert [(s.text, s.line) for s in one.statements] == [
        ("CREATE TABLE a (\n  b int)", 3),
        ("CREATE TABLE c ()", 7),
    ]
    assert one.in_transaction
    assert not two.in_transaction


def test_line_ends_of_another_system_are_no_edit(tmp_path: Path) -> None:
    text = f"{LOCK}CREATE TABLE a ();\n"
    [unix] = read_migrations(folder_of(tmp_path, m0001_one=text))
    [windows] = read_migrations(folder_of(tmp_path, m0001_one=text.replace("\n", "\r\n")))
    [edited] = read_migrations(folder_of(tmp_path, m0001_one=text.replace("a", "b")))
    assert unix.checksum == windows.checksum != edited.checksum


CREATE = "CREATE TABLE a ();"
CONCURRENT = f"{LOCK}-- transaction: none\n"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no migrations"),
        ({"m0001_a": LOCK + CREATE, "m0003_c": LOCK + CREATE}, r"0003_c\.sql: number 0002 is missing"),
        ({"m0002_b": LOCK + CREATE}, r"0002_b\.sql: number 0001 is missing"),
        (
            {"m0001_a": LOCK + CREATE, "m0001_b": LOCK + CREATE},
            r"0001_b\.sql: number 0001 is taken by 0001_a\.sql",
        ),
        ({"m1_a": LOCK + CREATE}, r"1_a\.sql: name a migration as"),
        ({"m0001-a": LOCK + CREATE}, r"0001-a\.sql: name a migration as"),
        ({"m0001_A": LOCK + CREATE}, r"0001_A\.sql: name a migration as"),
        ({"m0001_a": CREATE}, r"0001_a\.sql:1: begin with '-- lock: '"),
        ({"m0001_a": f"\n{LOCK}{CREATE}"}, r"0001_a\.sql:1: begin with"),
        ({"m0001_a": f"-- lock:\n{CREATE}"}, r"0001_a\.sql:1: begin with"),
        ({"m0001_a": ""}, r"0001_a\.sql:1: begin with"),
        ({"m0001_a": LOCK}, r"0001_a\.sql: holds no statement"),
        ({"m0001_a": f"{LOCK}-- transaction: maybe\n{CREATE}"}, r"0001_a\.sql:2: '-- transaction: none'"),
        ({"m0001_a": f"{LOCK}\nCREATE TABLE a ();\nCREATE TABEL b ();"}, r"0001_a\.sql:4: syntax error"),
        (
            {"m0001_a": f"{LOCK}BEGIN;\n{CREATE}\nCOMMIT;"},
            r"0001_a\.sql:2: BEGIN and COMMIT are the runner's",
        ),
        (
            {"m0001_a": f"{LOCK}{CREATE}\n\nCREATE INDEX CONCURRENTLY IF NOT EXISTS i ON a (b);"},
            r"0001_a\.sql:4: CONCURRENTLY cannot run in a transaction",
        ),
        (
            {"m0001_a": f"{CONCURRENT}CREATE INDEX CONCURRENTLY i ON a (b);"},
            r":3: write CREATE INDEX CONCURRENTLY IF",
        ),
        (
            {"m0001_a": f"{CONCURRENT}CREATE INDEX CONCURRENTLY ON a (b);"},
            r":3: write CREATE INDEX CONCURRENTLY IF",
        ),
        (
            {"m0001_a": f"{CONCURRENT}DROP INDEX CONCURRENTLY i;"},
            r":3: write DROP INDEX CONCURRENTLY IF EXISTS",
        ),
    ],
)
def test_a_malformed_folder_is_refused_by_file_and_line(
    files: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(MigrationError, match=message):
        read_migrations(folder_of(tmp_path, **files))


@pytest.mark.parametrize("folder", [sql.MIGRATIONS, sql.CATALOG_MIGRATIONS])
def test_our_own_migrations_are_in_order(folder: Path) -> None:
    assert read_migrations(folder)
