"""Programs that the embedded cluster's commands run and wait for."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from devcluster.account import Account
from devcluster.errors import ClusterError
from devcluster.processes import Launcher
from tests.shard_servers import until


def test_a_command_that_is_given_up_takes_along_what_it_has_started(tmp_path: Path) -> None:
    """pg_basebackup has a second half, which holds the pipe that its output is read from."""
    launcher = Launcher(Account("me", os.geteuid(), os.getegid()), tmp_path, tmp_path)
    noted = tmp_path / "second-half"
    script = f"sleep 600 & echo $! > {noted}.new; mv {noted}.new {noted}; wait"
    with ThreadPoolExecutor(1) as threads:
        ran = threads.submit(launcher.command, ["/bin/sh", "-c", script])
        until(noted.exists)
        second_half = psutil.Process(int(noted.read_text()))
        try:
            launcher.interrupt()
            with pytest.raises(ClusterError):
                ran.result(60)
            until(lambda: not second_half.is_running() or second_half.status() == psutil.STATUS_ZOMBIE)
        finally:
            if second_half.is_running():
                second_half.kill()
