"""Faust's Kafka transport: events of whole chunks, bounded memory, a fetch wait of our choosing.

A stock Faust worker makes a message, an event and four asyncio tasks of every record: some 80 us.
The fast transport makes one event of all that a fetch gave for a partition, at most
`chunks.CHUNK_ROWS` records. Its offset is that of the last record; those before are put into
Faust's own list of gaps, so that Faust's own commits go on past them when, and only when, the chunk
is acknowledged.

What that rule needs, and is seen to here:

1. chunks of a partition are acknowledged in the order of their offsets (`streams.batches` does);
2. an acknowledgement counts only when all records of the chunk are durable (Faust acknowledges
   what it skips), and
3. only within the reading that it belongs to: after a rebalance or a seek the same records are cut
   into other chunks, and an old chunk's last offset would commit a new chunk's first records.

Faust counts its buffers in events, and stops for a whole second when one is full. A topic of which
more than `chunks.Bounds` is in memory is not read; the rest waits in Kafka.

While a role is at work, its fetches wait for it: see `streams.pacing`.

Owns what is overridden in faust-streaming 0.15.3, each method pinned by
tests/contracts/test_faust_transport.py; must not know agents.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import faust
from aiokafka.errors import KafkaError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from streams.chunks import CHUNK_ROWS, CLOSED_POLL_S, Bounds, Buffered, Chunk, cut
from streams.decoding import Record, records_of
from streams.pacing import Pace

log = logging.getLogger(__name__)


class _Thread(driver.AIOKafkaConsumerThread):
    fetch_wait_ms = 500
    paced = False

    async def on_start(self) -> None:
        await super().on_start()
        consumer: Any = self.consumer
        if self.paced and isinstance(consumer, FastConsumer) and self._consumer is not None:
            _pace(self._consumer._fetcher, consumer.pace)

    def _create_worker_consumer(self, transport: Any) -> Any:  # noqa: ANN401
        # faust-streaming fixes this number at 1,500. A real broker answers as soon as a byte is
        # there; the embedded cluster does not wake a parked fetch.
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = self.fetch_wait_ms
        return consumer


def _pace(fetcher: Any, pace: Pace) -> None:  # noqa: ANN401
    """Let a client's fetches wait until they are wanted."""
    fetch = fetcher._proc_fetch_request

    async def wait_and_fetch(*args: Any) -> bool:  # noqa: ANN401
        try:
            await pace.until_wanted()
        except asyncio.CancelledError:  # as the client's own does: it awaits what it cancels
            return False
        found: bool = await fetch(*args)
        if found:
            pace.brought()
        return found

    fetcher._proc_fetch_request = wait_and_fetch


