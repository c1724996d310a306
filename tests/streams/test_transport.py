"""A worker goes on when its partitions move in the middle of a fetch."""

from __future__ import annotations

from typing import Any

from aiokafka.errors import IllegalStateError
from faust.types import TP

from streams.transport import FastConsumer


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
