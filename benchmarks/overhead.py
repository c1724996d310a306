"""What the machinery costs: the loop over a bare step, and the default head by example.

The loop: `naive` through `learners.loop.Learner` against a hand-written torch loop that does the
same to the same batch with the same encoder: tokenise, forward, cross entropy, backward, AdamW; in
turns within one process. The head: the default `two-speed` over Banking77, new classes arriving in
tasks, in batches of 32, its solves included, features kept so that the encoder costs nothing. All
times are processor time of one thread. Prints tables; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import msgspec
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.bars import Show, bar
from benchmarks.data import DEFAULT_FOLDER, DataError, Row, read
from benchmarks.endurance import labels_first
from benchmarks.features import KeptFeatures
from benchmarks.learn import load_encoder
from benchmarks.results import CACHE, machine, revision
from benchmarks.scenarios import BANKING, SCENARIOS, Stream
from benchmarks.stopwatch import Method, Stopwatch
from learners.batch import collate
from learners.heads.additive import AdditiveHead
from learners.heads.choice import Chooser
from learners.heads.class_drift import ClassDrift
from learners.heads.linear import FEATURE_SCALE
from learners.heads.sums import AdditiveSums
from learners.library import Learner
from learners.localmemory import LocalMemory
from learners.loop import Learner as Loop
from learners.model import DEFAULT_BACKBONE, Encoder
from learners.strategies import STRATEGIES, StrategyConfig
from learners.strategies.base import NoReplay
from learners.tasks import task_kind
from schemas import Example

BATCH_ROWS = 32
WARM_UP = 4  # micro-batches: every label has come then
PAIRS, QUICK_PAIRS = 40, 6
SEEDS, QUICK_SEEDS = (0, 1, 2), (0,)
MAX_RATIO = 1.1  # of the loop to the bare step
MAX_HEAD_MS = 0.6  # an example
LEARNING_RATE, HEAD_LEARNING_RATE, WEIGHT_DECAY = 5e-5, 2e-3, 0.01
THEN = datetime.fromtimestamp(0, UTC)  # no strategy reads times

PARTS: dict[str, Sequence[Method]] = {
    "score": [(AdditiveHead, "scores")],
    "add": [(AdditiveHead, "add"), (AdditiveSums, "fold")],
    "solve": [(AdditiveHead, "refresh"), (AdditiveHead, "settle"), (AdditiveHead, "solve")],
    "choice": [(Chooser, "choose")],
    "calibration": [(Chooser, "calibrate")],
    "probes": [(AdditiveHead, "probe")],
    "names": [(AdditiveHead, "name")],
    "drift": [(ClassDrift, "observe"), (AdditiveHead, "contradicts"), (AdditiveHead, "renew")],
}


class LoopCost(msgspec.Struct, frozen=True, kw_only=True):
    """The loop beside a bare step; processor time, milliseconds a micro-batch.

    Attributes:
        pairs: micro-batches of each.
        loop_ms: median of the loop.
        bare_ms: median of the bare step.
        loop_over_bare: of these medians.
        loss_difference: largest between the two of one batch: how well they do the same.
    """

    pairs: int
    loop_ms: float
    bare_ms: float
    loop_over_bare: float
    loss_difference: float


class HeadCost(msgspec.Struct, frozen=True, kw_only=True):
    """The default head on one order of Banking77; processor time, milliseconds an example.

    Attributes:
        seed: of the order.
        rows: learned or held out.
        parts_ms: by part of the head; parts within parts counted once.
        calls: of each part.
        head_ms: all parts.
        learner_ms: everything but the encoder: the head, the loop, tokenising, memory.
    """

    seed: int
    rows: int
    parts_ms: dict[str, float]
    calls: dict[str, int]
    head_ms: float
    learner_ms: float


class BareStep:
    """The hand-written loop: one function, nothing around it.

    Args:
        encoder: trained, whole.
        labels: in order of appearance; logits are over those that came so far.
    """

    def __init__(self, encoder: Encoder, labels: Sequence[str]) -> None:
        self.encoder = encoder
        self.encoder.module.requires_grad_(True)
        self.head = nn.Linear(encoder.width, len(labels))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.index = {label: row for row, label in enumerate(labels)}
        self.known = 0
        groups = [
            {"params": list(encoder.module.parameters()), "lr": LEARNING_RATE},
            {"params": list(self.head.parameters()), "lr": HEAD_LEARNING_RATE},
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)

    def learn(self, texts: Sequence[str], labels: Sequence[str]) -> float:
        """Train on a batch; answer its loss."""
        targets = torch.tensor([self.index[label] for label in labels])
        self.known = max(self.known, int(targets.max()) + 1)
        packed = collate(self.encoder.tokenize(texts))
        logits = self.head(FEATURE_SCALE * self.encoder.module(packed))[:, : self.known]
        loss = nn.functional.cross_entropy(logits, targets)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not say
        self.optimizer.step()
        return float(loss.detach())


def cost_of_loop(
    rows: Sequence[Row],
    *,
    pairs: int,
    progress: Show,
    load: Callable[[], Encoder] = load_encoder,
) -> LoopCost:
    """Let the loop and the bare step learn the same batches, in turns.

    Args:
        rows: at least one batch.
        pairs: micro-batches that are counted.
        progress: called with pairs done and in all.
        load: gives an encoder of one's own, the same every time.

    Returns:
        What each cost.
    """
    bare = BareStep(load(), list(dict.fromkeys(row.label for row in rows)))
    loop = _loop(load())
    spent: dict[str, list[float]] = {"loop": [], "bare": []}
    differences = []
    for number in range(WARM_UP + pairs):
        start = number * BATCH_ROWS
        batch = [rows[n % len(rows)] for n in range(start, start + BATCH_ROWS)]
        texts, labels = [row.text for row in batch], [row.label for row in batch]
        examples = [_example(f"row-{start + n}", row) for n, row in enumerate(batch)]
        losses = {}
        for name in ("loop", "bare") if number % 2 else ("bare", "loop"):
            started = time.process_time()
            if name == "loop":
                losses[name] = loop.learn(examples).loss
            else:
                losses[name] = bare.learn(texts, labels)
            spent[name].append(1e3 * (time.process_time() - started))
        differences.append(abs(losses["loop"] - losses["bare"]))
        progress(number + 1, WARM_UP + pairs)
    loop_ms, bare_ms = median(spent["loop"][WARM_UP:]), median(spent["bare"][WARM_UP:])
    return LoopCost(
        pairs=pairs,
        loop_ms=loop_ms,
        bare_ms=bare_ms,
        loop_over_bare=loop_ms / bare_ms,
        loss_difference=max(differences),
    )


def _loop(encoder: Encoder) -> Loop:
    kind = task_kind("classify")
    config = StrategyConfig(
        kind=kind,
        encoder=encoder,
        replay=NoReplay(),
        learning_rate=LEARNING_RATE,
        head_learning_rate=HEAD_LEARNING_RATE,
    )
    return Loop("intents", kind=kind, strategy=STRATEGIES["naive"](config), held_out_share=0.0)


def _example(id_: str, row: Row) -> Example:
    return Example(
        id=id_,
        user="anybody",
        task="intents",
        time=THEN,
        labelled_at=THEN,
        label=row.label,
        text=row.text,
    )


def cost_of_head(
    stream: Stream, features: KeptFeatures, *, seed: int, memory: int, progress: Show
) -> HeadCost:
    """Let the default learner go through a stream that never pauses, and time its head.

    Without a pause there is no idle time to solve in: every solve that falls due is in the cost,
    and one at the end, after which every row has its effect.

    Args:
        stream: its training rows are learned in order.
        features: of its texts.
        seed: of the learner.
        memory: rows of replay memory.
        progress: called with rows done and in all.

    Returns:
        What it cost.
    """
    features.warm(stream.texts, progress=progress)
    learner = Learner(
        "two-speed", encoder=features.stand_in, memory=LocalMemory(max_rows=memory), seed=seed
    )
    watch, rows = Stopwatch(), stream.train
    encoding_s, started = features.seconds, time.process_time()
    shown = 0.0
    with watch.on(PARTS):
        for start in range(0, len(rows), BATCH_ROWS):
            batch = rows[start : start + BATCH_ROWS]
            learner.learn([row.text for row in batch], [row.label for row in batch])
            began = time.process_time()
            progress(start + len(batch), len(rows))
            shown += time.process_time() - began
        learner.loop.strategy.settle()
    whole = time.process_time() - started - shown - (features.seconds - encoding_s)
    each = 1e3 / len(rows)
    return HeadCost(
        seed=seed,
        rows=len(rows),
        parts_ms={part: each * seconds for part, seconds in watch.seconds.items()},
        calls=watch.calls,
        head_ms=each * watch.total,
        learner_ms=each * whole,
    )


def loop_table(cost: LoopCost) -> list[list[str]]:
    """Write the loop's table, headings first."""
    return [
        ["micro-batches", "loop ms", "bare ms", "loop / bare", "loss difference"],
        [
            str(cost.pairs),
            f"{cost.loop_ms:.1f}",
            f"{cost.bare_ms:.1f}",
            f"{cost.loop_over_bare:.3f}",
            f"{cost.loss_difference:.1e}",
        ],
    ]


