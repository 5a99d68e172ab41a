"""`make psql`: its prompt tells the truth, its short names work anywhere, and what scripts read stays clean."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

import sql
from devcluster.cluster import Cluster
from devcluster.postgres import ADMINISTRATOR
from devcluster.psql import is_interactive
from devcluster.topology import HOST
from tests.cluster_fixtures import ROOT
from tests.commandline import frozen
from tests.pseudo_terminal import Terminal, terminal

FILES = sorted((sql.FOLDER / "inspect").glob("*.sql"))
PSQLRC = (sql.FOLDER / "psql" / "psqlrc").read_text(encoding="utf-8")
A, B = "shard-0-a", "shard-0-b"


def environment(cluster: Cluster, home: Path) -> dict[str, str]:
    """Of a person whose own configuration of psql breaks whatever reads it."""
    (home / ".psqlrc").write_text("\\echo my own\nSELECT no_such_thing;\n\\pset format html\n")
    theirs = {"HOME": str(home), "PSQLRC": str(home / ".psqlrc"), "PGPORT": "1", "NO_COLOR": "1"}
    return os.environ | {"TERM": "xterm", "VAR": str(cluster.layout.var)} | theirs


def command(node: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "devcluster", "psql", node, *arguments]


def ask(cluster: Cluster, home: Path, node: str, *arguments: str, text: str = "") -> tuple[str, str]:
    """What psql wrote, to both ends of a pipe."""
    done = subprocess.run(
        command(node, *arguments),
        cwd=ROOT,
        env=environment(cluster, home),
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, done.stderr


@contextmanager
def psql(cluster: Cluster, home: Path, node: str, **variables: str) -> Iterator[Terminal]:
    environ = {name: value for name, value in (environment(cluster, home) | variables).items() if value}
    with terminal(command(node), environ, str(ROOT)) as running:
        yield running


def dsn(cluster: Cluster, node: str) -> str:
    port = next(each.port for each in cluster.topology.nodes() if each.name == node)
    password = cluster.credentials.passwords[ADMINISTRATOR]
    return psycopg.conninfo.make_conninfo(
        host=HOST, port=port, dbname="postgres", user=ADMINISTRATOR, password=password
    )


@contextmanager
def replay_paused(cluster: Cluster, node: str) -> Iterator[None]:
    with psycopg.connect(dsn(cluster, node), autocommit=True) as connection:
        connection.execute("SELECT pg_wal_replay_pause()")
        try:
            yield
        finally:
            connection.execute("SELECT pg_wal_replay_resume()")


def test_every_file_of_inspect_has_a_short_name() -> None:
    named = re.findall(r"^\\set (\w+) +'\\\\i :inspect/(\w+)\.sql'$", PSQLRC, re.MULTILINE)
    assert named == [(path.stem, path.stem) for path in FILES]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_first_line_of_each_file_is_a_line_of_the_help(path: Path) -> None:
    assert re.fullmatch(r"-- [A-Z].{20,125}\.", path.read_text(encoding="utf-8").splitlines()[0])


@pytest.mark.parametrize("arguments", [["-c", "x"], ["-Atc", "x"], ["-1f", "x"], ["--command=x"], ["-l"]])
def test_what_runs_and_ends_is_for_nobody_at_a_terminal(
    arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for end in ("stdin", "stdout"):
        monkeypatch.setattr(getattr(sys, end), "isatty", lambda: True)
    assert not is_interactive(arguments)
    assert is_interactive(["-x", "-d", "postgres", "-vfoo=c", "-Fc"])


def test_what_a_script_reads_is_what_psql_writes(cluster: Cluster, tmp_path: Path) -> None:
    assert ask(cluster, tmp_path, B, "-Atc", "SELECT NULL, 1") == ("|1\n", "")
    piped = ask(
        cluster,
        tmp_path,
        "shard-0-primary",
        "-At",
        text="SELECT NULL, 2;\n\\echo :QUIET\nSHOW lock_timeout;\n",
    )
    assert piped == ("|2\noff\n0\n", "")


def test_short_names_work_in_a_pipe_on_a_replica_whose_replay_is_paused(
    cluster: Cluster, tmp_path: Path
) -> None:
    names = [path.stem for path in FILES]
    text = "\n".join(f"\\echo <{name}>\n:{name}" for name in names)
    with replay_paused(cluster, B):
        shown, said = ask(cluster, tmp_path, B, text=text)
    # `slowest` needs an extension, which the tests' cluster may not have yet.
    assert [line for line in said.splitlines() if "ERROR" in line and "pg_stat_statements" not in line] == []
    assert re.findall(r"<(\w+)>", shown) == names
    assert all(re.search(rf"<{name}>\n.*\n-+", shown) for name in names if name != "slowest")


def test_help_lists_the_short_names_with_the_first_lines_of_their_files(
    cluster: Cluster, tmp_path: Path
) -> None:
    shown, said = ask(cluster, tmp_path, B, text=":help\n")
    first_lines = [path.read_text(encoding="utf-8").splitlines()[0].removeprefix("-- ") for path in FILES]
    assert [line.split(maxsplit=1) for line in shown.splitlines()] == [
        [f":{path.stem}", line] for path, line in zip(FILES, first_lines, strict=True)
    ]
    assert said == ""


def test_the_prompt_tells_who_one_is_connected_to_and_what_becomes_of_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    with psql(cluster, tmp_path, B) as screen:
        greeting = screen.until(f"{B} replica t1 marketplace=# ")
        assert "my own" not in greeting
        assert "ERROR" not in greeting
        screen.enter("SELECT NULL AS nothing;")
        assert "(null)" in screen.until(f"{B} replica t1 marketplace=# ")
        with replay_paused(cluster, B):
            screen.enter("")
            screen.until(f"{B} replica,paused t1 marketplace=# ")
        screen.enter("BEGIN;")
        screen.until(f"{B} replica t1 marketplace=*# ")
        screen.enter("SELECT 1 / 0;")
        screen.until(f"{B} replica t1 marketplace=*# ")
        with frozen(dsn(cluster, B)):
            screen.enter("\\echo still")
            screen.until(f"{B} silent marketplace=*# ")


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="there is no /proc to see connections in")
def test_the_prompt_follows_a_person_who_connects_elsewhere(cluster: Cluster, tmp_path: Path) -> None:
    port = next(node.port for node in cluster.topology.nodes() if node.name == B)
    with psql(cluster, tmp_path, "shard-0-primary") as screen:
        screen.until(f"{A} primary t1 marketplace=# ")
        screen.enter(f"\\c - - - {port}")
        screen.until(f"{B} replica t1 marketplace=# ")


def test_the_prompt_has_colours_where_they_are_wanted(cluster: Cluster, tmp_path: Path) -> None:
    coloured = f"\033[1;33m\002{A} primary t1\001\033[0m\002 marketplace=# "
    with psql(cluster, tmp_path, A, NO_COLOR="") as screen:
        screen.until(coloured)
    with psql(cluster, tmp_path, A, NO_COLOR="", TERM="dumb") as screen:
        assert "\033" not in screen.until("marketplace=# ")
