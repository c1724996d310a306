"""Interactions a second, decoded and checked, through a Faust agent: ours, stock Faust's, and none.

One core for all: the embedded cluster and the reader. Each reader runs in a process of its own, in
turn, from the beginning of the same topic, several times over; see `benchmarks/readers.py`:
mindstream's app (fast transport, batches, `decode_record`), stock Faust in two ways (`async for`
with a `faust.Record`; `take` with msgspec), and aiokafka's `getmany` with msgspec. Rates are by
processor time of the reader, which other work on the machine disturbs least; those by the clock
stand beside them. Of the two stock ways the faster counts. Prints a table; the last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from statistics import median

from confluent_kafka import Producer
from rich.console import Console
from rich.table import Table

from benchmarks.bars import bar
from benchmarks.readers import (
    Feed,
    Reading,
    read_with_aiokafka,
    read_with_mindstream,
    read_with_records,
    read_with_take,
)
from mindstream.embedded.kafka import EmbeddedKafka
from schemas import Interaction, codec

TOPIC = "benchmark.interactions"
ROWS_OF_PARTITION = 12_000  # what the embedded cluster keeps of messages of this size
PARTITIONS, QUICK_PARTITIONS = 8, 2
REPEATS, QUICK_REPEATS = 5, 1
STOCK_ROWS, QUICK_STOCK_ROWS = 12_000, 2_000  # it needs seconds for these
SHARE = 0.9  # of all rows, for the others: at the end of a partition fetches wait
MIN_OVER_STOCK, MIN_OVER_AIOKAFKA = 12.0, 0.45

MINDSTREAM, RECORDS, TAKE, AIOKAFKA = (
    "mindstream",
    "stock Faust, async for, faust.Record",
    "stock Faust, take, msgspec",
    "aiokafka getmany, msgspec",
)
READERS: dict[str, Callable[[Feed], Reading]] = {
    MINDSTREAM: read_with_mindstream,
    RECORDS: read_with_records,
    TAKE: read_with_take,
    AIOKAFKA: read_with_aiokafka,
}
STOCK = (RECORDS, TAKE)


def preload(servers: str, *, partitions: int) -> int:
    """Fill the topic with interactions as a client sends them; answer how large one is, bytes."""
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 20})
    since = datetime.now(UTC) - timedelta(hours=1)
    size = 0
    for number in range(partitions * ROWS_OF_PARTITION):
        message = Interaction(
            id=f"0d9c6f2a-3f0e-4b7e-9a51-{number:012d}",
            user=f"user-{number % 5_000:06d}",
            task="intents",
            time=since + timedelta(milliseconds=number),
            text="I was charged twice for the same card payment yesterday, "
            "can you please give me one of them back?",
        )
        value = codec.encode(message)
        size = len(value)
        producer.produce(TOPIC, value=value, key=message.user, partition=number % partitions)
        if number % 1_000 == 0:
            producer.flush()
    producer.flush()
    return size


def compare(
    *, partitions: int, repeats: int, stock_rows: int
) -> tuple[dict[str, list[Reading]], int]:
    """Run every reader in turn, `repeats` times; answer what it took, and the size of a message."""
    readings: dict[str, list[Reading]] = {name: [] for name in READERS}
    all_rows = int(partitions * ROWS_OF_PARTITION * SHARE)
    with (
        EmbeddedKafka({TOPIC: partitions}) as cluster,
        bar("readers, in turn") as show,
    ):
        size = preload(cluster.bootstrap, partitions=partitions)
        for repeat in range(repeats):
            for turn, (name, read) in enumerate(READERS.items()):
                feed = Feed(
                    servers=cluster.bootstrap,
                    topic=TOPIC,
                    group=f"benchmark-{repeat}-{turn}",
                    rows=min(all_rows, stock_rows) if name in STOCK else all_rows,
                )
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                    readings[name].append(process.submit(read, feed).result())
                show(repeat * len(READERS) + turn + 1, repeats * len(READERS))
    return readings, size


def rate(readings: Sequence[Reading], *, wall: bool = False) -> float:
    """Give the median of records a second of processor time, or by the clock on the wall."""
    return median(one.rows / (one.seconds if wall else one.cpu_s) for one in readings)


def ratios(readings: dict[str, list[Reading]]) -> dict[str, float]:
    """Compare by processor time, repetition by repetition; medians."""
    ours = [one.rows / one.cpu_s for one in readings[MINDSTREAM]]
    stock = [
        max(readings[name][turn].rows / readings[name][turn].cpu_s for name in STOCK)
        for turn in range(len(ours))
    ]
    theirs = [one.rows / one.cpu_s for one in readings[AIOKAFKA]]
    return {
        "over_stock_faust": median(a / b for a, b in zip(ours, stock, strict=True)),
        "over_aiokafka": median(a / b for a, b in zip(ours, theirs, strict=True)),
    }


def lines_of(readings: dict[str, list[Reading]]) -> list[list[str]]:
    """Write the table, headings first."""
    lines = [["reader", "events/s of processor time", "us an event", "events/s by the clock"]]
    for name, mine in readings.items():
        lines.append(
            [
                name,
                f"{rate(mine):,.0f}",
                f"{1e6 / rate(mine):.2f}",
                f"{rate(mine, wall=True):,.0f}",
            ]
        )
    return lines


def show_table(lines: Sequence[Sequence[str]], *, markdown: bool) -> None:
    """Print a table, the first line its headings."""
    if markdown:
        separated = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
        print("\n".join("| " + " | ".join(line) + " |" for line in separated))
        return
    table = Table()
    for name in lines[0]:
        table.add_column(name, justify="right")
    for line in lines[1:]:
        table.add_row(*line)
    Console(width=160).print(table)


def summary(readings: dict[str, list[Reading]], *, size: int, core: int) -> str:
    """Write results as one line of JSON."""
    from benchmarks.results import machine, revision

    return json.dumps(
        {
            "benchmark": "ingest",
            "machine": machine(),
            "revision": revision(),
            "core": core,
            "message_bytes": size,
            **ratios(readings),
            "events_per_cpu_s": {name: rate(mine) for name, mine in readings.items()},
            "events_per_s": {name: rate(mine, wall=True) for name, mine in readings.items()},
        }
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few events, once")
    parser.add_argument("--repeats", type=int, help=f"of every reader, {REPEATS} by default")
    parser.add_argument("--core", type=int, help="which core; the last one by default")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    chosen = parser.parse_args(arguments)
    if chosen.repeats is not None and chosen.repeats < 1:
        parser.error(f"--repeats {chosen.repeats}: 1 or more were expected")
    return chosen


def pin(core: int | None) -> int:
    """Keep this process and those it starts on one core, where the system can; answer which."""
    if not hasattr(os, "sched_setaffinity"):
        return -1
    chosen = max(os.sched_getaffinity(0)) if core is None else core
    os.sched_setaffinity(0, {chosen})
    return chosen


def main(arguments: Sequence[str]) -> int:
    """Run what the command line asks for; answer the exit status."""
    chosen = parse(arguments)
    core = pin(chosen.core)
    readings, size = compare(
        partitions=QUICK_PARTITIONS if chosen.quick else PARTITIONS,
        repeats=chosen.repeats or (QUICK_REPEATS if chosen.quick else REPEATS),
        stock_rows=QUICK_STOCK_ROWS if chosen.quick else STOCK_ROWS,
    )
    found = ratios(readings)
    show_table(lines_of(readings), markdown=chosen.markdown)
    print(
        f"over stock Faust: {found['over_stock_faust']:.1f} (at least {MIN_OVER_STOCK:g}); "
        f"over aiokafka: {found['over_aiokafka']:.2f} (at least {MIN_OVER_AIOKAFKA:g}); "
        f"messages of {size} bytes"
    )
    print(summary(readings, size=size, core=core))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
