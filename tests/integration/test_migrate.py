"""Migrating two shards, on real servers: side by side, once, patiently, and never half."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from devcluster.cluster import Cluster
from devcluster.topology import HOST
from errors import MigrationError
from sql.migrate import Outcome, Patience, Target, migrate
from tests.cluster_fixtures import ROOT, NewCluster

LOCK = "-- lock: none that anyone waits for.\n"
TABLE = f"{LOCK}CREATE TABLE things (id int PRIMARY KEY, word text);"
NUMBERS = count()

Connection = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture(scope="module")
def servers(new_cluster: NewCluster) -> Cluster:
    """Two shards of one server each, ours alone."""
    return new_cluster(shards=2, replicas=0, locks=0)


@pytest.fixture
def targets(servers: Cluster) -> list[Target]:
    """An empty database on each shard."""
    name = f"migrate_{next(NUMBERS)}"
    targets = []
    for shard in servers.topology.shard_names:
        node = servers.primary(shard)
        with servers.postgres.connect(node) as connection:
            connection.execute(f"CREATE DATABASE {name}")
            password = connection.info.password
        targets.append(
            Target(
                shard,
                make_conninfo(host=HOST, port=node.port, dbname=name, user="postgres", password=password),
            )
        )
    return targets


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "0001_things", TABLE)
    return tmp_path


def write(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.sql").write_text(text, encoding="utf-8")


@contextmanager
def connected(target: Target) -> Iterator[Connection]:
    with psycopg.connect(target.dsn, autocommit=True) as connection:
        yield connection


def value(target: Target, query: str) -> Any:
    with connected(target) as connection:
        row = connection.execute(query.encode()).fetchone()
        return row[0] if row else None


def until(condition: Callable[[], object]) -> None:
    """Return once the condition holds; the test's own time limit ends a wait in vain."""
    pause = threading.Event()
    while not condition():
        pause.wait(0.01)


@contextmanager
def in_background(call: Callable[[], list[Outcome]]) -> Iterator[list[Outcome]]:
    """The outcomes are there when the block is left."""
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.extend(call()))
    thread.start()
    try:
        yield outcomes
    finally:
        thread.join()


@contextmanager
def frozen(target: Target) -> Iterator[None]:
    """Every process of the target's server is stopped, as by a machine that hangs; on leaving they run again."""
    with psycopg.connect(target.dsn) as connection:
        pid = connection.execute("SELECT pg_backend_pid()").fetchone()
        assert pid
        server = psutil.Process(pid[0]).parent()
        assert server
    processes = [server, *server.children()]
    try:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def test_every_shard_is_migrated_once(targets: list[Target], folder: Path) -> None:
    write(folder, "0002_more", f"{LOCK}ALTER TABLE things ADD COLUMN more int;")
    lines: list[str] = []
    names = ["0001_things", "0002_more"]
    assert migrate(targets, folder, report=lines.append) == [
        Outcome("shard-0", applied=names),
        Outcome("shard-1", applied=names),
    ]
    assert [line.split()[:3] for line in lines if line.startswith("shard-0: 0001")] == [
        ["shard-0:", "0001_things", "applied"]
    ]
    assert migrate(targets, folder) == [Outcome("shard-0", already=names), Outcome("shard-1", already=names)]
    for target in targets:
        with connected(target) as connection:
            rows = connection.execute(
                "SELECT version, name, checksum, duration_ms >= 0, applied_at <= now() FROM schema_migrations"
            ).fetchall()
        assert [(row[0], row[1], len(row[2]), *row[3:]) for row in rows] == [
            (1, "0001_things", 64, True, True),
            (2, "0002_more", 64, True, True),
        ]


