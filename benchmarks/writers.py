"""Examples for replay memory, and one process that offers them: `python -m benchmarks.writers`.

Owns what a row of the benchmark is and how a writer is started; must not import what is slow to
import, since a run starts many. A writer reads one JSON line that says what to do, answers `ready`,
waits for a line, offers, and answers one JSON line.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import redis

from benchmarks.data import read
from learners.rehearsal import ReplayLaws, ReplayRow
from learners.replay import ReplayMemory

USERS = 5_000
BATCH_ROWS = 128
UNBOUNDED = 1 << 40


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What a writer is to do.

    Attributes:
        port: of the server.
        namespace: of the memory.
        data: folder of data sets.
        files: of the one whose texts are offered.
        first: number of the first row; writers never share rows.
        rows: how many are offered.
        batch_rows: in one round trip.
        max_rows: bound of the memory.
        max_bytes: bound of the memory.
    """

    port: int
    namespace: str
    data: str
    files: tuple[str, ...]
    first: int
    rows: int
    batch_rows: int
    max_rows: int
    max_bytes: int


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """What a writer did.

    Attributes:
        seconds: it took.
        added: rows that came in.
        evicted: rows that made room.
    """

    seconds: float
    added: int
    evicted: int


def make_rows(folder: Path, files: Sequence[str], *, first: int, rows: int) -> list[ReplayRow]:
    """Make rows of a data set's texts: again and again, each with an id and a user of its own."""
    texts = read(folder, *files)
    made = []
    for number in range(first, first + rows):
        source = texts[number % len(texts)]
        chance = random.Random(number)
        id_ = str(uuid.UUID(int=chance.getrandbits(128), version=4))
        user = f"user-{chance.randrange(USERS)}"
        made.append(ReplayRow(id=id_, user=user, label=source.label, text=source.text))
    return made


def payload_bytes(rows: Sequence[ReplayRow]) -> int:
    """Count what any memory must hold of rows: id, user, label and text, UTF-8."""
    fields = ((row.id, row.user, str(row.label), row.text) for row in rows)
    return sum(len(field.encode()) for some in fields for field in some)


def open_memory(client: redis.Redis, orders: Orders) -> ReplayMemory:
    """Open the memory that the orders name."""
    return ReplayMemory(
        client,
        namespace=orders.namespace,
        task="intents",
        laws=ReplayLaws(),
        max_rows=orders.max_rows,
        max_bytes=orders.max_bytes,
        held_out_rows=1_000,
    )


class Writer:
    """A process that offers rows.

    Args:
        orders: what it is to do.
    """

    def __init__(self, orders: Orders) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.writers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._say(msgspec.json.encode(orders).decode())

    def wait_ready(self) -> None:
        """Wait until its rows are made."""
        assert self._hear() == "ready"

    def go(self) -> None:
        """Let it begin."""
        self._say("go")

    def is_busy(self) -> bool:
        """Say whether it still runs."""
        return self._process.poll() is None

    def result(self) -> Written:
        """Wait for what it did."""
        written = msgspec.json.decode(self._hear(), type=Written)
        self._process.communicate()
        return written

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def main() -> None:
    """Be a writer."""
    orders = msgspec.json.decode(sys.stdin.readline(), type=Orders)
    rows = make_rows(Path(orders.data), orders.files, first=orders.first, rows=orders.rows)
    with redis.Redis(port=orders.port) as client:
        memory = open_memory(client, orders)
        memory.size()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        added, evicted, started_s = 0, 0, time.perf_counter()
        for start in range(0, len(rows), orders.batch_rows):
            report = memory.offer(rows[start : start + orders.batch_rows])
            added, evicted = added + report.added, evicted + report.evicted
        seconds = time.perf_counter() - started_s
    written = Written(seconds=seconds, added=added, evicted=evicted)
    sys.stdout.write(json.dumps(cast("dict[str, Any]", msgspec.to_builtins(written))) + "\n")


if __name__ == "__main__":
    main()
