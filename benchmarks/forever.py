"""Flat for ever: whether a strategy becomes slower or larger on a stream that does not end.

Every strategy runs through many micro-batches of real texts, each in a process of its own, with a
small piece of the real encoder and with every bound reached early. What the last micro-batches cost
is compared with what the first ones cost a second learner, which takes turns with it then, and main
memory near the end with main memory after the first ones.
`joint` is left out: it keeps every row there ever was, as an upper bound for benchmarks only, and
grows. Beside them runs Avalanche's own Replay, one experience a micro-batch, which does not stay
flat. Prints a table; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.bars import bar
from benchmarks.data import DEFAULT_FOLDER, DataError, read
from benchmarks.endurance import (
    LEDGER_ROWS,
    MAX_GROWTH,
    MAX_RATIO,
    PLUGIN,
    SETTLE_EVERY,
    Course,
    Endurance,
    endure,
)
from benchmarks.results import machine, revision
from benchmarks.scenarios import BANKING
from benchmarks.small import MAX_TOKENS, NAME
from benchmarks.stock import Stock, run_stock
from learners.strategies import STRATEGIES

ENDLESS = tuple(name for name in STRATEGIES if name != "joint")
QUICK = 600  # micro-batches

HEADINGS = (
    "strategy",
    "first ms",
    "again ms",
    "last ms",
    "last / again",
    "mean: again ms",
    "last ms",
    "last / again",
    "memory MB",
    "growth MB",
    "growth %",
    "flat",
)


def endure_apart(strategy: str, course: Course) -> Endurance:
    """Run a strategy in a process of its own, so that main memory is its own."""
    with _process() as process:
        return process.submit(_endure, strategy, course).result()


def stock_apart(course: Course) -> Stock:
    """Run Avalanche's own replay in a process of its own."""
    with _process() as process:
        return process.submit(_run_stock, course).result()


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"))


def _endure(strategy: str, course: Course) -> Endurance:
    with bar(strategy) as show:
        return endure(strategy, course, progress=show)


def _run_stock(course: Course) -> Stock:
    with bar("Avalanche's Replay") as show:
        return run_stock(course, progress=show)


def cells(result: Endurance) -> list[str]:
    """Write a row of the table."""
    return [
        result.strategy,
        f"{result.first_ms:.2f}",
        f"{result.again_ms:.2f}",
        f"{result.last_ms:.2f}",
        f"{result.last_over_again:.2f}",
        f"{result.again_mean_ms:.2f}",
        f"{result.last_mean_ms:.2f}",
        f"{result.last_over_again_mean:.2f}",
        f"{result.rss_first_mb:.0f}",
        f"{result.rss_last_mb - result.rss_first_mb:.1f}",
        f"{100 * result.rss_growth:.2f}",
        "yes" if result.is_flat else "no",
    ]


def about(course: Course) -> list[str]:
    """Say what ran: lines above the table."""
    return [
        f"{machine()}, one thread; fp32; revision {revision()}",
        f"{course.micro_batches:,} micro-batches of {course.rows} rows of Banking77, as many "
        f"replayed; {NAME}, texts of {MAX_TOKENS} tokens at most",
        f"memory and stores of {course.memory} rows, a ledger of {LEDGER_ROWS:,}; settles every "
        f"{SETTLE_EVERY} micro-batches; plugin: {PLUGIN['plugin']}",
        f"processor time of the last {course.window} micro-batches over the first {course.window} "
        f"after {course.warm_up}; flat: medians and means at most {MAX_RATIO}, main memory grown "
        f"by less than {100 * MAX_GROWTH:.0f} % from the first {course.window} to the last",
        "again: those first ones once more, by a second learner in turns with the last ones",
    ]


def told(stock: Stock) -> str:
    """Say in one line what Avalanche's own replay did."""
    parts = ", ".join(f"{part:.1f}" for part in stock.parts_ms)
    return (
        f"{stock.strategy}, {stock.micro_batches} micro-batches: {parts} ms by quarter, last over "
        f"first {stock.last_over_first:.2f}; each costs {stock.growth_ms:.3f} ms more than the one "
        "before it"
    )


def table(results: Sequence[Endurance]) -> Table:
    """Give the table for a terminal."""
    drawn = Table(title="Last micro-batches over first", title_justify="left")
    for name in HEADINGS:
        drawn.add_column(name, justify="left" if name == HEADINGS[0] else "right")
    for result in results:
        drawn.add_row(*cells(result))
    return drawn


def markdown(results: Sequence[Endurance]) -> str:
    """Give the table for a Markdown file."""
    lines = [list(HEADINGS), ["---"] * len(HEADINGS), *map(cells, results)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def summary(course: Course, results: Sequence[Endurance], stock: Stock) -> str:
    """Write results as one line of JSON."""
    return json.dumps(
        {
            "benchmark": "forever",
            "machine": machine(),
            "revision": revision(),
            "encoder": NAME,
            "precision": "fp32",
            "rows": course.rows,
            "memory": course.memory,
            "warm_up": course.warm_up,
            "window": course.window,
            "results": [{**msgspec.to_builtins(r), "flat": r.is_flat} for r in results],
            "avalanche_replay": msgspec.to_builtins(stock),
        }
    )


def report(
    course: Course, results: Sequence[Endurance], stock: Stock, *, as_markdown: bool
) -> None:
    """Print what ran, the table, what Avalanche's own replay did, and the line of JSON."""
    print("\n".join(about(course)))
    if as_markdown:
        print(markdown(results))
    else:
        Console(width=200).print(table(results))
    print(told(stock))
    print(summary(course, results, stock))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    course = Course(DEFAULT_FOLDER)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forever", description=__doc__)
    parser.add_argument("--strategy", nargs="+", choices=ENDLESS, default=ENDLESS, metavar="NAME")
    parser.add_argument("--micro-batches", type=int, default=course.micro_batches)
    parser.add_argument("--rows", type=int, default=course.rows, help="of a micro-batch")
    parser.add_argument("--memory", type=int, default=course.memory, help="rows of replay memory")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} micro-batches")
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="folder of data sets")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    chosen = parser.parse_args(arguments)
    if chosen.micro_batches < 8 or chosen.rows < 1 or chosen.memory < 1:
        parser.error("--micro-batches from 8, --rows and --memory from 1 were expected")
    return chosen


def main(arguments: Sequence[str]) -> int:
    """Run what the command line asks for; answer the exit status."""
    chosen = parse(arguments)
    course = Course(
        chosen.data, micro_batches=chosen.micro_batches, rows=chosen.rows, memory=chosen.memory
    )
    if chosen.quick:
        course = replace(course, micro_batches=QUICK)
    try:
        read(course.data, *BANKING)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    results = []
    for name in chosen.strategy:
        results.append(endure_apart(name, course))
        print(", ".join(cells(results[-1])), file=sys.stderr)
    stock = stock_apart(course)
    report(course, results, stock, as_markdown=chosen.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