class FastConsumer(driver.Consumer):
    """Hands out chunks.

    Attributes:
        bounds: of what waits in memory.
        buffered: what does.
        pace: when it fetches; agents tell.
    """

    bounds = Bounds()

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self.buffered = Buffered(self.bounds)
        self.pace = Pace()
        self._epoch = 0

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:  # noqa: ASYNC109 - Faust's
        """Fetch once, and give a message for every chunk.

        Yields:
            Partition and message; its value is a `Chunk`.
        """
        fetched, active = await self._wait_next_records(timeout)
        if fetched is None or self.should_stop:
            return
        if not self.flow_active:
            # The fetch ended after Faust had stopped the flow: read it again later, as Faust does.
            try:
                await self.perform_seek()
            except KafkaError as error:  # partitions went meanwhile: Faust seeks in the new ones
                log.warning("what was fetched as partitions moved is read again: %s", error)
            return
        epoch = self._epoch
        pieces = turns(fetched)
        last = {tp.topic: place for place, (tp, _) in enumerate(pieces)}
        for place, (tp, rows) in enumerate(pieces):
            if self._reading_ended(epoch):
                return
            if active is None or tp in active or tp in self._buffered_partitions:
                records = self._unread(tp, rows)
                if records:
                    self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
                    followed = place < last[tp.topic]
                    yield tp, self._message(tp, records, rows[-1], followed=followed)

    def _reading_ended(self, epoch: int) -> bool:
        return not self.flow_active or epoch != self._epoch

    def _unread(self, tp: TP, rows: Sequence[Any]) -> list[Record]:
        read = self._read_offset[tp]
        if read is not None and rows[0].offset < read:
            rows = [row for row in rows if row.offset >= read]
        return records_of(rows)

    def _message(
        self,
        tp: TP,
        records: list[Record],
        last: Any,  # noqa: ANN401
        *,
        followed: bool = False,
    ) -> ConsumerMessage:
        read = self._read_offset[tp]
        first = records[0].offset if read is None else min(records[0].offset, read + 1)
        if self.app.topics.acks_enabled_for(tp.topic) and first < last.offset:
            # As Faust's `_add_gap` does, which also looks for gaps that overlap, all of them each
            # time. These do not, and there are many at 100,000 records a second.
            self._gap[tp].addi(first, last.offset)
        # Faust looks for a gap before a message's offset: there is none but the one just added.
        self._read_offset[tp] = last.offset - 1
        chunk = self.buffered.chunk(tp.topic, records, epoch=self._epoch, followed=followed)
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            last.offset,
            last.timestamp / 1000.0,
            last.timestamp_type,
            None,
            None,
            chunk,  # type: ignore[arg-type]  # Faust's raw codec passes it on as it is
            None,
            0,
            chunk.size,
            tp,
            generation_id=self.app.consumer_generation_id,
        )

    async def _getmany(
        self,
        active_partitions: set[TP] | None,
        timeout: float,  # noqa: ASYNC109 - Faust's
    ) -> Mapping[TP, Any]:
        """Read those partitions only whose topic has room."""
        if active_partitions is None:
            return await super()._getmany(active_partitions, timeout)
        room = {tp for tp in active_partitions if self.buffered.has_room(tp.topic)}
        if not room:
            await self.buffered.wait_for_room(at_most_s=timeout)
            return {}
        if len(room) < len(active_partitions):  # look again soon whether a full topic has room
            timeout = min(timeout, CLOSED_POLL_S)
        return await super()._getmany(room, timeout)

    def ack(self, message: Any) -> bool:  # noqa: ANN401
        """Acknowledge a chunk if it is durable and of this reading; else only forget it."""
        chunk = message.value
        if isinstance(chunk, Chunk):
            chunk.release()
            if not (chunk.durable and chunk.epoch == self._epoch):
                message.acked = True
                self._unacked_messages.discard(message)
                return False
        return super().ack(message)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Begin a new reading."""
        self._begin_reading()
        await super().on_partitions_revoked(revoked)

    async def perform_seek(self) -> None:
        """Begin a new reading, from what is committed."""
        self._begin_reading()
        await super().perform_seek()

    def _begin_reading(self) -> None:
        self._epoch += 1
        for kept in (self._gap, self._acked, self._acked_index):
            kept.clear()


def use_transport(
    app: faust.App, *, fetch_wait_ms: int, fast: Bounds | None, paced: bool = False
) -> None:
    """Give an app its transport.

    Args:
        app: before it starts.
        fetch_wait_ms: longest wait of one fetch, milliseconds.
        fast: events of whole chunks, and their bounds; None: stock Faust, an event for each record.
        paced: whether the fast transport's fetches wait while agents are at work.
    """
    thread = type("FetchThread", (_Thread,), {"fetch_wait_ms": fetch_wait_ms, "paced": paced})
    parts: dict[str, Any] = {
        "_new_consumer_thread": lambda self: thread(self, loop=self.loop, beacon=self.beacon)
    }
    if fast is not None:
        parts["bounds"] = fast
    base = driver.Consumer if fast is None else FastConsumer
    consumer = type("MindstreamConsumer", (base,), parts)
    transport = type("MindstreamTransport", (driver.Transport,), {"Consumer": consumer})
    app.transport = transport(app.conf.broker_consumer, app)


def turns(fetched: Mapping[TP, Sequence[Any]]) -> list[tuple[TP, Sequence[Any]]]:
    """Cut what was fetched into chunks, the partitions taking turns."""
    cuts = {tp: list(cut(rows, at_most=CHUNK_ROWS)) for tp, rows in fetched.items() if rows}
    longest = max(map(len, cuts.values()), default=0)
    return [
        (tp, pieces[turn])
        for turn in range(longest)
        for tp, pieces in cuts.items()
        if turn < len(pieces)
    ]
