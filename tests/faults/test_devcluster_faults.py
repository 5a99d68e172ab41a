"""Starts that are killed, refused, or find a mess: each is mended, or says in one line what is wrong."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from devcluster.control import clean
from devcluster.processes import Launcher, Process
from tests.supervised import PATIENCE_SECONDS, Place, wait_until


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    # Only its owner can enter tmp_path: where root runs the tests, the data go elsewhere.
    place = Place(tmp_path)
    yield place
    clean(place.layout)
    assert place.running() == []


def test_a_terminated_up_leaves_no_process_and_keeps_the_data(place: Place) -> None:
    with place.up() as up:
        place.write(1)
        up.terminate()
        assert up.wait(PATIENCE_SECONDS) == 0
    assert place.running() == []
    assert not place.layout.processes.exists()
    with place.up():
        assert place.read() == [1]


def test_an_up_whose_reader_is_gone_still_stops_everything(place: Place) -> None:
    with place.up() as up:
        assert up.stdout is not None
        up.stdout.close()
        up.terminate()
        assert up.wait(PATIENCE_SECONDS) == 0
    assert place.running() == []


def test_a_second_up_is_refused_in_one_line_and_the_first_goes_on(place: Place) -> None:
    with place.up():
        second = place.run("up")
        assert second.returncode == 1
        assert second.stdout == ""
        assert len(second.stderr.splitlines()) == 1
        assert "running already" in second.stderr
        place.write(1)


@pytest.mark.parametrize("reached", [".making-shard-0-a", "shard-0-a/postmaster.pid"])
def test_a_start_that_is_terminated_halfway_leaves_no_process_and_can_be_repeated(
    place: Place, reached: str
) -> None:
    with place.start() as process:
        wait_until((place.layout.data / reached).exists)
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0
    assert place.running() == []
    with place.up():
        place.write(1)


@pytest.mark.parametrize("reached", [".making-shard-0-a", ".making-shard-0-b"])
def test_a_start_that_is_killed_halfway_is_mended_by_the_next(place: Place, reached: str) -> None:
    with place.start() as process:
        wait_until((place.layout.data / reached).exists)
        process.kill()
    # As if it had died a moment earlier, over a folder that is not the servers' account's yet.
    making = place.layout.data / ".making-redis"
    with suppress(FileNotFoundError):
        (place.layout.data / "redis").rename(making)
    making.mkdir(exist_ok=True)
    os.chown(making, os.geteuid(), os.getegid())
    with place.up():
        place.write(1)
        wait_until(lambda: place.read("shard-0-b") == [1])
        assert not list(place.layout.data.glob(".*"))


def test_servers_of_a_killed_supervisor_are_stopped_by_the_next_up(place: Place) -> None:
    with place.up() as first:
        place.write(1)
        before = place.pid("shard-0-a")
        first.kill()
        first.wait()
        assert place.running() != []
    place.layout.processes.unlink()
    with place.up():
        assert place.pid("shard-0-a") != before
        assert place.read() == [1]


def test_down_stops_the_servers_of_a_killed_supervisor(place: Place) -> None:
    with place.up() as up:
        up.kill()
        up.wait()
    assert place.run("down").returncode == 0
    assert place.running() == []


def test_after_everything_was_killed_every_acknowledged_write_is_there(place: Place) -> None:
    with place.up() as up:
        place.write(1)
        running = place.running()
        for pid in (up.pid, *(process.pid for process in running)):
            os.kill(pid, signal.SIGKILL)
        up.wait()
    place.layout.processes.unlink()
    with place.up():
        assert place.read() == [1]
        assert place.read("shard-0-b") == [1]


def test_a_recorded_pid_that_another_program_has_now_is_left_alone(place: Place) -> None:
    with place.up() as up:
        up.terminate()
    with subprocess.Popen(["sleep", "600"]) as stranger:
        layout = place.layout
        launcher = Launcher(layout.account, layout.records, layout.logs)
        launcher.record(Process("shard-0-a", "postgres", stranger.pid, "long ago"))
        with place.up():
            assert stranger.poll() is None
        stranger.kill()


def test_frozen_servers_are_stopped_too(place: Place) -> None:
    with place.up():
        for name in ("shard-0-a", "shard-0-b", "redis"):
            os.kill(place.pid(name), signal.SIGSTOP)
        assert place.run("down").returncode == 0
        assert place.running() == []
    for name in ("shard-0-a", "shard-0-b"):
        assert "database system is shut down" in place.layout.log(name).read_text().splitlines()[-1]


def test_a_killed_server_is_reported_stays_down_and_starts_when_asked(place: Place) -> None:
    with place.up() as up:
        place.write(1)
        os.kill(place.pid("shard-0-b"), signal.SIGKILL)
        assert up.stdout is not None
        line = next(line for line in up.stdout if "shard-0-b" in line)
        assert "has died" in line
        assert "shard-0-b.log" in line
        assert place.run("start", "shard-0-b").returncode == 0
        assert place.read("shard-0-b") == [1]
        assert place.run("start", "shard-0-b").returncode == 1


def test_a_port_that_is_taken_is_named_with_the_variable_to_set(place: Place) -> None:
    for port, variable in ((place.first_port + 1, "CLUSTER_PORT"), (place.first_port + 4, "PORT")):
        with socket.create_server(("127.0.0.1", port)), place.start() as process:
            assert process.stdout is not None
            last = process.stdout.read().splitlines()[-1]
        assert process.returncode == 1
        assert f"port {port}" in last
        assert f"set {variable}" in last
    assert place.running() == []


def test_data_of_another_postgresql_is_refused_in_one_line_and_not_touched(place: Place) -> None:
    with place.up() as up:
        up.terminate()
    version = place.layout.server("shard-0-a") / "PG_VERSION"
    version.write_text("15\n")
    with place.start() as process:
        assert process.stdout is not None
        last = process.stdout.read().splitlines()[-1]
    assert process.returncode == 1
    assert "is data of PostgreSQL 15" in last
    assert "POSTGRES_BIN" in last
    assert version.read_text() == "15\n"


def test_a_replica_whose_wal_is_gone_is_copied_anew(place: Place) -> None:
    with place.up():
        place.write(1)
        os.kill(place.pid("shard-0-b"), signal.SIGKILL)
        with place.connect() as connection:
            connection.execute("SET synchronous_commit = local")
            connection.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
            connection.execute("ALTER SYSTEM SET wal_keep_size = 0")
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
            connection.execute("SELECT pg_reload_conf()")
            wait_until(lambda: connection.execute("SHOW max_slot_wal_keep_size").fetchone() == ("1MB",))
            for _ in range(3):
                connection.execute("SELECT pg_logical_emit_message(false, 'fill', 'x'), pg_switch_wal()")
            connection.execute("CHECKPOINT")
            lost = connection.execute("SELECT wal_status FROM pg_replication_slots").fetchone()
            assert lost == ("lost",)
            connection.execute("ALTER SYSTEM RESET ALL")
            connection.execute("INSERT INTO public.written VALUES (2)")
    with place.up():
        wait_until(lambda: place.read("shard-0-b") == [1, 2])


def test_what_is_secret_is_readable_by_its_owner_alone(place: Place) -> None:
    with place.up():
        layout = place.layout
        files = [layout.secrets, layout.settings, layout.processes, layout.operator_token]
        files += [*layout.logs.iterdir(), *layout.records.iterdir()]
        files += [layout.data / name for name in ("shard-0-a", "shard-0-b", "redis")]
        assert {path: oct(path.stat().st_mode & 0o077) for path in files} == dict.fromkeys(files, "0o0")
        shown = subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout
        passwords = layout.secrets.read_text().split('"')[3::4]
        assert not [password for password in passwords if password in shown]
