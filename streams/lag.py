"""How far a Faust worker is behind, as a metric.

Owns one timer; must not know agents.
"""

from __future__ import annotations

from typing import Any

import faust

from serving.metrics import Metrics

EVERY_S = 1.0


def measure_lag(app: faust.App, metrics: Metrics) -> None:
    """Attach a timer that measures, for each assigned partition, what was not acknowledged yet.

    Args:
        app: before it starts.
        metrics: `consumer_lag_messages` is set.
    """

    async def lag() -> None:
        consumer: Any = app.consumer
        for partition in consumer.assignment():
            end = consumer.highwater(partition)
            done = consumer._committed_offset.get(partition)
            if end is not None:
                behind = max(0, end - (done or 0))
                metrics.consumer_lag_messages.labels(partition.topic, str(partition.partition)).set(
                    behind
                )

    app.timer(EVERY_S)(lag)
