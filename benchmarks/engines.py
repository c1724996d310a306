"""How fast each engine computes features here, and what it costs in accuracy.

Every engine that can be made on this machine, over texts of Banking77: texts a second of one
processor thread, in turns within one process, by processor time and each engine's best turn, so
that other work on the machine disturbs little; in batches of 64 texts sorted by length, and in the
micro-batches that each engine is given. Accuracy: on the test texts, by a class-balanced head whose
sums are of torch's features in fp32; and what it costs when the sums are of 8-bit features too, or
half of them. Pin it to one core (`taskset -c 0`). The last line is one JSON object;
`best_over_torch` is the fastest engine that passed the checks over the faster of torch in fp32 and
in bf16, each in its own micro-batches; `in_batches_of_64` the same with all in batches of 64.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.data import DEFAULT_FOLDER, DataError, Row, labels_of, read
from benchmarks.features import KeptFeatures
from benchmarks.results import CACHE, machine, revision
from learners.engines.base import (
    CALIBRATED,
    DATA_FREE,
    REFERENCE,
    Candidate,
    Engine,
    Floats,
    Pair,
    Shape,
    features,
)
from learners.engines.checks import Labelled, check, make_probes
from learners.engines.choosing import time_engines
from learners.engines.making import Maker
from learners.heads.additive import AdditiveHead
from learners.model import Encoder
from schemas.errors import EncoderError

ROWS = 64
CALIBRATING, PROBES = 300, 256
TIMED, QUICK_TIMED = 1_024, 192
TRAIN, QUICK_TRAIN = 10_003, 1_500
TEST, QUICK_TEST = 3_080, 400
PROJECTION = 2_048
MAX_LOSS = 0.3
GOALS = {"without AMX": 2.2, "with AMX": 1.08}
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Answers:
    """A head, and the texts it is asked.

    Attributes:
        head: class-balanced, its sums of torch's features in fp32.
        token_ids: of the test texts.
        truth: int64 [rows], the column of the right label.
    """

    head: AdditiveHead
    token_ids: list[list[int]]
    truth: NDArray[np.int64]

    def accuracy(self, found: Floats) -> float:
        """Give the share of right answers, %, by features of the test texts."""
        return 100 * float((self.head.scores(found).argmax(axis=1) == self.truth).mean())


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print tables, and last one JSON line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engines", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="fewer texts; takes a minute or two")
    parser.add_argument("--compile", action="store_true", help="torch.compile too; takes minutes")
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="folder of data sets")
    parser.add_argument("--features", type=Path, default=CACHE, help="folder of kept features")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        rows = read(given.data, "banking77/data")
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    train = _spread(rows, "train", QUICK_TRAIN if given.quick else TRAIN)
    test = _spread(rows, "test", QUICK_TEST if given.quick else TEST)
    encoder = Encoder.load(device="cpu", precision="fp32")
    made, failed = _make(encoder, train, compile_too=given.compile)
    answers = _answers(encoder, train, test, folder=given.features)
    timed = answers.token_ids[: QUICK_TIMED if given.quick else TIMED]
    alike = _timed({p: replace(e, shape=Shape(ROWS, 8_192)) for p, e in made.items()}, timed)
    own = _timed(made, timed)
    candidates = _judge(made, encoder, train, answers)
    accuracies = {
        pair: answers.accuracy(features(engine, answers.token_ids, width=encoder.width))
        for pair, engine in made.items()
    }
    mixed = _mixed(made, encoder, train, answers)
    console = Console(width=150)
    console.print(_table(made, alike, own, candidates, accuracies))
    for pair, reason in failed.items():
        console.print(f"{' '.join(pair)}: {reason}")
    for words, accuracy in mixed.items():
        console.print(f"{words}: {accuracy:.2f} % right")
    print(json.dumps(_report(alike, own, candidates, accuracies, mixed)))
    return 0


def _spread(rows: Sequence[Row], split: str, count: int) -> list[Row]:
    """Give so many rows of a split, in a fixed order that mixes labels."""
    mine = [row for row in rows if row.split == split]
    order = np.random.default_rng(0).permutation(len(mine))[:count]
    return [mine[place] for place in order]


def _make(
    encoder: Encoder, train: Sequence[Row], *, compile_too: bool
) -> tuple[dict[Pair, Engine], dict[Pair, str]]:
    """Make every engine that there is, and say why the others cannot be made."""
    maker = Maker(encoder.module, plain=lambda: encoder.module, device=CPU)
    made: dict[Pair, Engine] = {}
    failed: dict[Pair, str] = {}
    more: tuple[Pair, ...] = (("torch-compiled", "fp32"), ("torch-compiled", "bf16"))
    for pair in (*DATA_FREE, *(more if compile_too else ())):
        try:
            made[pair] = maker.make(pair)
        except EncoderError as error:
            failed[pair] = str(error)
    tokens = encoder.tokenize([row.text for row in train[:CALIBRATING]])
    for pair in CALIBRATED:
        with tempfile.TemporaryDirectory() as folder:
            try:
                made[pair] = maker.calibrate(pair, tokens, folder=Path(folder))
            except EncoderError as error:
                failed[pair] = str(error)
    return made, failed


def _answers(
    encoder: Encoder, train: Sequence[Row], test: Sequence[Row], *, folder: Path
) -> Answers:
    """Teach a head torch's features of the training texts."""
    kept = KeptFeatures(encoder, folder=folder)
    found = kept.encode([row.text for row in train])
    kept.keep()
    head = _taught(encoder, train, found)
    columns = {label: column for column, label in enumerate(head.labels)}
    return Answers(
        head,
        encoder.tokenize([row.text for row in test]),
        np.array([columns[row.label] for row in test], dtype=np.int64),
    )