def head_table(costs: Sequence[HeadCost]) -> list[list[str]]:
    """Write the head's table, headings first: milliseconds an example, calls in brackets."""
    lines = [["seed", "rows", *PARTS, "head", "learner without encoder"]]
    for cost in costs:
        parts = [f"{cost.parts_ms[part]:.3f} ({cost.calls[part]:,})" for part in PARTS]
        whole = [f"{cost.head_ms:.3f}", f"{cost.learner_ms:.3f}"]
        lines.append([str(cost.seed), f"{cost.rows:,}", *parts, *whole])
    return lines


def show(lines: Sequence[Sequence[str]], *, title: str, markdown: bool) -> None:
    """Print a table, the first line its headings."""
    if markdown:
        separated = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
        print("\n".join("| " + " | ".join(line) + " |" for line in separated))
        return
    drawn = Table(title=title, title_justify="left")
    for name in lines[0]:
        drawn.add_column(name, justify="right")
    for line in lines[1:]:
        drawn.add_row(*line)
    Console(width=200).print(drawn)


def summary(loop: LoopCost, heads: Sequence[HeadCost]) -> str:
    """Write results as one line of JSON."""
    return json.dumps(
        {
            "benchmark": "overhead",
            "machine": machine(),
            "revision": revision(),
            "encoder": DEFAULT_BACKBONE,
            "precision": "fp32",
            "loop_over_bare": loop.loop_over_bare,
            "head_ms_per_row": median(cost.head_ms for cost in heads),
            "loop": msgspec.to_builtins(loop),
            "heads": msgspec.to_builtins(heads),
        }
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--pairs", type=int, help=f"micro-batches of each loop, {PAIRS} by default")
    parser.add_argument("--seeds", nargs="+", type=int, help="orders of Banking77 for the head")
    parser.add_argument("--memory", type=int, default=2_000, help="rows of replay memory")
    parser.add_argument("--quick", action="store_true", help="few batches, few classes")
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="folder of data sets")
    parser.add_argument("--cache", type=Path, default=CACHE, help="of features")
    parser.add_argument("--markdown", action="store_true", help="print tables as Markdown")
    chosen = parser.parse_args(arguments)
    if chosen.pairs is not None and chosen.pairs < 1:
        parser.error(f"--pairs {chosen.pairs}: 1 or more were expected")
    return chosen


