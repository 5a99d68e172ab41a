"""One stage of one round: the ground made ready, the load, the counts before and after, the data checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.run import load, placement
from bench.run.budgets import Budgets
from bench.run.counters import Counters, Lag
from bench.run.ground import Ground
from bench.run.integrity import Holdings, faults
from bench.run.options import Options
from bench.run.stages import flags_of
from bench.run.trace import Trace, figures

# More than this program itself and the system take beside the servers.
MUCH_OF_OTHERS_CORES = 0.25


# So much of a measurement the counters may miss.
_LATE_SECONDS = 0.5


class Bench:
    """Measures stages on one ground."""

    def __init__(
        self, ground: Ground, options: Options, budgets: Budgets, report: Callable[[str], object]
    ) -> None:
        self._ground = ground
        self._options = options
        self._budgets = budgets
        self._report = report
        self._seeded: Holdings | None = None

    def measure(self, stage: str, rate: int, html: Path | None = None) -> dict[str, Any]:
        """The figures of a stage, as summary.json has those of one round. `html` is for k6's own report."""
        self._make_ready(stage)
        before = placement.holdings(self._ground)
        self._report(f"{stage}: {rate} requests a second")
        with TemporaryDirectory(prefix="infinite-scaling-k6-") as folder:
            try:
                found, trace = self._under_load(stage, rate, Path(folder), html)
            finally:
                self._budgets.lift()
        others = found["cpu_seconds_of_others"] / self._options.duration_seconds
        if others > MUCH_OF_OTHERS_CORES:
            self._report(
                f"{stage}: others on this machine took {others:.1f} cores meanwhile: the figures are not its own"
            )
        found["faults"] = faults(before, placement.holdings(self._ground), trace.told)
        for fault in found["faults"]:
            self._report(f"{stage}: NOT WHOLE: {fault}")
        for line in list(dict.fromkeys(trace.others))[:3]:
            self._report(f"{stage}: k6: {line[:300]}")
        return found

    def _make_ready(self, stage: str) -> None:
        flags = flags_of(stage)
        self._report(f"{stage}: making ready")
        if self._seeded is None:
            self._seeded = placement.holdings(self._ground)
        if not flags["sharding"]:  # refused while stores live elsewhere
            placement.place(self._ground, sharding=False)
        placement.switch(self._ground, flags)
        if flags["sharding"]:
            placement.place(self._ground, sharding=True)
        placement.reset(self._ground, self._seeded)

    def _under_load(
        self, stage: str, rate: int, folder: Path, html: Path | None
    ) -> tuple[dict[str, Any], Trace]:
        ground, options = self._ground, self._options
        with (
            load.running(options, ground, rate, folder=folder, html=html) as k6,
            Counters(ground, self._budgets, k6.pid) as counters,
        ):
            began = k6.wait_prepared() + options.warm_up_seconds
            self._budgets.enforce()
            lag = Lag(ground)
            load.sleep_until(began)
            if (late := time.time() - began) > _LATE_SECONDS:
                raise SystemExit(
                    f"the load began {late:.1f} s before the counters were read: --warm-up has to be longer"
                )
            lag.start()
            first = counters.read()
            load.sleep_until(began + options.duration_seconds)
            last = counters.read()
            behind = lag.stop()
            trace, summed_up = k6.finish()
        counted = counters.difference(first, last)
        requests = [request for request in trace.requests if request.scenario == load.SCENARIO]
        found = figures(requests, options.duration_seconds, began)
        if not flags_of(stage)["redis_cache"]:
            found["cache_hit_rate"] = None
        per_request = max(len(requests), 1)
        return {
            **found,
            "dropped_iterations": int(summed_up["dropped_iterations"]),
            **counted,
            "cpu_ms_per_request": {
                kind: spent * 1000 / per_request for kind, spent in counted["cpu_seconds"].items()
            },
            "statements_per_request": sum(counted["statements"].values()) / per_request,
            "replica_lag_bytes": behind,
        }, trace


def one_line(found: Mapping[str, Any]) -> str:
    """What to say of a stage while others run."""
    hit = found["cache_hit_rate"]
    shown = [
        f"p50 {_ms(found['p50_ms'])}, p99 {_ms(found['p99_ms'])}",
        f"{found['good_requests_per_second']:.0f}/s good",
        f"errors {found['error_rate']:.2%}",
        f"dropped {found['dropped_iterations']:.0f}",
        "CPU ms a request: "
        + ", ".join(f"{kind} {spent:.2f}" for kind, spent in found["cpu_ms_per_request"].items()),
        *([f"cache hits {hit:.0%}"] if hit is not None else []),
    ]
    return "; ".join(shown)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"
