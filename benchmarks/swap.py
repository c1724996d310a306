"""What a swap of releases costs those who ask: fifty of them under load, beside a calm time.

The serve role answers texts that come at random times at a fixed rate, on one core. Calm stretches
and stretches in which release after release is published take turns, so that a neighbour's burst of
load hits both. Each release is a new head over the same encoder. Every text must be answered once,
by one release. Prints a table; the last line is one JSON object.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.bars import Show, bar
from benchmarks.commands import changes_of, parser_of, print_last
from benchmarks.data import DataError
from benchmarks.deployment import Deployment, Wire, apart, deployment, taught
from benchmarks.load import Answered, drive, quantile
from benchmarks.serve import banking, rate_through
from learners.library import Learner

SWAPS, QUICK_SWAPS = 50, 4
STRETCHES = 5  # of each sort
EVERY_S = 0.6  # between two releases
RATE = 200.0
HIGHEST_SHARE = 0.5  # of the capacity: where 200 rows a second are more, that is the rate
GOAL = 1.5


class Swap(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen.

    Attributes:
        swaps: releases that came to answer.
        rate: rows sent a second.
        rows: sent, in all.
        failed: rows without an answer.
        duplicated: rows with more than one answer.
        by_two_releases: rows answered by more than one release.
        calm_p50_ms: median latency without swaps.
        calm_p99_ms: 99 % were as fast.
        swapping_p50_ms: median latency with them.
        swapping_p99_ms: 99 % were as fast.
        p99_over_calm: of the last and the second.
    """

    swaps: int
    rate: float
    rows: int
    failed: int
    duplicated: int
    by_two_releases: int
    calm_p50_ms: float
    calm_p99_ms: float
    swapping_p50_ms: float
    swapping_p99_ms: float
    p99_over_calm: float


class Publisher:
    """Publishes a new head at a time, each from a little more teaching.

    Args:
        deployed: where.
        learner: that goes on learning.
        texts: to learn.
        labels: of the texts.
    """

    def __init__(
        self, deployed: Deployment, learner: Learner, texts: Sequence[str], labels: Sequence[str]
    ) -> None:
        self._deployed = deployed
        self._learner = learner
        self._rows = list(zip(texts, labels, strict=True))
        self._learned = 0
        self._lock = threading.Lock()

    def publish(self, releases: int) -> None:
        """Publish so many, a time apart."""
        for _ in range(releases):
            started = time.monotonic()
            with self._lock:
                rows = [self._rows[(self._learned + n) % len(self._rows)] for n in range(8)]
                self._learned += len(rows)
                self._learner.learn([text for text, _ in rows], [label for _, label in rows])
                self._deployed.release(self._learner, learned=self._learned)
            time.sleep(max(0.0, EVERY_S - (time.monotonic() - started)))


def measure(data: Path, *, swaps: int, changes: dict[str, object], show: Show) -> Swap:
    """Run the benchmark; see the module.

    Args:
        data: folder of the data sets.
        swaps: how many.
        changes: settings of the role, by dotted name.
        show: moves the bar.
    """
    known, texts = banking(data, 4_096)
    settings: dict[str, object] = {"model.threads": 1, "serve.remembered": 0, **changes}
    calm: list[Answered] = []
    swapping: list[Answered] = []
    with (
        apart() as mine,
        tempfile.TemporaryDirectory(prefix="mindstream-benchmark-") as folder,
        deployment(Path(folder), settings) as deployed,
    ):
        learner = taught([row.text for row in known], [row.label for row in known])
        deployed.release(learner, learned=len(known))
        publisher = Publisher(
            deployed, learner, [row.text for row in known], [row.label for row in known]
        )
        role = deployed.start("serve", cores=mine)
        wire: Wire = deployed.wire()
        role.wait_ready()
        role.wait_settled(wire, texts)
        rate = min(RATE, HIGHEST_SHARE * rate_through(wire, texts[:1_024], "capacity"))
        stretches = min(STRETCHES, swaps)
        edges = [swaps * n // stretches for n in range(stretches + 1)]
        for number in range(stretches):
            some = edges[number + 1] - edges[number]
            seconds = EVERY_S * some
            calm += drive(wire, texts, rate=rate, seconds=seconds, name=f"calm{number}")
            swapping += drive(
                wire,
                texts,
                rate=rate,
                seconds=seconds,
                name=f"swap{number}",
                meanwhile=lambda some=some: publisher.publish(some),  # type: ignore[misc]
            )
            show(number + 1, stretches)
        wire.close()
    return _summary(calm, swapping, rate)


def _summary(calm: Sequence[Answered], swapping: Sequence[Answered], rate: float) -> Swap:
    rows = [*calm, *swapping]
    times = [
        [1e3 * row.latency_s for row in stretch if row.answers] for stretch in (calm, swapping)
    ]
    releases = {answer.release for row in swapping for _, answer in row.answers}
    before = {answer.release for row in calm[:1] for _, answer in row.answers}
    return Swap(
        swaps=len(releases - before),
        rate=rate,
        rows=len(rows),
        failed=sum(not any(a.status == "ok" for _, a in row.answers) for row in rows),
        duplicated=sum(len(row.answers) > 1 for row in rows),
        by_two_releases=sum(len({a.release for _, a in row.answers}) > 1 for row in rows),
        calm_p50_ms=quantile(times[0], 0.5),
        calm_p99_ms=quantile(times[0], 0.99),
        swapping_p50_ms=quantile(times[1], 0.5),
        swapping_p99_ms=quantile(times[1], 0.99),
        p99_over_calm=quantile(times[1], 0.99) / quantile(times[0], 0.99),
    )


def show_table(seen: Swap, console: Console) -> None:
    """Draw the table."""
    table = Table(title=f"{seen.swaps} swaps at {seen.rate:,.0f} rows a second, {seen.rows:,} rows")
    for column in ("", "p50 ms", "p99 ms", "failed", "twice", "by two releases"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("calm", f"{seen.calm_p50_ms:.1f}", f"{seen.calm_p99_ms:.1f}", "", "", "")
    table.add_row(
        "while swapping",
        f"{seen.swapping_p50_ms:.1f}",
        f"{seen.swapping_p99_ms:.1f}",
        str(seen.failed),
        str(seen.duplicated),
        str(seen.by_two_releases),
    )
    console.print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; see the module."""
    parser = parser_of("swap", __doc__, quick="a few swaps")
    parser.add_argument("--swaps", type=int)
    args = parser.parse_args(argv)
    try:
        with bar("stretches") as show:
            seen = measure(
                args.data,
                swaps=args.swaps or (QUICK_SWAPS if args.quick else SWAPS),
                changes=changes_of(args),
                show=show,
            )
    except DataError as error:
        parser.error(str(error))
    show_table(seen, Console(width=120))
    print_last("swap", **msgspec.to_builtins(seen), goal=GOAL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