def main(arguments: Sequence[str]) -> int:
    """Run what the command line asks for; answer the exit status."""
    chosen = parse(arguments)
    torch.set_num_threads(1)
    pairs = chosen.pairs or (QUICK_PAIRS if chosen.quick else PAIRS)
    seeds = chosen.seeds or (QUICK_SEEDS if chosen.quick else SEEDS)
    try:
        rows = labels_first(read(chosen.data, *BANKING), seed=0)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with bar("the loop and a bare step") as progress:
        loop = cost_of_loop(rows, pairs=pairs, progress=progress)
    features = KeptFeatures(load_encoder(), folder=chosen.cache / "features")
    heads = []
    for seed in seeds:
        [stream] = SCENARIOS["banking77"].streams(chosen.data, seed=seed, quick=chosen.quick)
        with bar(f"the head, seed {seed}") as progress:
            cost = cost_of_head(
                stream, features, seed=seed, memory=chosen.memory, progress=progress
            )
        heads.append(cost)
    print(f"{machine()}, one thread; {DEFAULT_BACKBONE}, fp32; revision {revision()}")
    print(f"loop / bare: at most {MAX_RATIO}; head: at most {MAX_HEAD_MS} ms an example")
    title = f"`naive` through the loop, {BATCH_ROWS} rows a micro-batch, beside a bare torch step"
    show(loop_table(loop), title=title, markdown=chosen.markdown)
    title = f"`two-speed` on Banking77, batches of {BATCH_ROWS}: ms an example (calls)"
    show(head_table(heads), title=title, markdown=chosen.markdown)
    print(summary(loop, heads))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
