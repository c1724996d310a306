"""What a worker does between fetches, and when its partitions move in the middle of one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from aiokafka.errors import IllegalStateError
from faust.types import TP

from streams.transport import FEW_RECORDS, FastConsumer


class Moved(FastConsumer):
    """A consumer whose flow was stopped during a fetch, and whose partitions are gone by then."""

    should_stop = False
    flow_active = False
    seeks = 0

    def __init__(self) -> None:
        """Have no client: none is asked."""

    async def _wait_next_records(self, timeout: float) -> tuple[Any, Any]:  # noqa: ASYNC109
        return {TP("interactions", 5): ["a record"]}, {TP("interactions", 5)}

    async def perform_seek(self) -> None:
        self.seeks += 1
        raise IllegalStateError("No current assignment for partition")


async def test_a_fetch_of_partitions_that_have_moved_gives_nothing_and_ends_nothing() -> None:
    consumer = Moved()
    assert [message async for message in consumer.getmany(1.0)] == []
    assert consumer.seeks == 1


class Fetching(FastConsumer):
    """A consumer that is given fetches of so many records, and tells when it asked for each."""

    should_stop = False
    flow_active = False  # so that what was fetched goes nowhere

    def __init__(self, sizes: Iterator[int]) -> None:
        self.sizes = sizes
        self.asked_s: list[float] = []

    async def _wait_next_records(self, timeout: float) -> tuple[Any, Any]:  # noqa: ASYNC109
        self.asked_s.append(time.monotonic())
        partition = TP("interactions", 0)
        return {partition: ["a record"] * next(self.sizes)}, {partition}

    async def perform_seek(self) -> None:
        pass


@pytest.mark.parametrize("pause_s", [0.0, 0.2])
async def test_after_a_fetch_of_few_records_the_next_one_waits_for_more(pause_s: float) -> None:
    consumer = Fetching(iter([1, FEW_RECORDS - 1, FEW_RECORDS, 0, 1]))
    consumer.pause_s = pause_s
    for _ in range(5):
        assert [message async for message in consumer.getmany(1.0)] == []
    waits = [b - a for a, b in zip(consumer.asked_s[:-1], consumer.asked_s[1:], strict=True)]
    assert [wait >= 0.2 for wait in waits] == [pause_s > 0, pause_s > 0, False, False]
