"""Each server's share of the machine, by a control group: nodes of one machine then add up as machines would.

Linux hands a group its quota anew each period, and stops it for the rest of the period when that is used up (the
kernel's scheduler/sched-bwc.rst; for version 2 control-group-v2.rst). The usual period of 100 ms would stop a server
with a tenth of a core for 90 ms, and that would be every p99: so it is short.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

GROUPS = "infinite-scaling-bench-"
MOUNTED = Path("/sys/fs/cgroup")
_SELF = Path("/proc/self/cgroup")
# The kernel takes no smaller quota: kernel/sched/core.c, min_cfs_quota_period.
_LEAST_QUOTA_US = 1000
_REMOVAL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Place:
    """A folder in which groups may be made, of version 1 or 2."""

    version: int
    folder: Path

    def limit(self, group: Path, quota_us: int | None, period_us: int) -> None:
        """None: no limit. What was not used up of one period may be used in the next, where the kernel can."""
        burst = quota_us or 0
        if self.version == 1:
            _write(group / "cpu.cfs_burst_us", "0", optional=True)  # no larger than a quota at any moment
            _write(group / "cpu.cfs_quota_us", "-1")
            _write(group / "cpu.cfs_period_us", str(period_us))
            if quota_us is not None:
                _write(group / "cpu.cfs_quota_us", str(quota_us))
                _write(group / "cpu.cfs_burst_us", str(burst), optional=True)
        else:
            _write(group / "cpu.max.burst", "0", optional=True)
            _write(group / "cpu.max", f"{quota_us if quota_us is not None else 'max'} {period_us}")
            _write(group / "cpu.max.burst", str(burst), optional=True)

    def throttled_seconds(self, group: Path) -> float:
        """How long its processors have been kept from it, together."""
        name, per_second = ("throttled_time", 1e9) if self.version == 1 else ("throttled_usec", 1e6)
        figures = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
        return float(figures.get(name, 0)) / per_second


def find_place(mounted: Path = MOUNTED, own: Path = _SELF) -> Place | None:
    """Where this process may make groups with a CPU quota; None: nowhere, as on macOS or in most containers."""
    if not own.exists():
        return None
    lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    for _, controllers, path in lines:
        if "cpu" in controllers.split(","):
            for mount in (mounted / "cpu", mounted / controllers):
                for base in (mount / path.lstrip("/"), mount):
                    if (base / "cpu.cfs_quota_us").exists() and _may_make(base):
                        return Place(1, base)
    for _, controllers, path in lines:
        if controllers == "" and (mounted / "cgroup.controllers").exists():
            below = mounted / path.lstrip("/")
            # Not in this process's own: a group with processes may not hand its controllers on.
            for base in below.parents if below != mounted else [mounted]:
                if not base.is_relative_to(mounted):
                    break
                if _hands_on(base) and _may_make(base):
                    return Place(2, base)
    return None


class Budgets:
    """The groups of one run: made with it, in force while it says so, removed with it.

    `place` None: nothing is limited, and `how` says that.
    """

    def __init__(self, place: Place | None, cores: Mapping[str, float], period_ms: float) -> None:
        self._place = place
        self._cores = {name: number for name, number in cores.items() if number > 0}
        self._period_us = round(period_ms * 1000)
        self._folder = place.folder / f"{GROUPS}{os.getpid()}" if place else None

    @property
    def how(self) -> str:
        if not self._cores:
            return "none: the servers share the machine's cores"
        if self._place is None:
            return "not enforced (no control group can be made here): the servers share the machine's cores"
        return f"control groups, version {self._place.version}"

    @property
    def enforced(self) -> bool:
        return bool(self._cores and self._folder)

    def __enter__(self) -> Self:
        if self._place and self._folder and self._cores:
            _remove_abandoned(self._place.folder)
            self._folder.mkdir()
            if self._place.version == 2:  # noqa: PLR2004
                _write(self._folder / "cgroup.subtree_control", "+cpu")
            for name in self._cores:
                (self._folder / name).mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        """Once the servers have ended: a group with processes cannot be removed."""
        if self.enforced and self._folder:
            for name in self._cores:
                _remove(self._folder / name)
            _remove(self._folder)

    def adopt(self, name: str, pids: Callable[[], Iterable[int]]) -> None:
        """Take a server's processes in; those that they start later are born in it. `pids` lists them afresh."""
        if not self.enforced or self._folder is None or name not in self._cores:
            return
        procs, taken = self._folder / name / "cgroup.procs", set[int]()
        # One may have been born outside while its parent was on the way in: look until nobody is new.
        while new := [pid for pid in pids() if pid not in taken]:
            for pid in new:
                with suppress(ProcessLookupError):
                    procs.write_text(str(pid))
                taken.add(pid)

    def enforce(self) -> None:
        for name, cores in self._cores.items():
            period_us = max(self._period_us, round(_LEAST_QUOTA_US / cores))
            self._limit(name, round(cores * period_us), period_us)

    def lift(self) -> None:
        """Nothing is limited until the next `enforce`: for what is done between the measurements."""
        for name in self._cores:
            self._limit(name, None, self._period_us)

    def throttled_seconds(self) -> dict[str, float]:
        """By server; empty where nothing is limited."""
        if not (self.enforced and self._folder and self._place):
            return {}
        return {name: self._place.throttled_seconds(self._folder / name) for name in self._cores}

    def _limit(self, name: str, quota_us: int | None, period_us: int) -> None:
        if self.enforced and self._folder and self._place:
            self._place.limit(self._folder / name, quota_us, period_us)


def tree_pids(pid: int) -> list[int]:
    """A process and all below it, the process first."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    return []


def _hands_on(base: Path) -> bool:
    control = base / "cgroup.subtree_control"
    with suppress(OSError):
        if "cpu" in control.read_text().split():
            return True
        control.write_text("+cpu")
        return True
    return False


def _may_make(base: Path) -> bool:
    probe = base / f"{GROUPS}probe-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return True


def _remove_abandoned(base: Path) -> None:
    """Groups of runs that were killed: their names have the process that made them."""
    for folder in base.glob(f"{GROUPS}*"):
        maker = folder.name.removeprefix(GROUPS)
        if maker.isdecimal() and not psutil.pid_exists(int(maker)):
            for group in [*(path for path in folder.iterdir() if path.is_dir()), folder]:
                with suppress(OSError):
                    group.rmdir()


def _remove(folder: Path) -> None:
    """Its last processes may be on their way out."""
    deadline = time.monotonic() + _REMOVAL_SECONDS
    while folder.exists() and time.monotonic() < deadline:
        with suppress(OSError):
            folder.rmdir()
            return
        time.sleep(0.05)


def _write(path: Path, text: str, *, optional: bool = False) -> None:
    if optional and not path.exists():
        return
    path.write_text(text)
