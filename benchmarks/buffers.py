"""Kinds of replay memory beside each other: in Redis, in this process, and a plain list.

Owns how each is filled and timed; must not know tables, writers or command lines.
"""

from __future__ import annotations

import gc
import random
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import redis

from benchmarks.writers import BATCH_ROWS, UNBOUNDED, Orders, make_rows, open_memory
from learners.localmemory import LocalMemory
from learners.rehearsal import OfferReport, ReplayRow


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of memory.

    Attributes:
        name: of the kind.
        fill_s: offers a second while there is room.
        full_s: offers a second when every row that comes in lets another go.
        sample_s: rows drawn a second.
        full_cpu_s: as `full_s`, by processor time, the server's and this process's one after the
            other: what a machine gives that does nothing else.
        sample_cpu_s: as `sample_s`, by processor time.
        bytes_a_row: what it takes for one.
    """

    name: str
    fill_s: float
    full_s: float
    sample_s: float
    full_cpu_s: float
    sample_cpu_s: float
    bytes_a_row: float


class Memory(Protocol):
    """What all kinds of memory can do."""

    def offer(self, rows: Sequence[ReplayRow]) -> OfferReport:
        """Offer rows in order."""
        ...

    def sample(self, rows: int, *, draws: Sequence[float]) -> Sequence[ReplayRow]:
        """Draw rows."""
        ...


class ListReservoir:
    """Algorithm R over a list: no ids, no users, no classes, no losses, no revisions.

    Args:
        max_rows: that it holds.
    """

    def __init__(self, max_rows: int) -> None:
        self._rows: list[ReplayRow] = []
        self._max_rows = max_rows
        self._offers = 0
        self._chance = random.Random(0)

    def offer(self, rows: Sequence[ReplayRow]) -> OfferReport:
        """Offer rows in order."""
        for row in rows:
            self._offers += 1
            if len(self._rows) < self._max_rows:
                self._rows.append(row)
            elif (place := self._chance.randrange(self._offers)) < self._max_rows:
                self._rows[place] = row
        return OfferReport(len(rows), 0, 0, 0, 0)

    def sample(self, rows: int, *, draws: Sequence[float]) -> list[ReplayRow]:
        """Draw rows."""
        del rows
        return [self._rows[int(draw * len(self._rows))] for draw in draws]


class Costs(Protocol):
    """What a kind of memory costs so far."""

    def taken(self) -> int:
        """Count bytes."""
        ...

    def cpu_s(self) -> float:
        """Count seconds of processor time."""
        ...


class OfServer:
    """Bytes of the server; processor time of both.

    Args:
        client: of the server.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def taken(self) -> int:
        """Count bytes."""
        return server_bytes(self._client)

    def cpu_s(self) -> float:
        """Count seconds of processor time."""
        used = self._client.info("cpu")
        server_s = float(used["used_cpu_user"]) + float(used["used_cpu_sys"])
        return time.process_time() + server_s


class OfProcess:
    """Processor time of this process; its bytes are traced elsewhere."""

    def taken(self) -> int:
        """Count nothing."""
        return 0

    def cpu_s(self) -> float:
        """Count seconds of processor time."""
        return time.process_time()


def speed_of(
    memory: Memory, rows: Sequence[ReplayRow], *, name: str, samples: int, costs: Costs
) -> Speed:
    """Time one kind of memory: half of the rows fill it, half come when it is full.

    Args:
        memory: empty, bounded to half of the rows.
        rows: to offer.
        name: of its kind.
        samples: rows to draw.
        costs: what it costs so far.
    """
    half = len(rows) // 2
    before = costs.taken()
    fill_s = _rate(memory, rows[:half])
    size = (costs.taken() - before) / half
    cpu_s = costs.cpu_s()
    full_s = _rate(memory, rows[half:])
    full_cpu_s = costs.cpu_s() - cpu_s
    chance = random.Random(0)
    batches = [[chance.random() for _ in range(BATCH_ROWS)] for _ in range(samples // BATCH_ROWS)]
    started_s, cpu_s = time.perf_counter(), costs.cpu_s()
    for draws in batches:
        memory.sample(BATCH_ROWS, draws=draws)
    seconds, sample_cpu_s = time.perf_counter() - started_s, costs.cpu_s() - cpu_s
    return Speed(
        name=name,
        fill_s=fill_s,
        full_s=full_s,
        sample_s=len(batches) * BATCH_ROWS / seconds,
        full_cpu_s=half / full_cpu_s,
        sample_cpu_s=len(batches) * BATCH_ROWS / sample_cpu_s,
        bytes_a_row=size,
    )


def _rate(memory: Memory, rows: Sequence[ReplayRow]) -> float:
    started_s = time.perf_counter()
    for start in range(0, len(rows), BATCH_ROWS):
        memory.offer(rows[start : start + BATCH_ROWS])
    return len(rows) / (time.perf_counter() - started_s)


def server_bytes(client: redis.Redis) -> int:
    """Give the server's memory in use."""
    return int(client.info("memory")["used_memory"])


def process_bytes() -> int:
    """Give what Python objects take that were made since tracing began."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def speeds(client: redis.Redis, orders: Orders, *, samples: int) -> list[Speed]:
    """Time the memory in the server beside both in this process.

    The rows that those in this process hold are made while their bytes are traced, and once more
    without, for their times.
    """
    half = orders.rows // 2
    orders = msgspec.structs.replace(orders, max_rows=half, max_bytes=UNBOUNDED)

    def rows(count: int) -> list[ReplayRow]:
        return make_rows(Path(orders.data), orders.files, first=0, rows=count)

    offered = rows(2 * half)
    measured = [
        speed_of(
            open_memory(client, orders),
            offered,
            name="in Redis",
            samples=samples,
            costs=OfServer(client),
        )
    ]
    client.flushall()
    kinds: dict[str, Callable[[], Memory]] = {
        "in this process, same laws": lambda: LocalMemory(max_rows=half, max_bytes=UNBOUNDED),
        "a reservoir in a list": lambda: ListReservoir(half),
    }
    for name, make in kinds.items():
        tracemalloc.start()
        before, memory = process_bytes(), make()
        memory.offer(rows(half))
        size = process_bytes() - before
        tracemalloc.stop()
        speed = speed_of(make(), offered, name=name, samples=samples, costs=OfProcess())
        measured.append(msgspec.structs.replace(speed, bytes_a_row=size / half))
    return measured
