"""An agent that is slower than its stream: lag grows, memory does not, and no other agent waits."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import faust
from kafka import TopicPartition

from streams.batches import each_batch
from streams.chunks import Bounds
from streams.decoding import Record
from streams.flow import raw_topic
from tests.flow.conftest import Launch, Wire, eventually

BOUNDS = Bounds(rows=1_000, size=10**9, poll_rows=500)
ROWS = 20_000
SLOW, QUICK = "bounded.slow", "bounded.quick"


def has_come(rows: Callable[[str], int], count: int) -> bool:
    """Say whether so many records of the quick topic were handled."""
    return rows(QUICK) == count


async def test_a_slow_agent_reads_no_further_than_its_bound_and_a_quick_one_goes_on(
    wire: Wire, launch: Launch
) -> None:
    # Given a topic with more than may be in memory, and an agent that is stuck
    go_on = asyncio.Event()
    handled: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))

    async def count(records: list[Record]) -> None:
        for record in records:
            handled[record.topic][record.partition].append(record.offset)

    async def stuck(records: list[Record]) -> None:
        await go_on.wait()
        await count(records)

    def attach(app: faust.App) -> None:
        for name, handle in ((SLOW, stuck), (QUICK, count)):

            async def agent(stream: Any, handle: Any = handle) -> None:
                await each_batch(stream, handle)

            app.agent(raw_topic(app, name), name=name)(agent)

    def rows(topic: str) -> int:
        return sum(map(len, handled[topic].values()))

    wire.send(SLOW, [(str(n), b"%d" % n) for n in range(ROWS)])
    wire.send(QUICK, [("k", b"first")])
    async with launch("bounded", attach, bounds=BOUNDS) as role:
        consumer: Any = role.app.consumer
        buffered = await eventually(lambda: consumer.buffered)
        await eventually(lambda: buffered.rows[SLOW] >= BOUNDS.rows)
        # When time passes and others' records come
        for n in range(5):
            wire.send(QUICK, [("k", b"%d" % n)])
            await eventually(partial(has_come, rows, n + 2), every_s=0.01)
        # Then the slow agent's topic is in memory up to its bound and one fetch, the rest is lag
        assert BOUNDS.rows <= buffered.rows[SLOW] <= BOUNDS.rows + BOUNDS.poll_rows
        assert rows(SLOW) == 0
        # and when it goes on, each record comes once, in order, and is committed
        go_on.set()
        await eventually(lambda: rows(SLOW) == ROWS)
        for offsets in handled[SLOW].values():
            assert offsets == list(range(len(offsets)))
        assert consumer._buffered_partitions == set()  # Faust's own stop was never needed
        ends = {(SLOW, n): len(offsets) for n, offsets in handled[SLOW].items()}
        await eventually(
            lambda: (
                {
                    (tp.topic, tp.partition): offset
                    for tp, offset in consumer._committed_offset.items()
                    if tp.topic == SLOW and offset
                }
                == ends
            )
        )
        await eventually(lambda: buffered.rows[SLOW] == 0)
    group = wire.consumer("bounded")
    try:
        assert {key: group.committed(TopicPartition(*key)) for key in ends} == ends
    finally:
        group.close()
