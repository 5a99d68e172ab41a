"""Who the servers run as: the person who started them, or, started by root, an unprivileged account.

PostgreSQL refuses to run as root. The account (`CLUSTER_USER`, else `postgres`, else `nobody`) usually cannot
look into root's folders, so every path it needs is tried as that account first.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from devcluster.errors import ClusterError


class Demotion(TypedDict, total=False):
    """Arguments for `subprocess.Popen`; none of them where nothing changes."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Account:
    name: str
    uid: int
    gid: int

    @property
    def demotion(self) -> Demotion:
        if self.uid == os.geteuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def reads(self, *paths: Path) -> bool:
        """Whether the account can read every one of these files."""
        return self._can('for path; do test -r "$path" || exit 1; done', paths)

    def enters(self, *folders: Path) -> bool:
        """Whether the account can reach what lies in these folders, if only by name."""
        return self._can('for path; do test -x "$path" || exit 1; done', folders)

    def give(self, path: Path) -> None:
        """Make it the owner of a file or folder that this process has just made."""
        if not self.demotion:
            return
        try:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)
        except OSError as error:
            raise ClusterError(f"cannot give {path} to user {self.name}: {error.strerror}") from error

    def _can(self, script: str, paths: tuple[Path, ...]) -> bool:
        # A shell asks as that account: the kernel's answer counts access lists too, which mode bits do not.
        try:
            done = subprocess.run(
                ["/bin/sh", "-c", script, "sh", *map(str, paths)], check=False, cwd="/", **self.demotion
            )
        except OSError as error:
            raise ClusterError(f"cannot run programs as user {self.name}: {error.strerror}") from error
        return done.returncode == 0


def server_account(environ: Mapping[str, str]) -> Account:
    """The account for the servers. Raises `ClusterError` where root started us and there is no such account."""
    if os.geteuid() != 0:
        return _account(pwd.getpwuid(os.geteuid()))
    wanted = environ.get("CLUSTER_USER")
    for name in (wanted,) if wanted else ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        if found.pw_uid != 0:
            return _account(found)
    raise ClusterError(
        "started by root, the servers need an unprivileged user: set CLUSTER_USER"
        + (f" ({wanted} is none)" if wanted else "")
    )


def _account(entry: pwd.struct_passwd) -> Account:
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
