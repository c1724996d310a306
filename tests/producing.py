"""What producing needs of a Faust app and of its client, without a broker; for faults."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any


class Batch:
    """Messages of one partition."""

    def __init__(self) -> None:
        self.values: list[bytes] = []

    def append(self, *, timestamp: None, key: bytes | None, value: bytes, headers: Any) -> bool:
        del timestamp, key, headers
        self.values.append(value)
        return True

    def close(self) -> None:
        """Take no more."""


class MemoryApp:
    """A Faust app, its producer and its client in one; a subclass says what is refused."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.producer = self
        self.conf = SimpleNamespace(producer_max_request_size=16 * 1024 * 1024)

    def refuse(self, values: list[bytes]) -> None:
        """Raise what the broker would."""

    async def maybe_start(self) -> None:
        """Start nothing."""

    def _ensure_producer(self) -> MemoryApp:
        return self

    async def partitions_for(self, topic: str) -> set[int]:
        del topic
        return {0}

    def create_batch(self) -> Batch:
        return Batch()

    async def send_batch(self, batch: Batch, topic: str, *, partition: int) -> Any:
        assert partition == 0
        self.refuse(batch.values)
        self.sent += [(topic, value) for value in batch.values]
        delivered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        delivered.set_result(None)
        return delivered
