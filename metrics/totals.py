"""All workers' figures at one moment, for a fraction of what `/metrics` costs.

`/metrics` builds objects for each sample and text from them; whoever looks once a second wants a few sums. The keys of
a file do not change once they are there, so each is taken apart once.

Source: prometheus_client's mmap_dict.py and multiprocess.py (the files' format, and what each kind of gauge means).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isnan
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict

import metric_files
from metrics.definitions import registry

_MERGE: Mapping[str, Callable[[float, float], float]] = {
    "livemax": max,
    "livemin": min,
}

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Sample:
    """One series: its labels and its value, all workers' together."""

    labels: Labels
    value: float


class Totals:
    """What the service has counted, by the samples' names. A histogram's buckets do not contain each other."""

    def __init__(self, samples: Mapping[str, list[Sample]]) -> None:
        self._samples = samples

    def __getitem__(self, name: str) -> list[Sample]:
        return self._samples.get(name, [])

    def sum(self, name: str, **labels: str) -> float:
        """The sum of all series of that name that have these labels."""
        return sum(sample.value for sample in self[name] if labels.items() <= sample.labels.items())

    def by(self, name: str, label: str) -> dict[str, float]:
        """The sums by one label's values."""
        sums: dict[str, float] = {}
        for sample in self[name]:
            value = sample.labels.get(label, "")
            sums[value] = sums.get(value, 0.0) + sample.value
        return sums


class TotalsReader:
    """Reads all workers' files; without any, this process's own figures. Used by one thread at a time."""

    def __init__(self) -> None:
        self._keys: dict[str, tuple[str, Labels]] = {}

    def read(self) -> Totals:
        """The figures as they are now. A file that is just being made, or cannot be read, is left out."""
        folder = metric_files.folder()
        if folder is None:
            return _own()
        merged: dict[str, float] = {}
        for path in folder.glob("*.db"):
            kind, _, mode = path.stem.rpartition("_")[0].partition("_")
            merge = _MERGE.get(mode) if kind == "gauge" else None
            for key, value in _values(path):
                if isnan(value):  # gone, see gauges.py
                    continue
                if key not in merged:
                    merged[key] = value
                else:
                    merged[key] = merge(merged[key], value) if merge else merged[key] + value
        samples: dict[str, list[Sample]] = {}
        for key, value in merged.items():
            name, labels = self._take_apart(key)
            samples.setdefault(name, []).append(Sample(labels, value))
        return Totals(samples)

    def _take_apart(self, key: str) -> tuple[str, Labels]:
        known = self._keys.get(key)
        if known is None:
            _, name, labels, _ = json.loads(key)
            known = self._keys[key] = name, labels
        return known


def _values(path: Path) -> list[tuple[str, float]]:
    try:
        found = MmapedDict.read_all_values_from_file(path)  # type: ignore[no-untyped-call]
        return [(key, value) for key, value, _, _ in found]
    except (*metric_files.UNREADABLE, FileNotFoundError):
        return []  # the worker that makes it has counted nothing in it yet; a broken one `/metrics` names in the log


def _own() -> Totals:
    samples: dict[str, list[Sample]] = {}
    for metric in registry.collect():
        below: dict[tuple[tuple[str, str], ...], float] = {}
        for each in metric.samples:
            value = each.value
            if each.name.endswith("_bucket"):  # these contain each other, in rising order
                series = tuple(sorted((name, text) for name, text in each.labels.items() if name != "le"))
                value, below[series] = value - below.get(series, 0.0), value
            if not isnan(value):
                samples.setdefault(each.name, []).append(Sample(each.labels, value))
    return Totals(samples)
