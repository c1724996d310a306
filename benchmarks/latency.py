"""How long an answer takes at 20, 50 and 80 % of what the serve role can do on one core.

The role's capacity is measured first: rows a second while a backlog is worked off. Then texts are
sent at random times at a share of it, and the time from when each was due to when its answer was
read from the `predictions` topic is taken. Beside it stands the mean time of a micro-batch at that
load, as the role's own metric gives it: most of a latency is to wait for the micro-batch at hand
and to be computed in the next. The embedded Kafka does not wake a fetch that waits, so that a text
may lie there for up to 20 ms; `--kafka HOST:PORT` names a real one. Prints a table; the last line
is one JSON object.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.bars import Show, bar
from benchmarks.commands import changes_of, parser_of, print_last
from benchmarks.data import DataError
from benchmarks.deployment import Role, apart, deployment, taught
from benchmarks.load import drive, quantile
from benchmarks.serve import banking, rate_through

SHARES = (0.2, 0.5, 0.8)
SECONDS, QUICK_SECONDS = 30.0, 4.0
GOAL = 2.5  # p50 at half load over the mean time of a micro-batch


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen at one load.

    Attributes:
        share: of the capacity.
        rows_s: rows sent a second.
        p50_ms: median latency.
        p99_ms: 99 % were as fast.
        p999_ms: 99.9 % were as fast.
        batch_ms: mean time of a micro-batch.
        batch_rows: mean rows of one.
        p50_over_batch: median latency over that time.
        unanswered: rows without an answer.
    """

    share: float
    rows_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    batch_ms: float
    batch_rows: float
    p50_over_batch: float
    unanswered: int


def batches(role: Role) -> tuple[float, float, float]:
    """Read how many micro-batches a role has computed, the seconds and the rows of all."""
    with urllib.request.urlopen(f"http://127.0.0.1:{role.port}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    prefix = "mindstream_prediction_batch"
    return (
        float(values[f"{prefix}_rows_count"]),
        float(values[f"{prefix}_seconds_sum"]),
        float(values[f"{prefix}_rows_sum"]),
    )


def measure(
    data: Path, *, seconds: float, changes: dict[str, object], show: Show
) -> tuple[float, list[Latency]]:
    """Run the benchmark; see the module.

    Args:
        data: folder of the data sets.
        seconds: of each load.
        changes: settings of the role, by dotted name.
        show: moves the bar.

    Returns:
        Rows a second of the role, and what was seen at each load.
    """
    known, texts = banking(data, 4_096)
    settings: dict[str, object] = {"model.threads": 1, "serve.remembered": 0, **changes}
    seen: list[Latency] = []
    with (
        apart() as mine,
        tempfile.TemporaryDirectory(prefix="mindstream-benchmark-") as folder,
        deployment(Path(folder), settings) as deployed,
    ):
        learner = taught([row.text for row in known], [row.label for row in known])
        deployed.release(learner, learned=len(known))
        role = deployed.start("serve", cores=mine)
        wire = deployed.wire()
        role.wait_ready()
        role.wait_settled(wire, texts)
        rate_through(wire, texts[:256], "warm")
        capacity = statistics.median(
            rate_through(wire, texts[: int(64 * seconds)], f"capacity{n}") for n in range(3)
        )
        for number, share in enumerate(SHARES):
            before = batches(role)
            rows = drive(wire, texts, rate=share * capacity, seconds=seconds, name=f"load{number}")
            count, busy_s, computed = (
                now - then for now, then in zip(batches(role), before, strict=True)
            )
            times = [1e3 * row.latency_s for row in rows if row.answers]
            seen.append(
                Latency(
                    share=share,
                    rows_s=share * capacity,
                    p50_ms=quantile(times, 0.5),
                    p99_ms=quantile(times, 0.99),
                    p999_ms=quantile(times, 0.999),
                    batch_ms=1e3 * busy_s / count,
                    batch_rows=computed / count,
                    p50_over_batch=quantile(times, 0.5) / (1e3 * busy_s / count),
                    unanswered=len(rows) - len(times),
                )
            )
            show(number + 1, len(SHARES))
        wire.close()
    return capacity, seen


def show_table(capacity: float, seen: Sequence[Latency], console: Console) -> None:
    """Draw the table."""
    table = Table(title=f"Latency of answers; one core can do {capacity:,.0f} rows a second")
    for column in (
        "load",
        "rows/s",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "micro-batch ms",
        "its rows",
        "p50 / micro-batch",
        "unanswered",
    ):
        table.add_column(column, justify="right")
    for row in seen:
        table.add_row(
            f"{row.share:.0%}",
            f"{row.rows_s:,.0f}",
            f"{row.p50_ms:.1f}",
            f"{row.p99_ms:.1f}",
            f"{row.p999_ms:.1f}",
            f"{row.batch_ms:.1f}",
            f"{row.batch_rows:.1f}",
            f"{row.p50_over_batch:.2f}",
            str(row.unanswered),
        )
    console.print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; see the module."""
    parser = parser_of("latency", __doc__, quick="a few seconds a load")
    parser.add_argument("--seconds", type=float, help="of each load")
    args = parser.parse_args(argv)
    try:
        with bar("loads") as show:
            capacity, seen = measure(
                args.data,
                seconds=args.seconds or (QUICK_SECONDS if args.quick else SECONDS),
                changes=changes_of(args),
                show=show,
            )
    except DataError as error:
        parser.error(str(error))
    show_table(capacity, seen, Console(width=120))
    half = next(row for row in seen if row.share == 0.5)
    print_last(
        "latency",
        capacity_rows_s=capacity,
        loads=msgspec.to_builtins(seen),
        p50_over_batch=half.p50_over_batch,
        goal=GOAL,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
