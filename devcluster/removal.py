"""What `make clean` may delete: what the cluster made, entry by entry, and never a folder as a whole.

A data folder is whatever `VAR` says, so a slip of the hand can make it a home or a repository. Hence three rules:
nothing is deleted in a folder that has no cluster's lock file, holds a repository, or holds this one; only entries
with the names that the cluster gives are; a folder goes last, and only when it is empty.
"""

from __future__ import annotations

import json
import re
import shutil
from contextlib import suppress
from pathlib import Path

from devcluster.errors import ClusterError

ROOT = Path(__file__).resolve().parent.parent

# Which shards were added and taken away (growth.py). Their servers' names stand in it, so they go first.
SHARDS = "shards.json"
# What the cluster and the service write into `$VAR`, `data` apart.
_OWN_ENTRIES = (
    "log",
    "run",
    "metrics",
    "secrets.json",
    "settings.json",
    "cluster.json",
    "topology.json",
    SHARDS,
    "operator-token",
    "demo.json",
    "demo-keys.jsonl",
    "demo-merchant-key",
)
_SERVER_FOLDER = re.compile(r"shard-\d+-[a-z]|redis|lock-\d+|\.[a-z]+-.+")
LOCK = "lock"


def check_removable(var: Path) -> None:
    """Raises `ClusterError` where this is not a cluster's data folder, or could take other things with it."""
    if not var.is_absolute() or var != var.resolve():
        raise ClusterError(f"{var} is not a plain absolute path: nothing was deleted")
    if var in (ROOT, *ROOT.parents) or var == Path.home() or var == Path(var.anchor):
        raise ClusterError(f"{var} holds more than a cluster's data: nothing was deleted")
    if (var / ".git").exists():
        raise ClusterError(f"{var} is a repository: nothing was deleted")
    if not (var / LOCK).is_file():
        raise ClusterError(f"{var} is no cluster's data folder: nothing was deleted")


def remove(var: Path, elsewhere: Path | None) -> list[Path]:
    """Delete what the cluster made in `var`, and the folder made for it elsewhere. Returns what it left alone."""
    check_removable(var)
    pointer = var / "data"
    if pointer.is_dir():
        _remove_servers(pointer.resolve(), _grown(var))
    if elsewhere is not None:
        check_elsewhere(elsewhere)
        shutil.rmtree(elsewhere)
        with suppress(OSError):  # other clusters' folders lie there too
            elsewhere.parent.rmdir()
    if pointer.is_symlink():
        pointer.unlink()
    elif pointer.is_dir() and not any(pointer.iterdir()):
        pointer.rmdir()
    for name in _OWN_ENTRIES:
        _delete(var / name)
    left = sorted(path for path in var.iterdir() if path.name != LOCK)
    # The lock goes last: until then a second `clean` can finish what this one could not.
    if not left:
        (var / LOCK).unlink()
        var.rmdir()
    return left


def check_elsewhere(folder: Path) -> None:
    """Raises `ClusterError` unless this is a folder that `layout.make_elsewhere` names."""
    named = re.fullmatch(r"[0-9a-f]{16}", folder.name) and folder.parent.name == "infinite-scaling"
    if not named or folder != folder.resolve() or folder in (ROOT, *ROOT.parents):
        raise ClusterError(f"{folder} was not made for a cluster: nothing was deleted")


def _grown(var: Path) -> set[str]:
    """The names of the shards that were added. Without a readable file none, and what is theirs is left alone."""
    with suppress(OSError, ValueError):
        return set(json.loads((var / SHARDS).read_text()))
    return set()


def _remove_servers(data: Path, grown: set[str]) -> None:
    for path in list(data.iterdir()):
        shard, _, letter = path.name.rpartition("-")
        if _SERVER_FOLDER.fullmatch(path.name) or (shard in grown and re.fullmatch("[a-z]", letter)):
            _delete(path)


def _delete(path: Path) -> None:
    """Delete one entry, itself: a link is unlinked, never followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
