"""What a result belongs to: the commit, the machine, the versions of what took part."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import redis

from bench.run.ground import Ground
from config import ROOT

_PACKAGES = ("flask", "gunicorn", "gevent", "psycopg", "redis")


def commit() -> str | None:
    """The commit of this tree, with `-changed` where files differ from it; None outside of git."""
    try:
        found = _git("rev-parse", "HEAD")
        return f"{found}-changed" if _git("status", "--porcelain", "--untracked-files=no") else found
    except (OSError, subprocess.CalledProcessError):
        return None


def machine() -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def versions(ground: Ground, k6: str) -> dict[str, str]:
    ((postgresql,),) = ground.servers.sql(ground.servers.nodes[0], "SHOW server_version")
    with redis.Redis.from_url(ground.redis_url()) as client:
        info = client.info("server")
    said = subprocess.run([k6, "version"], capture_output=True, text=True, check=False).stdout.split()
    found = {
        "python": sys.version.split()[0],
        "postgresql": str(postgresql),
        "valkey": str(info.get("valkey_version") or info.get("redis_version")),
        "k6": said[1].removeprefix("v") if len(said) > 1 else "unknown",
    }
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    names = Path("/proc/cpuinfo")
    if names.exists():
        for line in names.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    ran = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    return ran.stdout.strip()
