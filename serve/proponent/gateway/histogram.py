"""A Prometheus histogram for the event loop alone.

The library's takes a lock for each number that it changes, and looks anew at the names of each exemplar: 5 us an
observation, of which an explanation makes ten.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, cast

from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar


@dataclass
class _Series:
    """Observations by bucket, the last one without an upper bound, newest exemplars by bucket, and the sum."""

    counts: list[int]
    exemplars: list[tuple[Mapping[str, str], float, float] | None]
    total: float = 0.0


class LoopHistogram(Collector):
    """A histogram that one thread observes and any thread reads.

    Args:
        name: Of the metric.
        text: What it measures.
        labels: Names of its labels.
        bounds: Upper bounds of its buckets, ascending; the last bucket has none.
    """

    def __init__(self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self.labels = tuple(labels)
        self._name, self._text, self._bounds = name, text, tuple(bounds)
        self._series: dict[tuple[str, ...], _Series] = {}

    def observe(self, labels: tuple[str, ...], value: float, found_by: Mapping[str, str] | None = None) -> None:
        """Counts a value under the values of the labels, with what it is found by in logs and traces."""
        series = self._series.get(labels)
        if series is None:
            buckets = len(self._bounds) + 1
            series = self._series[labels] = _Series([0] * buckets, [None] * buckets)
        bucket = bisect_left(self._bounds, value)
        series.counts[bucket] += 1
        series.total += value
        if found_by:
            series.exemplars[bucket] = found_by, value, time.time()

    def remove_by_labels(self, labels: Mapping[str, str]) -> None:
        """Forgets what was counted under such values of some labels."""
        places = {self.labels.index(name): value for name, value in labels.items()}
        for values in list(self._series):
            if all(values[place] == value for place, value in places.items()):
                del self._series[values]

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """What has been observed."""
        family = HistogramMetricFamily(self._name, self._text, labels=self.labels)
        bounds = [*map(str, map(float, self._bounds)), "+Inf"]
        for labels, series in list(self._series.items()):
            exemplars = [found and Exemplar(dict(found[0]), *found[1:]) for found in series.exemplars]
            buckets = zip(bounds, accumulate(series.counts), exemplars, strict=True)
            family.add_metric(labels, cast(Any, list(buckets)), sum_value=series.total)
        yield family

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """The metric without values, by which the registry finds names that are taken."""
        yield HistogramMetricFamily(self._name, self._text, labels=self.labels)
