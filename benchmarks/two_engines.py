"""What it costs that serve and learn compute features by different engines.

Features of Banking77 by two precisions of the default encoder: how far they are apart, how well a
head answers that learned by one, or by both in turns, and is asked by the other, and what is left
of corrections that add by one and take back by the other. Prints a table; the last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.data import DEFAULT_FOLDER, DataError, Row, read
from benchmarks.endurance import labels_first
from benchmarks.overhead import show
from benchmarks.results import machine, revision
from benchmarks.scenarios import BANKING
from learners.heads.additive import AdditiveHead
from learners.model import DEFAULT_BACKBONE, Encoder

ROWS, QUICK_ROWS = 640, 128
TESTS, QUICK_TESTS = 256, 64
CORRECTED = 0.1  # of the rows: their first label was wrong

Floats = NDArray[np.float32]


class Apart(msgspec.Struct, frozen=True, kw_only=True):
    """Two engines beside each other. Shares are 0 to 1.

    Attributes:
        rows: learned.
        tests: asked.
        least_cosine: of two features of one text.
        feature_distance: median length of the difference of two features, which have length 1.
        left_of_a_row: median length of what stays of a row's random features when it is added by
            one engine and taken back by the other, relative to theirs.
        accuracy: of heads, by what they learned and what they were asked by.
    """

    rows: int
    tests: int
    least_cosine: float
    feature_distance: float
    left_of_a_row: float
    accuracy: dict[str, float]


def measure(one: Encoder, other: Encoder, rows: Sequence[Row], tests: Sequence[Row]) -> Apart:
    """Compare two encoders of the same weights."""
    a, b = (encoder.encode([row.text for row in rows]) for encoder in (one, other))
    asked_a, asked_b = (encoder.encode([row.text for row in tests]) for encoder in (one, other))
    mixed = np.where((np.arange(len(rows)) % 2 == 0)[:, None], a, b)
    corrected = int(CORRECTED * len(rows))
    codes = AdditiveHead(features=one.width, solver="class-balanced").codes
    length, left = codes(a).double().norm(dim=1), codes(a).double() - codes(b).double()

    def accuracy(learned: Floats, asked: Floats, *, taken_back: Floats | None = None) -> float:
        head = AdditiveHead(features=one.width, solver="class-balanced")
        right = [(head.row_of(row.label),) for row in rows]
        if taken_back is None:
            head.add(learned, right)
        else:
            wrong = [((label + 1) % len(head.labels),) for (label,) in right[:corrected]]
            head.add(learned, [*wrong, *right[corrected:]])
            head.add(taken_back[:corrected], wrong, sign=-1)
            head.add(taken_back[:corrected], right[:corrected])
        head.solve()
        said = head.scores(asked).argmax(axis=1)
        return float(np.mean([head.labels[n] == t.label for n, t in zip(said, tests, strict=True)]))

    return Apart(
        rows=len(rows),
        tests=len(tests),
        least_cosine=float((a * b).sum(axis=1).min()),
        feature_distance=float(np.median(np.linalg.norm(a - b, axis=1))),
        left_of_a_row=float((left.norm(dim=1) / length).median()),
        accuracy={
            "learned by one, asked by it": accuracy(a, asked_a),
            "learned by one, asked by the other": accuracy(a, asked_b),
            "learned by the other, asked by one": accuracy(b, asked_a),
            "learned by both in turns, asked by one": accuracy(mixed, asked_a),
            "a tenth corrected, by one": accuracy(a, asked_a, taken_back=a),
            "a tenth corrected, taken back by the other": accuracy(a, asked_a, taken_back=b),
        },
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.two_engines", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS} examples")
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="folder of data sets")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run what the command line asks for; answer the exit status."""
    chosen = parse(arguments)
    torch.set_num_threads(1)
    try:
        rows = read(chosen.data, *BANKING)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    tests = [row for row in rows if row.split == "test"]
    tests = tests[:: max(1, len(tests) // (QUICK_TESTS if chosen.quick else TESTS))]
    one, other = (
        Encoder.load(max_tokens=64, device="cpu", precision=precision)
        for precision in ("fp32", "bf16")
    )
    train = labels_first(rows, seed=0)[: QUICK_ROWS if chosen.quick else ROWS]
    apart = measure(one, other, train, tests)
    print(f"{machine()}, one thread; {DEFAULT_BACKBONE}, fp32 and bf16; revision {revision()}")
    print(
        f"{apart.rows} rows of Banking77 learned, {apart.tests} asked; cosine at least "
        f"{apart.least_cosine:.5f}; features {apart.feature_distance:.2%} apart; of a row "
        f"{apart.left_of_a_row:.1%} stays when it is taken back by the other"
    )
    lines = [["head", "accuracy %"], *([k, f"{100 * v:.2f}"] for k, v in apart.accuracy.items())]
    show(lines, title="fp32 is one, bf16 the other", markdown=chosen.markdown)
    print(
        json.dumps(
            {
                "benchmark": "two_engines",
                "machine": machine(),
                "revision": revision(),
                "encoder": DEFAULT_BACKBONE,
                **msgspec.to_builtins(apart),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
