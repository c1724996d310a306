"""What one partition gave at once, and how much of it may wait in memory.

Owns the bookkeeping of chunks: how a fetch is cut, which chunks count, what they hold; must not
know Kafka clients, agents or what a record means.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from streams.decoding import Record

T = TypeVar("T")

CHUNK_ROWS = 512
CLOSED_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much one topic may have in memory before its partitions are not read any further.

    A topic may go past a bound by one fetch, `poll_rows` records.

    Attributes:
        rows: records.
        size: keys and values, bytes.
        poll_rows: records of one fetch, at most.
    """

    rows: int = 16_384
    size: int = 64 * 1024 * 1024
    poll_rows: int = 4_096


class Buffered:
    """Counts the records of chunks, by topic.

    A chunk counts until it is acknowledged, or until nothing refers to it any more: Faust empties
    its queues when partitions move, and tells nobody. So the count cannot drift.

    Args:
        bounds: of each topic.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.rows: Counter[str] = Counter()
        self.size: Counter[str] = Counter()
        self._freed = asyncio.Event()

    def has_room(self, topic: str) -> bool:
        """Say whether a topic may be read."""
        return self.rows[topic] < self.bounds.rows and self.size[topic] < self.bounds.size

    def chunk(
        self, topic: str, records: list[Record], *, epoch: int, followed: bool = False
    ) -> Chunk:
        """Make a chunk that counts from now on."""
        chunk = Chunk(self, topic, records, epoch=epoch, followed=followed)
        self.rows[topic] += len(records)
        self.size[topic] += chunk.size
        return chunk

    def release(self, topic: str, *, rows: int, size: int) -> None:
        """Take back what a chunk counted for."""
        self.rows[topic] -= rows
        self.size[topic] -= size
        self._freed.set()

    async def wait_for_room(self, *, at_most_s: float) -> None:
        """Return when a chunk was let go, or after so long."""
        self._freed.clear()
        try:
            await asyncio.wait_for(self._freed.wait(), at_most_s)
        except TimeoutError:
            return


class Chunk:
    """Records of one partition, in order, acknowledged together.

    Attributes:
        records: one at least.
        epoch: which reading of the partitions they are of; what came before a rebalance no longer
            counts.
        durable: whether every effect of every record is.
        followed: whether the same fetch gave more chunks of this topic, which come next.
        size: keys and values, bytes.
    """

    __slots__ = (
        "_buffered",
        "_counts",
        "_topic",
        "durable",
        "epoch",
        "followed",
        "records",
        "size",
    )

    def __init__(
        self,
        buffered: Buffered,
        topic: str,
        records: list[Record],
        *,
        epoch: int,
        followed: bool = False,
    ) -> None:
        self._buffered = buffered
        self._counts = True
        self._topic = topic
        self.records = records
        self.epoch = epoch
        self.followed = followed
        self.durable = False
        self.size = sum([len(row.value) for row in records])
        self.size += sum([len(row.key) for row in records if row.key])

    def release(self) -> None:
        """Count no longer."""
        if self._counts:
            self._counts = False
            self._buffered.release(self._topic, rows=len(self.records), size=self.size)

    def __del__(self) -> None:
        self.release()


def cut(rows: Sequence[T], *, at_most: int) -> Iterator[Sequence[T]]:
    """Cut a sequence into pieces.

    Yields:
        Pieces of `at_most` rows, the last one shorter, in order.

    Example:
        >>> [list(piece) for piece in cut(range(5), at_most=2)]
        [[0, 1], [2, 3], [4]]
    """
    for start in range(0, len(rows), at_most):
        yield rows[start : start + at_most]
