"""Many labels: what the default learner costs with 2,000 of them, on 200,000 examples.

Texts are made up: a label has words of its own, each text some of them among words that any text
may have, all from the vocabulary of a small piece of the default encoder (`benchmarks.small`),
which is fast enough for so many. Labels come one after the other over the first half. The learner
is the default, no setting touched, so its head is as wide as for the whole encoder. Its main memory
is compared with what `memory_bound` says. Prints a table; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.bars import Show, bar
from benchmarks.measures import memory_mb
from benchmarks.results import machine, revision
from benchmarks.small import NAME, WORDS, small_encoder
from benchmarks.stopwatch import Stopwatch
from learners.library import Learner
from learners.model import Encoder
from learners.strategies.two_speed import TwoSpeed

PARTS = 10
QUICK_ROWS, QUICK_LABELS = 6_000, 200
OWN_WORDS = 6  # of a label
SAID_WORDS = 3  # of its own, in a text
OTHER_WORDS = 3  # in a text, of any
TEST_ROWS = 2  # of a label
FIXED_MB = (
    350.0  # whatever the number of labels: projection, held-out rows, waiting rows, the ledger
)
ROW_BYTES = 2_000  # of a row of replay memory in this process, beside what it counts itself
HEADINGS = (
    "examples",
    "labels",
    "ms / example",
    "encoder ms",
    "accuracy % before learning",
    "main memory MB",
)


@dataclass(frozen=True, slots=True)
class Crowd:
    """How much there is.

    Attributes:
        rows: examples in all.
        labels: of them, in all.
        batch_rows: of a call of `learn`; the strategy's own by default.
        seed: of words and order, and of the learner.
    """

    rows: int = 200_000
    labels: int = 2_000
    batch_rows: int = TwoSpeed.batch_rows
    seed: int = 0


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One of ten equal parts of the stream.

    Attributes:
        examples: learned or held out up to its end.
        labels: known at its end.
        head_ms: processor time of learning, an example, without the encoder.
        encoder_ms: processor time of the encoder, an example.
        accuracy: share of its examples that were answered rightly before they were learned.
        memory_mb: main memory at its end.
    """

    examples: int
    labels: int
    head_ms: float
    encoder_ms: float
    accuracy: float
    memory_mb: float


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the run gave. Sizes are MB of 10^6 bytes.

    Attributes:
        width: random features of the head.
        parts: of the stream, in order.
        final: share of rows right that were never learned, at the end.
        before_mb: main memory before the learner was made, its encoder in it.
        peak_mb: highest main memory of the process.
        sums_mb: of the learner: its sums alone.
        replay_mb: of the learner: what its replay memory counts of its rows.
        replay_rows: rows in that.
        state_mb: of a checkpoint of the learner, without replay memory.
        bound_mb: that was promised for all that the learner adds.
    """

    width: int
    parts: list[Part]
    final: float
    before_mb: float
    peak_mb: float
    sums_mb: float
    replay_mb: float
    replay_rows: int
    state_mb: float
    bound_mb: float

    @property
    def added_mb(self) -> float:
        """Main memory that the learner added, at its highest."""
        return self.peak_mb - self.before_mb

    @property
    def holds(self) -> bool:
        """Whether that is within the bound."""
        return self.added_mb <= self.bound_mb


class Texts:
    """Makes rows: any number, always the same of the same seed.

    Args:
        crowd: how many labels, and the seed.
        words: that texts are made of; at least as many as a label has.
    """

    def __init__(self, crowd: Crowd, words: Sequence[str]) -> None:
        self._crowd = crowd
        self._chance = random.Random(crowd.seed)
        self._words = words
        self._own = [self._chance.sample(words, OWN_WORDS) for _ in range(crowd.labels)]

    def text(self, label: int) -> str:
        """Make a text of a label."""
        chance = self._chance
        said = chance.sample(self._own[label], SAID_WORDS)
        said += chance.sample(self._words, OTHER_WORDS)
        chance.shuffle(said)
        return " ".join(said)

    def batch(self, rows: range) -> tuple[list[str], list[int]]:
        """Make rows of the stream, which come in order: new labels, and any that came before.

        Returns:
            Texts, and the numbers of their labels.
        """
        labels = []
        for row in rows:
            came = known_labels(row, self._crowd)
            fresh = came > known_labels(row - 1, self._crowd)
            labels.append(came - 1 if fresh else self._chance.randrange(came))
        return [self.text(label) for label in labels], labels


def known_labels(row: int, crowd: Crowd) -> int:
    """Say how many labels came up to a row, it included: the last one at half of the stream.

    Example:
        >>> [known_labels(row, Crowd(rows=8, labels=2)) for row in (-1, 0, 1, 2, 7)]
        [0, 1, 1, 2, 2]
    """
    if row < 0:
        return 0
    return min(crowd.labels, 1 + 2 * row * crowd.labels // crowd.rows)


def name_of(label: int) -> str:
    """Name a label as a code, which means nothing: its examples alone say what it is."""
    return f"L-{label:04d}"


def words_of(encoder: Encoder) -> list[str]:
    """List the whole words that a small encoder knows, in the order of its vocabulary."""
    known = sorted(encoder.vocabulary().items(), key=lambda item: item[1])
    return [word for word, row in known if row < WORDS and word.isalpha() and len(word) > 2]


def memory_bound(*, labels: int, width: int, replay_rows: int, replay_mb: float) -> float:
    """Give the main memory that a learner adds at most, MB; `docs/library.md` says it in words.

    Args:
        labels: that it knows.
        width: random features of its head.
        replay_rows: rows of a replay memory in the same process.
        replay_mb: what that memory counts of them.
    """
    d = width + 1
    head = 8 * (5 * d * d + 12 * d * labels)
    return FIXED_MB + (head + ROW_BYTES * replay_rows) / 1e6 + replay_mb


def run(crowd: Crowd, *, progress: Show) -> Outcome:
    """Let the default learner go through the stream, in this process.

    Args:
        crowd: how much there is.
        progress: called with examples done and in all.
    """
    encoder = small_encoder()
    texts = Texts(crowd, words_of(encoder))
    encoder.encode(["one text"] * crowd.batch_rows)  # what it needs itself is there before
    before_mb = memory_mb()
    learner = Learner("two-speed", encoder=encoder, seed=crowd.seed)
    parts = []
    for number in range(PARTS):
        start, end = (at * crowd.rows // PARTS for at in (number, number + 1))
        parts.append(_part(learner, texts, crowd, range(start, end), progress=progress))
    final = _final(learner, texts, crowd)
    strategy, size = learner.loop.strategy, learner.memory.size()
    assert isinstance(strategy, TwoSpeed)
    peak_mb = highest_memory_mb()  # before the checkpoint is counted, which nobody asked to write
    rows, width = (
        size.rows + size.held_out_rows,
        strategy.additive_head.sums.projection.dimensions - 1,
    )
    return Outcome(
        width=width,
        parts=parts,
        final=final,
        before_mb=before_mb,
        peak_mb=peak_mb,
        sums_mb=strategy.additive_head.sums.nbytes / 1e6,
        replay_mb=size.bytes / 1e6,
        replay_rows=rows,
        state_mb=sum(one.nbytes for one in learner.loop.state().arrays.values()) / 1e6,
        bound_mb=memory_bound(
            labels=len(learner.labels),
            width=width,
            replay_rows=rows,
            replay_mb=size.bytes / 1e6,
        ),
    )


def _part(learner: Learner, texts: Texts, crowd: Crowd, rows: range, *, progress: Show) -> Part:
    """Learn a tenth of the stream, its last batch cut to it."""
    watch, spent, scored, agreed = Stopwatch(), 0.0, 0, 0.0
    with watch.on({"encoder": [(Encoder, "encode"), (Encoder, "encode_tokens")]}):
        for start in rows[:: crowd.batch_rows]:
            batch, labels = texts.batch(range(start, min(start + crowd.batch_rows, rows.stop)))
            names = [name_of(label) for label in labels]
            began = time.process_time()
            report = learner.learn(batch, names)
            spent += time.process_time() - began
            scored, agreed = scored + report.scored, agreed + report.agreement
            progress(start + len(batch), crowd.rows)
    each = 1e3 / len(rows)
    return Part(
        examples=rows.stop,
        labels=len(learner.labels),
        head_ms=each * (spent - watch.total),
        encoder_ms=each * watch.total,
        accuracy=agreed / max(scored, 1),
        memory_mb=memory_mb(),
    )


def _final(learner: Learner, texts: Texts, crowd: Crowd) -> float:
    """Answer fresh rows of every label, after all that is left for idle time."""
    learner.rest()
    right = 0
    for label in range(crowd.labels):
        decisions = learner.predict([texts.text(label) for _ in range(TEST_ROWS)])
        right += sum(decision.label == name_of(label) for decision in decisions)
    return right / (TEST_ROWS * crowd.labels)


def highest_memory_mb() -> float:
    """Give the most that this process ever held in main memory, MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1.024e-3


