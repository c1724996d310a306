"""The lag of partitions that are assigned, and of no others."""

from __future__ import annotations

from faust.types import TP
from prometheus_client import CollectorRegistry

from serving.metrics import Metrics
from streams.lag import Lag


class Consumer:
    """What the lag is read from; a rebalance needs two workers and a real cluster."""

    def __init__(self) -> None:
        self.ends = {TP("t", 0): 10, TP("t", 1): 20, TP("t", 2): None}
        self._committed_offset = {TP("t", 0): 4}

    def assignment(self) -> set[TP]:
        return set(self.ends)

    def highwater(self, partition: TP) -> int | None:
        return self.ends[partition]


def test_a_partition_that_was_taken_away_is_shown_no_longer() -> None:
    metrics = Metrics(CollectorRegistry())
    lag, consumer = Lag(metrics), Consumer()

    def shown() -> dict[str, float]:
        [family] = [
            f for f in metrics.registry.collect() if f.name.endswith("consumer_lag_messages")
        ]
        return {sample.labels["partition"]: sample.value for sample in family.samples}

    lag.show(consumer)
    assert shown() == {"0": 6.0, "1": 20.0}
    del consumer.ends[TP("t", 0)]
    lag.show(consumer)
    assert shown() == {"1": 20.0}
    consumer.ends[TP("t", 0)] = 10
    lag.show(consumer)
    assert shown() == {"0": 6.0, "1": 20.0}
