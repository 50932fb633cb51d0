"""What Prometheus scrapes: counters from SQL, gauges measured at the scrape.

Rows of a source or reason that this configuration or version does not know are counted under
``other``: a counter must not fall because a name was taken out of the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from diptych import __version__, metrics
from diptych.audit import counters
from diptych.audit.store import Store
from diptych.errors import Reason

Labels = tuple[tuple[str, str], ...]
Counted = dict[tuple[str, Labels], float]
OTHER = "other"


class Exposition(Collector):
    """Renders one scrape. ``gauges`` gives the readings that are measured now."""

    def __init__(
        self,
        store: Store,
        sources: tuple[str, ...],
        gauges: Callable[[], Mapping[str, float | dict[str, float]]],
        destinations: tuple[str, ...] = (),
    ) -> None:
        self._store, self._gauges = store, gauges
        self._open_sets = {
            "source": tuple(dict.fromkeys((*sources, OTHER))),
            "reason": (*Reason, OTHER),
            "destination": tuple(dict.fromkeys((*destinations, OTHER))),
        }
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def render(self) -> bytes:
        """The text exposition format. Raises StoreError when the database is away."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing to check at registration: names are unique in ``metrics``."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Every family, every child: from zero on."""
        with self._store.read() as connection:
            counted = self._folded(counters.read_counters(connection))
            readings = counters.read_gauges(connection)
        for name, metric in metrics.COUNTERS.items():
            family = CounterMetricFamily(name, metric.help, labels=list(metric.labels))
            for labels in metric.children(self._open_sets):
                key = (name, tuple(sorted(labels.items())))
                family.add_metric(list(labels.values()), counted.get(key, 0.0))
            yield family
        for name, metric in metrics.HISTOGRAMS.items():
            yield self._histogram(name, metric, counted)
        measured: dict[str, float | dict[str, float]] = {
            **{k: v[0] for k, v in readings.items()},
            "diptych_check_timestamp_seconds": {
                k: readings[k][2] / 1e6 for k in metrics.CHECKS if k in readings
            },
            **self._gauges(),
        }
        for name, metric in metrics.GAUGES.items():
            # Without a reading no sample: a made-up 0 would be a wrong one.
            value = measured.get(name)
            if isinstance(value, dict):
                gauge = GaugeMetricFamily(name, metric.help, labels=list(metric.labels))
                for label, one in value.items():
                    gauge.add_metric([label], one)
                yield gauge
            else:
                yield GaugeMetricFamily(name, metric.help, value=value)
        yield InfoMetricFamily(
            "diptych_build", metrics.INFOS["diptych_build_info"], {"version": __version__}
        )
        model = InfoMetricFamily("diptych_model", metrics.INFOS["diptych_model_info"])
        if "model_info" in readings:
            said = (readings["model_info"][1] or "").split(" ")
            model.add_metric(
                [], dict(zip(("model", "fingerprint", "provider"), said, strict=False))
            )
        yield model

    def _folded(self, counted: Counted) -> Counted:
        """Label values outside their set become ``other``, where the set has it."""
        folded: Counted = {}
        for (name, labels), value in counted.items():
            family = metrics.COUNTERS.get(name) or metrics.HISTOGRAMS.get(name.removesuffix("_sum"))
            if family is not None:
                sets = {k: v or self._open_sets[k] for k, v in family.labels.items()}
                labels = tuple(
                    (k, OTHER if k in sets and v not in sets[k] and OTHER in sets[k] else v)
                    for k, v in labels
                )
            folded[(name, labels)] = folded.get((name, labels), 0.0) + value
        return folded

    def _histogram(
        self,
        name: str,
        metric: metrics.Metric,
        counted: Counted,
    ) -> HistogramMetricFamily:
        family = HistogramMetricFamily(name, metric.help, labels=list(metric.labels))
        bounds = [*(repr(float(b)) for b in metrics.DURATION_BUCKETS), "+Inf"]
        for labels in metric.children(self._open_sets):
            total, buckets = 0.0, []
            for le in bounds:
                key = (name, tuple(sorted({**labels, "le": le}.items())))
                total += counted.get(key, 0.0)
                buckets.append((le, total))
            sum_key = (f"{name}_sum", tuple(sorted(labels.items())))
            family.add_metric(list(labels.values()), buckets, counted.get(sum_key, 0.0))
        return family