def cells(part: Part) -> list[str]:
    """Write a row of the table."""
    return [
        f"{part.examples:,}",
        f"{part.labels:,}",
        f"{part.head_ms:.2f}",
        f"{part.encoder_ms:.2f}",
        f"{100 * part.accuracy:.1f}",
        f"{part.memory_mb:.0f}",
    ]


def told(outcome: Outcome) -> str:
    """Say the sizes, and whether the bound holds."""
    return (
        f"at the end {100 * outcome.final:.1f} % of fresh rows right; main memory "
        f"{outcome.before_mb:.0f} MB before the learner, {outcome.peak_mb:.0f} MB at its highest: "
        f"{outcome.added_mb:.0f} MB added, at most {outcome.bound_mb:.0f} MB promised, "
        f"{'kept' if outcome.holds else 'BROKEN'}; sums {outcome.sums_mb:.0f} MB, replay memory "
        f"{outcome.replay_mb:.0f} MB in {outcome.replay_rows:,} rows, a checkpoint "
        f"{outcome.state_mb:.0f} MB without it"
    )


def summary(crowd: Crowd, outcome: Outcome) -> str:
    """Write the result as one line of JSON."""
    return json.dumps(
        {
            "benchmark": "many_labels",
            "machine": machine(),
            "revision": revision(),
            "encoder": NAME,
            "precision": "fp32",
            "rows": crowd.rows,
            "labels": crowd.labels,
            "batch_rows": crowd.batch_rows,
            "added_mb": outcome.added_mb,
            "holds": outcome.holds,
            **msgspec.to_builtins(outcome),
        }
    )


