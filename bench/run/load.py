"""k6 with the load of k6/, as a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.run.ground import Ground
from bench.run.options import Options
from bench.run.trace import Trace, read
from config import ROOT
from lab.servers import wait_for

SCRIPT = ROOT / "k6" / "load.js"
# Of the measured scenario in k6/scenarios.js.
SCENARIO = "load"
_PREPARING_SECONDS = 300.0
# Longer than k6 lets requests finish.
_END_SECONDS = 60.0
# k6's: a threshold was crossed. That is for the figures to say.
_CROSSED = 99


def find_k6(asked: str) -> str:
    """Its path: as asked, beside this Python (the wheel puts it there), else in PATH. Raises `SystemExit`."""
    beside = Path(sysconfig.get_path("scripts")) / "k6"
    found = asked or (str(beside) if beside.exists() else shutil.which("k6"))
    if not found or not shutil.which(found):
        raise SystemExit(f"there is no {asked or 'k6'}: make bench installs it, or name it with --k6 or K6")
    return found


class Load:
    """A k6 that runs. Its trace and summary lie in `folder`."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.pid = process.pid
        self._process = process
        self._folder = folder

    def wait_prepared(self) -> float:
        """Until the shops are open: the moment (of the wall clock) from which on the scenarios run."""
        found: list[float] = []

        def is_prepared() -> bool:
            if (self._folder / "trace").exists():
                with (self._folder / "trace").open() as lines:
                    told = [line.split("\t") for line in lines if line.startswith("prepared\t")]
                    # Whole only once the next field has begun.
                    found.extend(float(moment) / 1000 for _, moment, *blanks in told if blanks)
            return bool(found) or self._process.poll() is not None

        wait_for(is_prepared, "k6 has opened its shops", _PREPARING_SECONDS)
        if not found:
            raise SystemExit(f"k6 did not get to its load:\n{self._said()}")
        return found[0]

    def finish(self) -> tuple[Trace, dict[str, Any]]:
        """Wait for its end: what was traced, and k6's own summary of the measured scenario."""
        self._process.wait(_END_SECONDS)
        if self._process.returncode not in (0, _CROSSED):
            raise SystemExit(f"k6 ended with {self._process.returncode}:\n{self._said()}")
        with (self._folder / "trace").open(errors="replace") as lines:
            trace = read(lines)
        (found,) = json.loads((self._folder / "summary").read_text())
        return trace, found

    def _said(self) -> str:
        trace = self._folder / "trace"
        with trace.open(errors="replace") if trace.exists() else open(os.devnull) as lines:
            others = read(lines).others[-20:]
        return "\n".join([*others, (self._folder / "said").read_text(errors="replace")[-2000:]])


@contextmanager
def running(
    options: Options, ground: Ground, rate: int, *, folder: Path, html: Path | None
) -> Iterator[Load]:
    """Begun now, killed at the end if it still runs. `html` is where k6's own report goes."""
    told = {
        "BASE_URL": ground.base_url,
        "STORES": str(ground.keys),
        "SCENARIO": SCENARIO,
        "RATE": str(rate),
        "DURATION": f"{options.duration_seconds:g}s",
        "WARM_UP": f"{options.warm_up_seconds:g}s",
        "RANDOM_SEED": str(options.seed),
        "SESSIONS": str(options.sessions),
        "SUMMARY": str(folder / "summary"),
        "TRACE": "1",
        "K6_NO_USAGE_REPORT": "true",
    }
    if html is not None:
        # No port, and a period short enough that also a short run has the three that k6 asks for.
        told |= {"K6_WEB_DASHBOARD": "true", "K6_WEB_DASHBOARD_PORT": "-1", "K6_WEB_DASHBOARD_PERIOD": "1s"}
        told["K6_WEB_DASHBOARD_EXPORT"] = str(html)
    command = [find_k6(options.k6), "run", "--quiet", "--no-color", "--address", ""]
    command += [f"--log-output=file={folder / 'trace'}", "--log-format=raw", str(SCRIPT)]
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=inherited | told,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        yield Load(process, folder)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def sleep_until(moment: float) -> None:
    """Of the wall clock."""
    time.sleep(max(0.0, moment - time.time()))
