"""How a default learner becomes better along one pass, and whether it ever becomes worse.

Each data set goes through the default learner once, in stream order, with its encoder frozen; after
every twelfth of the rows all test rows are asked. `busy`: nothing ever pauses, so that only what is
due is solved. `idle`: the learner rests before it is asked, as the learn role does when nothing
comes. The dip is how far a point lies below the best one before it; of a thousand test rows, half a
point either way is chance. Prints a table; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence

import msgspec
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.bars import bar
from benchmarks.commands import print_last
from benchmarks.consolidate import MAX_TOKENS, Bench, measured, take_sources
from benchmarks.data import DataError
from benchmarks.features import KeptFeatures
from benchmarks.sets import DATA
from learners.library import Learner
from learners.localmemory import LocalMemory
from learners.model import Encoder

PARTS = 12
SETS = ("airline", "phrasebank", "nlupp")
PACES = ("busy", "idle")


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """One pass.

    Attributes:
        data: its name.
        pace: `busy` or `idle`.
        seed: of order and learner.
        rows: that were learned.
        tests: that were asked each time.
        accuracies: share of test rows answered exactly after each part, 0 to 1.
        dip: the largest fall below the best point before, 0 to 1.
    """

    data: str
    pace: str
    seed: int
    rows: int
    tests: int
    accuracies: list[float]
    dip: float


def dip_of(accuracies: Sequence[float]) -> float:
    """Give the largest fall below the best point before.

    Example:
        >>> dip_of([0.5, 0.75, 0.625, 0.875])
        0.125
    """
    best = itertools.accumulate(accuracies, max)
    return max((high - now for high, now in zip(best, accuracies, strict=True)), default=0.0)


def run(name: str, pace: str, *, seed: int, bench: Bench) -> Curve:
    """Go through one order of a data set.

    Args:
        name: of `DATA`.
        pace: `busy` or `idle`.
        seed: of order and learner.
        bench: reads the rows and keeps features.
    """
    data = DATA[name]
    train, _, test = bench.rows(data, seed)
    encoder = Encoder.load(data.backbone, max_tokens=MAX_TOKENS, device="cpu", precision="fp32")
    kept = KeptFeatures(encoder, folder=bench.cache / "features")
    with bar(f"{name}: features") as show:
        kept.warm([row.text for row in (*train, *test)], progress=show)
    kept.keep()
    learner = Learner(
        "two-speed", data.kind, encoder=kept.stand_in, memory=LocalMemory(), seed=seed
    )
    accuracies = []
    with bar(f"{name}, {pace}, seed {seed}") as show:
        for part in range(PARTS):
            start, end = (at * len(train) // PARTS for at in (part, part + 1))
            rows = train[start:end]
            learner.learn([row.text for row in rows], [row.label for row in rows])
            if pace == "idle":
                learner.rest()
            answers = learner.predict([row.text for row in test], top=1, rest=False)
            said = [answer.label for answer in answers]
            scores = measured(said, test, kind=learner.loop.kind.name, seconds=0.0)
            accuracies.append(scores.accuracy)
            show(end, len(train))
    return Curve(
        data=name,
        pace=pace,
        seed=seed,
        rows=len(train),
        tests=len(test),
        accuracies=accuracies,
        dip=dip_of(accuracies),
    )


def table(curves: Sequence[Curve]) -> Table:
    """Write the curves for people."""
    shown = Table(title="Accuracy on test rows after each twelfth of the rows, %")
    for column in ("data", "pace", "seed", "rows", "along the stream", "dip"):
        shown.add_column(column, justify="right" if column in ("seed", "rows", "dip") else "left")
    for one in curves:
        points = " ".join(f"{100 * accuracy:.1f}" for accuracy in one.accuracies)
        shown.add_row(
            one.data, one.pace, str(one.seed), f"{one.rows:,}", points, f"{100 * one.dip:.1f}"
        )
    return shown


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curve", description=__doc__)
    parser.add_argument("--data-set", nargs="+", choices=DATA, default=list(SETS))
    parser.add_argument("--pace", nargs="+", choices=PACES, default=list(PACES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--quick", action="store_true", help="little data")
    take_sources(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run what the command line asks for; answer the exit status."""
    chosen = parse(arguments)
    torch.set_num_threads(chosen.threads)
    bench = Bench(
        chosen.data, cache=chosen.cache, quick=chosen.quick, most=chosen.most, joint=False
    )
    passes = itertools.product(chosen.data_set, chosen.pace, chosen.seeds)
    try:
        curves = [run(name, pace, seed=seed, bench=bench) for name, pace, seed in passes]
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    Console(width=140).print(table(curves))
    worst = max(one.dip for one in curves)
    print_last("curve", precision="fp32", worst_dip=worst, results=msgspec.to_builtins(curves))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