def report(crowd: Crowd, outcome: Outcome, *, as_markdown: bool) -> None:
    """Print what ran, the table, the sizes, and the line of JSON."""
    print(f"{machine()}, one thread; {NAME}, fp32; revision {revision()}")
    print(
        f"{crowd.rows:,} made-up texts of {crowd.labels:,} labels in batches of "
        f"{crowd.batch_rows}; a head of {outcome.width:,} random features; processor time"
    )
    if as_markdown:
        lines = [list(HEADINGS), ["---"] * len(HEADINGS), *map(cells, outcome.parts)]
        print("\n".join("| " + " | ".join(line) + " |" for line in lines))
    else:
        drawn = Table(title="Each tenth of the stream", title_justify="left")
        for name in HEADINGS:
            drawn.add_column(name, justify="right")
        for part in outcome.parts:
            drawn.add_row(*cells(part))
        Console(width=120).print(drawn)
    print(told(outcome))
    print(summary(crowd, outcome))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    usual = Crowd()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_labels", description=__doc__)
    parser.add_argument("--rows", type=int, default=usual.rows, help="examples in all")
    parser.add_argument("--labels", type=int, default=usual.labels, help="of them, in all")
    parser.add_argument("--batch-rows", type=int, default=usual.batch_rows)
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_ROWS:,} rows, {QUICK_LABELS} labels"
    )
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    chosen = parser.parse_args(arguments)
    if chosen.labels < 1 or chosen.batch_rows < 1 or chosen.rows < 2 * max(chosen.labels, PARTS):
        parser.error(
            f"--labels and --batch-rows from 1, --rows from 2 a label and {2 * PARTS} were expected"
        )
    return chosen


def main(arguments: Sequence[str]) -> int:
    """Run what the command line asks for; answer 1 where the bound does not hold."""
    chosen = parse(arguments)
    torch.set_num_threads(1)
    crowd = Crowd(chosen.rows, chosen.labels, chosen.batch_rows, chosen.seed)
    if chosen.quick:
        crowd = replace(crowd, rows=QUICK_ROWS, labels=QUICK_LABELS)
    with bar("two-speed") as progress:
        outcome = run(crowd, progress=progress)
    report(crowd, outcome, as_markdown=chosen.markdown)
    return 0 if outcome.holds else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