def _taught(encoder: Encoder, train: Sequence[Row], found: Floats) -> AdditiveHead:
    head = AdditiveHead(
        features=encoder.width,
        solver="class-balanced",
        width=PROJECTION,
        seed=0,
        space_id=encoder.space_id,
    )
    columns = {label: head.row_of(label) for label in labels_of(train)}
    head.add(found, [(columns[row.label],) for row in train])
    head.solve()
    return head


def _timed(engines: Mapping[Pair, Engine], token_ids: list[list[int]]) -> dict[Pair, float]:
    some = next(iter(engines.values()))
    with torch.inference_mode():
        width = some.run(torch.ones(1, 2, 3, dtype=torch.int64)).shape[1]
    return time_engines(list(engines.values()), token_ids, width=width, device=CPU)


def _judge(
    made: Mapping[Pair, Engine], encoder: Encoder, train: Sequence[Row], answers: Answers
) -> dict[Pair, Candidate]:
    """Check engines on texts that did not calibrate, and on the test texts' labels."""
    probes = make_probes(
        made[REFERENCE],
        encoder.tokenize([row.text for row in train[CALIBRATING : CALIBRATING + PROBES]]),
        width=encoder.width,
        labelled=Labelled(answers.head.scores, answers.token_ids, answers.truth),
    )
    return {
        pair: check(engine, probes, max_accuracy_loss=MAX_LOSS) for pair, engine in made.items()
    }


def _mixed(
    made: Mapping[Pair, Engine], encoder: Encoder, train: Sequence[Row], answers: Answers
) -> dict[str, float]:
    """Say what it costs that sums come from other features than answers do."""
    return {
        f"sums {words}, {' '.join(pair)} serves": accuracy
        for pair in CALIBRATED
        if pair in made
        for words, accuracy in _mixed_with(made, pair, encoder, train, answers).items()
    }


def _mixed_with(
    made: Mapping[Pair, Engine],
    pair: Pair,
    encoder: Encoder,
    train: Sequence[Row],
    answers: Answers,
) -> dict[str, float]:
    tokens = encoder.tokenize([row.text for row in train])
    exact = features(made[REFERENCE], tokens[::2], width=encoder.width)
    coarse = features(made[pair], tokens, width=encoder.width)
    half = coarse.copy()
    half[::2] = exact
    serving = features(made[pair], answers.token_ids, width=encoder.width)
    return {
        words: replace(answers, head=_taught(encoder, train, found)).accuracy(serving)
        for words, found in {"of int8": coarse, "half fp32, half int8": half}.items()
    }


def _table(
    made: Mapping[Pair, Engine],
    alike: Mapping[Pair, float],
    own: Mapping[Pair, float],
    candidates: Mapping[Pair, Candidate],
    accuracies: Mapping[Pair, float],
) -> Table:
    table = Table(title=f"Engines: {machine()}, {_kind()}; {revision()}", title_justify="left")
    for heading in (
        "engine",
        f"texts/s, {ROWS} rows",
        "own rows",
        "texts/s, own",
        "cosine p1",
        "same answer %",
        "alone, 1 - cos",
        "accuracy %",
        "rejected",
    ):
        table.add_column(heading, justify="left" if heading in ("engine", "rejected") else "right")
    for pair, engine in made.items():
        c = candidates[pair]
        table.add_row(
            " ".join(pair),
            f"{alike[pair]:.0f}",
            str(engine.shape.rows),
            f"{own[pair]:.0f}",
            f"{c.cosine or 0:.4f}",
            f"{100 * (c.same or 0):.1f}",
            f"{c.alone or 0:.0e}",
            f"{accuracies[pair]:.2f}",
            c.rejected,
        )
    return table


def _kind() -> str:
    """Say whether the processor has AMX, by its flags."""
    info = Path("/proc/cpuinfo")
    flags = info.read_text().split() if info.is_file() else []
    return "with AMX" if "amx_tile" in flags else "without AMX"


def _report(
    alike: Mapping[Pair, float],
    own: Mapping[Pair, float],
    candidates: Mapping[Pair, Candidate],
    accuracies: Mapping[Pair, float],
    mixed: Mapping[str, float],
) -> dict[str, object]:
    """Put the figures into one object."""
    sound = [pair for pair, candidate in candidates.items() if not candidate.rejected]
    best = max(sound, key=lambda pair: own[pair])
    eager: list[Pair] = [REFERENCE, ("torch", "bf16")]
    return {
        "benchmark": "engines",
        "machine": machine(),
        "kind": _kind(),
        "revision": revision(),
        "best": " ".join(best),
        "best_over_torch": round(own[best] / max(own[pair] for pair in eager), 3),
        "goal": GOALS[_kind()],
        "in_batches_of_64": round(alike[best] / max(alike[pair] for pair in eager), 3),
        "accuracy_lost": round(accuracies[REFERENCE] - accuracies[best], 3),
        "texts_per_s": {" ".join(pair): round(speed, 1) for pair, speed in alike.items()},
        "texts_per_s_own_batches": {" ".join(pair): round(s, 1) for pair, s in own.items()},
        "accuracy": {" ".join(pair): round(share, 3) for pair, share in accuracies.items()},
        "mixed": {words: round(share, 3) for words, share in mixed.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
