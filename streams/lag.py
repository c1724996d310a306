"""How far a Faust worker is behind, as a metric.

Owns one timer; must not know agents.
"""

from __future__ import annotations

from typing import Any

import faust

from serving.metrics import Metrics

EVERY_S = 1.0


class Lag:
    """Shows, for each assigned partition, what was not acknowledged yet, and for no other.

    Args:
        metrics: `consumer_lag_messages` is set, and taken away with the partition: else two workers
            would show the same one, the earlier owner for ever what was left when it went.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._gauge = metrics.consumer_lag_messages
        self._shown: set[tuple[str, str]] = set()

    def show(self, consumer: Any) -> None:  # noqa: ANN401 - Faust's
        """Bring the metric up to date."""
        now: set[tuple[str, str]] = set()
        for partition in consumer.assignment():
            end = consumer.highwater(partition)
            if end is None:
                continue
            labels = (partition.topic, str(partition.partition))
            done = consumer._committed_offset.get(partition)
            self._gauge.labels(*labels).set(max(0, end - (done or 0)))
            now.add(labels)
        for labels in self._shown - now:
            self._gauge.remove(*labels)
        self._shown = now


def measure_lag(app: faust.App, metrics: Metrics) -> None:
    """Attach a timer that shows the lag.

    Args:
        app: before it starts.
        metrics: `consumer_lag_messages` is set.
    """
    lag = Lag(metrics)

    async def show() -> None:
        lag.show(app.consumer)

    app.timer(EVERY_S)(show)
