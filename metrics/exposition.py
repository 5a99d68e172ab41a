"""All workers' figures as one: for `/metrics`, and for who wants to look at them."""

from __future__ import annotations

from collections.abc import Iterable
from math import isnan
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

import metric_files
from metrics.definitions import registry

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class _Together:
    """What `generate_latest` takes for a registry."""

    def collect(self) -> Iterable[Metric]:
        return collect()


def collect() -> Iterable[Metric]:
    """Each metric with its samples, less those that are NaN: of all workers, or, without files, of this process."""
    folder = metric_files.folder()
    if folder is None:
        found = list(registry.collect())
    else:
        # One without a size is being made, or its maker has died over it: it holds nothing yet.
        paths = [path for path in folder.glob("*.db") if _size(path)]
        try:
            found = _merged([str(path) for path in paths])
        except (*metric_files.UNREADABLE, FileNotFoundError):
            found = _merged([str(path) for path in metric_files.sound(paths)])
    for metric in found:
        metric.samples = [sample for sample in metric.samples if not isnan(sample.value)]
        yield metric


def render() -> bytes:
    """The text of `/metrics` (`CONTENT_TYPE`), for all workers together."""
    out = CollectorRegistry()
    out.register(_Together())
    return generate_latest(out)


def _merged(paths: list[str]) -> list[Metric]:
    return list(MultiProcessCollector.merge(paths))  # type: ignore[no-untyped-call]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # of a worker that was reaped just now
        return 0
