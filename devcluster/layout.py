"""Where the cluster's files lie.

`$VAR` holds what a person reads: settings, tokens, logs. `$VAR/data` holds the servers' own folders. Where root
starts the cluster in a folder that the servers' account cannot enter, `$VAR/data` is a link to a folder under
/var/lib, which also gets a copy of the programs.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from devcluster import removal
from devcluster.account import Account
from devcluster.errors import ClusterError, NotYet

# The first that root can write to. Not /tmp: it is emptied at every boot.
_ELSEWHERE = (Path("/var/lib"), Path("/var/tmp"))  # noqa: S108 - what lies there is used only if it is ours
_FOLDER_NAME = "infinite-scaling"
# Between two looks whether the process that makes or takes away a shard is done.
_GROWING_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of one cluster. `var` is absolute and free of symbolic links."""

    var: Path
    account: Account

    @property
    def data(self) -> Path:
        return (self.var / "data").resolve()

    @property
    def logs(self) -> Path:
        return self.var / "log"

    @property
    def records(self) -> Path:
        return self.var / "run"

    @property
    def secrets(self) -> Path:
        return self.var / "secrets.json"

    @property
    def settings(self) -> Path:
        return self.var / "settings.json"

    @property
    def processes(self) -> Path:
        return self.var / "cluster.json"

    @property
    def topology(self) -> Path:
        return self.var / "topology.json"

    @property
    def shards(self) -> Path:
        return self.var / removal.SHARDS

    @property
    def operator_token(self) -> Path:
        return self.var / "operator-token"

    @property
    def demo(self) -> Path:
        return self.var / "demo.json"

    @property
    def demo_keys(self) -> Path:
        return self.var / "demo-keys.jsonl"

    @property
    def demo_merchant_key(self) -> Path:
        return self.var / "demo-merchant-key"

    def server(self, name: str) -> Path:
        """The data folder of one server."""
        return self.data / name

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def make(self) -> None:
        """Make the folders that are missing. Raises `ClusterError` where the servers' account cannot use them."""
        self.logs.mkdir(mode=0o700, exist_ok=True)
        self.records.mkdir(mode=0o700, exist_ok=True)
        pointer = self.var / "data"
        if not pointer.exists():
            pointer.unlink(missing_ok=True)  # a link whose folder is gone
            if self.account.enters(self.var):
                pointer.mkdir()
            else:
                data = self.make_elsewhere() / "data"
                data.mkdir(exist_ok=True)
                pointer.symlink_to(data)
            # Entering is all that the servers' account needs: each server's folder in here is its own.
            self.data.chmod(0o711 if self.account.demotion else 0o700)
        if not self.account.enters(self.data):
            raise ClusterError(f"{self.data} cannot be entered by {self.account.name}, who runs the servers")
        for folder in self.data.iterdir():
            if (
                folder.is_dir()
                and not folder.name.startswith(".")
                and folder.stat().st_uid != self.account.uid
            ):
                raise ClusterError(
                    f"{folder} belongs to user id {folder.stat().st_uid}, and the servers run as "
                    f"{self.account.name}: start it as before, or make clean (which deletes the data)"
                )

    @property
    def elsewhere(self) -> Path | None:
        """The folder outside `$VAR` that was made for this cluster; None where there is none."""
        return next((folder for folder in self._named_elsewhere() if folder.is_dir()), None)

    def make_elsewhere(self) -> Path:
        for folder in self._named_elsewhere():
            if os.access(folder.parent.parent, os.W_OK) and self.account.enters(folder.parent.parent):
                _own_folder(folder.parent)
                return _own_folder(folder)
        raise ClusterError(
            f"user {self.account.name}, who runs the servers, cannot enter {self.var}, nor can a folder be made "
            f"in {' or '.join(map(str, _ELSEWHERE))}: set VAR to a folder that it can enter"
        )

    def programs_folder(self) -> Path:
        """Where copies of programs go that the servers' account cannot reach."""
        return _own_folder((self.elsewhere or self.make_elsewhere()) / "programs")

    def _named_elsewhere(self) -> tuple[Path, ...]:
        # Named after the path, so that two clusters never meet in one folder.
        name = hashlib.sha256(os.fsencode(self.var)).hexdigest()[:16]
        return tuple(parent.resolve() / _FOLDER_NAME / name for parent in _ELSEWHERE)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this cluster. Raises `ClusterError` where another process does.

        The kernel lets go of the lock when its holder dies, however it dies. Children do not inherit it.
        """
        with open(os.open(self.var / removal.LOCK, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ClusterError(
                    f"the cluster in {self.var} is running already (process {file.read().strip()}): make down "
                    "stops it; with another VAR, PORT and CLUSTER_PORT a second one runs beside it"
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    @contextmanager
    def occupied(self, name: str) -> Iterator[None]:
        """Have one server to oneself, to start it or to bring it back. Raises `NotYet` where somebody else has it.

        The supervisor and a person's own command may be at the same server.
        """
        path = self.records / f".{name}.lock"
        with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise NotYet(f"{name} is being started or brought back already") from error
            yield

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """One at a time says what runs: two servers may be brought back at once, by two threads or processes."""
        with open(os.open(self.records / ".publish.lock", os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def growing(self, wait: Callable[[int], object]) -> Iterator[None]:
        """Be the one who makes or takes away a shard's servers. While another process is, `wait` gets its pid, time and
        again; what it raises ends the waiting."""
        self.records.mkdir(mode=0o700, exist_ok=True)
        with open(os.open(self.records / ".growth.lock", os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    file.seek(0)
                    wait(int(file.read().strip() or 0))
                    time.sleep(_GROWING_SECONDS)
                else:
                    break
            file.truncate(0)
            file.seek(0)
            file.write(str(os.getpid()))
            file.flush()
            try:
                yield
            finally:
                file.truncate(0)  # a number that another process gets later

    def holder(self) -> int | None:
        """The pid of the process that holds this cluster now."""
        try:
            with open(self.var / removal.LOCK) as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return int(file.read().strip() or 0) or None
        except FileNotFoundError:
            pass
        return None


def _own_folder(path: Path) -> Path:
    """Make a folder, or take the one that is there if nobody else could have made it or could change it."""
    path.mkdir(mode=0o711, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise ClusterError(f"{path} belongs to somebody else, or others can write to it: set VAR elsewhere")
    path.chmod(0o711)
    return path