def test_a_dry_run_says_what_it_would_do_and_does_nothing(targets: list[Target], folder: Path) -> None:
    lines: list[str] = []
    outcomes = migrate(targets, folder, dry_run=True, report=lines.append)
    assert [outcome.applied for outcome in outcomes] == [["0001_things"], ["0001_things"]]
    assert "shard-1: would apply 0001_things (lock: none that anyone waits for.)" in lines
    assert value(targets[0], "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0


def test_a_failing_shard_is_named_and_the_next_run_does_only_what_is_left(
    targets: list[Target], folder: Path
) -> None:
    write(folder, "0002_words", f"{LOCK}CREATE TABLE before ();\n\nCREATE TABLE words ();\n")
    with connected(targets[1]) as connection:
        connection.execute("CREATE TABLE words ()")
    first, second = migrate(targets, folder)
    assert first == Outcome("shard-0", applied=["0001_things", "0002_words"])
    assert second.applied == ["0001_things"]
    assert second.error == '0002_words.sql:4: relation "words" already exists'
    assert value(targets[1], "SELECT to_regclass('before')") is None, "half a migration was left"
    with connected(targets[1]) as connection:
        connection.execute("DROP TABLE words")
    assert migrate(targets, folder) == [
        Outcome("shard-0", already=["0001_things", "0002_words"]),
        Outcome("shard-1", already=["0001_things"], applied=["0002_words"]),
    ]


def test_an_error_is_told_by_the_line_it_stands_in(targets: list[Target], folder: Path) -> None:
    write(folder, "0002_bad", f"{LOCK}SELECT 1;\nSELECT\n  nothing\nFROM things;")
    [outcome] = migrate(targets[:1], folder)
    assert outcome.error == '0002_bad.sql:4: column "nothing" does not exist'


def test_an_applied_file_that_was_edited_is_refused_by_name(targets: list[Target], folder: Path) -> None:
    migrate(targets[:1], folder)
    write(folder, "0001_things", TABLE + "\n-- A word more.")
    write(folder, "0002_more", f"{LOCK}CREATE TABLE more ();")
    edited, fresh = migrate(targets, folder)
    assert edited.error == "0001_things.sql was edited after it was applied: put it back, write a new one"
    assert edited.applied == []
    assert fresh.error is None


def test_a_version_that_this_checkout_does_not_know_is_refused(targets: list[Target], folder: Path) -> None:
    write(folder, "0002_more", f"{LOCK}CREATE TABLE more ();")
    migrate(targets, folder)
    (folder / "0002_more.sql").unlink()
    for outcome in migrate(targets, folder):
        assert outcome.error
        assert "0002_more is applied, and this checkout does not know it" in outcome.error


def test_a_malformed_folder_touches_no_shard(targets: list[Target], folder: Path) -> None:
    write(folder, "0002_more", "CREATE TABLE more ();")
    with pytest.raises(MigrationError, match="begin with"):
        migrate(targets, folder)
    assert value(targets[0], "SELECT to_regclass('things')") is None


def test_two_runs_at_once_apply_each_migration_once(targets: list[Target], folder: Path) -> None:
    for number in range(2, 12):
        write(folder, f"{number:04}_t", f"{LOCK}CREATE TABLE t{number} ();")
    with in_background(lambda: migrate(targets, folder)) as others:
        outcomes = migrate(targets, folder)
    for mine, other in zip(outcomes, others, strict=True):
        assert mine.error is None
        assert other.error is None
        assert len(mine.applied) + len(other.applied) == 11


def test_a_run_waits_for_another_only_so_long(targets: list[Target], folder: Path) -> None:
    lines: list[str] = []
    blocked = f"{LOCK}SELECT pg_advisory_xact_lock(1); CREATE TABLE more ();"
    write(folder, "0002_more", blocked)
    with connected(targets[0]) as connection:
        connection.execute("SELECT pg_advisory_lock(1)")
        patient = Patience(first_lock_seconds=60, last_lock_seconds=60)
        with in_background(lambda: migrate(targets[:1], folder, patience=patient)) as first_run:
            until(lambda: value(targets[0], "SELECT count(*) FROM pg_locks WHERE NOT granted") == 1)
            [outcome] = migrate(
                targets[:1], folder, report=lines.append, patience=Patience(other_run_seconds=0.3)
            )
            connection.execute("SELECT pg_advisory_unlock(1)")
    assert outcome.error
    assert outcome.error.startswith("another run still migrates it after 0.3 s")
    assert "shard-0: another run is migrating it: waiting" in lines
    assert first_run == [Outcome("shard-0", applied=["0001_things", "0002_more"])]


def test_the_shop_goes_on_while_a_migration_waits_for_its_lock(targets: list[Target], folder: Path) -> None:
    migrate(targets, folder)
    write(folder, "0002_more", "-- lock: ACCESS EXCLUSIVE, short.\nALTER TABLE things ADD COLUMN more int;")
    waiting = threading.Event()
    patience = Patience(attempts=1000, last_lock_seconds=0.1)

    def report(line: str) -> None:
        if "waits for a lock" in line:
            waiting.set()

    with connected(targets[0]) as reader, connected(targets[0]) as shop:
        with reader.transaction():
            reader.execute("SELECT * FROM things")
            with in_background(
                lambda: migrate(targets, folder, report=report, patience=patience)
            ) as outcomes:
                waiting.wait()
                shop.execute("SET statement_timeout = '5s'")
                for number in range(20):
                    shop.execute("INSERT INTO things (id) VALUES (%s)", [number])
                assert not outcomes, "it cannot have got its lock yet"
                reader.execute("COMMIT AND CHAIN")
        assert outcomes == [
            Outcome("shard-0", already=["0001_things"], applied=["0002_more"]),
            Outcome("shard-1", already=["0001_things"], applied=["0002_more"]),
        ]


def test_a_migration_that_never_gets_its_lock_gives_up(targets: list[Target], folder: Path) -> None:
    migrate(targets, folder)
    write(folder, "0002_more", f"{LOCK}CREATE TABLE more ();\nALTER TABLE things ADD COLUMN more int;")
    patience = Patience(attempts=3, first_lock_seconds=0.01, last_lock_seconds=0.02)
    with connected(targets[0]) as reader, reader.transaction():
        reader.execute("SELECT * FROM things")
        stuck, free = migrate(targets, folder, patience=patience)
    assert stuck.error
    assert "0002_more gave up: in 3 attempts" in stuck.error
    assert free.applied == ["0002_more"]
    assert value(targets[0], "SELECT to_regclass('more')") is None
    assert [outcome.applied for outcome in migrate(targets, folder)] == [["0002_more"], []]


def test_an_index_is_made_concurrently_while_the_shop_writes(targets: list[Target], folder: Path) -> None:
    migrate(targets, folder)
    write(
        folder,
        "0002_word",
        "-- lock: SHARE UPDATE EXCLUSIVE: nobody who reads or writes waits.\n-- transaction: none\n"
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS things_word ON things (word);\n"
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS things_lower ON things (lower(word));",
    )
    valid = "SELECT count(*) FROM pg_index WHERE indisvalid AND indrelid = 'things'::regclass"
    with connected(targets[0]) as writer, connected(targets[0]) as shop, writer.transaction():
        writer.execute("INSERT INTO things (id) VALUES (1)")
        with in_background(lambda: migrate(targets, folder)) as outcomes:
            until(lambda: value(targets[0], "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 1)
            shop.execute("INSERT INTO things (id) VALUES (2)")
            writer.execute("COMMIT AND CHAIN")
    assert [outcome.applied for outcome in outcomes] == [["0002_word"], ["0002_word"]]
    assert [value(target, valid) for target in targets] == [3, 3]


def test_an_invalid_index_of_a_failed_attempt_is_made_anew(targets: list[Target], folder: Path) -> None:
    migrate(targets, folder)
    write(
        folder,
        "0002_word",
        "-- lock: SHARE UPDATE EXCLUSIVE: nobody waits.\n-- transaction: none\n"
        'CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS "Word" ON things (word);',
    )
    invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
    with connected(targets[0]) as connection:
        connection.execute("INSERT INTO things VALUES (1, 'twice'), (2, 'twice')")
        failed, _ = migrate(targets, folder)
        assert (
            failed.error
            == '0002_word.sql:3: could not create unique index "Word" (Key (word)=(twice) is duplicated.)'
        )
        assert value(targets[0], invalid) == 1
        connection.execute("DELETE FROM things WHERE id = 2")
    lines: list[str] = []
    assert [outcome.error for outcome in migrate(targets, folder, report=lines.append)] == [None, None]
    assert value(targets[0], invalid) == 0
    assert value(targets[0], "SELECT indisunique FROM pg_index WHERE indexrelid = '\"Word\"'::regclass")
    assert "shard-0: 0002_word: dropping the invalid index Word of an earlier attempt" in lines


def test_a_server_that_is_not_there_is_reported_and_the_others_finish(
    targets: list[Target], folder: Path
) -> None:
    gone = Target("shard-9", make_conninfo(targets[1].dsn, port=1))
    first, last = migrate([targets[0], gone], folder)
    assert first.applied == ["0001_things"]
    assert last.error
    assert last.error.startswith("no node that accepts writes could be reached: ")


def test_the_node_that_accepts_writes_is_found_among_several(targets: list[Target], folder: Path) -> None:
    port = psycopg.conninfo.conninfo_to_dict(targets[0].dsn)["port"]
    several = Target("shard-0", make_conninfo(targets[0].dsn, host=f"{HOST},{HOST}", port=f"1,{port}"))
    assert migrate([several], folder) == [Outcome("shard-0", applied=["0001_things"])]


def test_a_databases_statement_timeout_does_not_cut_a_migration_short(
    targets: list[Target], folder: Path
) -> None:
    write(folder, "0002_slow", f"{LOCK}SELECT pg_sleep(0.05);")
    with connected(targets[0]) as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET statement_timeout = '10ms'")
    [outcome] = migrate(targets[:1], folder)
    assert outcome.error is None


def test_a_migration_waits_for_no_replica(servers: Cluster, targets: list[Target], folder: Path) -> None:
    with connected(targets[0]) as connection:
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (nobody)'")
        connection.execute("SELECT pg_reload_conf()")
        until(lambda: value(targets[0], "SHOW synchronous_standby_names"))
        try:
            [outcome] = migrate(targets[:1], folder)
        finally:
            connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
            connection.execute("SELECT pg_reload_conf()")
    assert outcome.applied == ["0001_things"]


def test_a_frozen_server_is_reported_and_the_others_finish(targets: list[Target], folder: Path) -> None:
    with frozen(targets[1]):
        first, last = migrate(targets, folder)
    assert first.applied == ["0001_things"]
    assert last.error
    assert last.error.startswith("no node that accepts writes could be reached: ")


def test_a_server_that_freezes_during_a_migration_is_reported(targets: list[Target], folder: Path) -> None:
    write(folder, "0002_slow", f"{LOCK}CREATE TABLE more ();\nSELECT pg_advisory_xact_lock_shared(7);")
    patience = Patience(first_lock_seconds=60, last_lock_seconds=60, frozen_seconds=1)
    with connected(targets[1]) as connection:
        connection.execute("SELECT pg_advisory_lock(7)")
        with in_background(lambda: migrate(targets, folder, patience=patience)) as outcomes:
            until(lambda: value(targets[1], "SELECT count(*) FROM pg_locks WHERE NOT granted") == 1)
            with frozen(targets[1]):
                until(lambda: outcomes)
        assert outcomes[0].error is None
        assert outcomes[1].error == "stopped answering while the migration ran"
        # The server, thawed, notices that the run is gone and lets go of its locks.
        until(
            lambda: (
                value(targets[1], "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'migrate'")
                == 0
            )
        )
    assert [outcome.applied for outcome in migrate(targets, folder)] == [[], ["0002_slow"]]


def test_ctrl_c_ends_a_run_and_its_statement(targets: list[Target], folder: Path) -> None:
    write(folder, "0002_slow", f"{LOCK}SELECT pg_sleep(600);")
    program = (
        "import pathlib, sys; from sql.migrate import Target, migrate;"
        "migrate([Target('shard-0', sys.argv[1])], pathlib.Path(sys.argv[2]))"
    )
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    with subprocess.Popen(
        [sys.executable, "-c", program, targets[0].dsn, str(folder)], cwd=ROOT, stderr=subprocess.DEVNULL
    ) as run:
        until(lambda: value(targets[0], sleeping) == 1)
        run.send_signal(signal.SIGINT)
        assert run.wait() != 0
    until(lambda: value(targets[0], sleeping) == 0)
    assert value(targets[0], "SELECT max(version) FROM schema_migrations") == 1
