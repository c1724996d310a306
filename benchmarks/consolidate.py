"""What consolidation gains, and how far it is from joint fine-tuning on the same rows.

Each data set goes through the default learner once, in stream order; then the learner consolidates
on its memory, and the gate decides. Beside it stands joint full fine-tuning of the same encoder by
the same trainer, on every training row at once, answered by the linear head that was trained along:
the upper bound that is usually reported. `--with` turns rules for the data on for the consolidated
side alone. Two data sets are there to show what such rules are for: `noise30`, Banking77 with 30 %
wrong labels among the training rows, and `banking77-few`, with 10 labelled rows a label: the other
training rows come without their labels. Nothing is chosen on test rows. Prints a table; the last
line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.metrics import f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from benchmarks.bars import bar
from benchmarks.data import DEFAULT_FOLDER, OUT_OF_SCOPE, DataError, Row, cut_down, read
from benchmarks.features import KeptFeatures
from benchmarks.results import CACHE, machine, revision
from benchmarks.sets import DATA, DataSet
from learners.consolidation import Consolidation, ConsolidationConfig
from learners.curation import DataRules
from learners.data.adversarial import ADVERSARIES
from learners.library import Learner
from learners.localmemory import LocalMemory
from learners.model import Encoder
from learners.slow import thinned
from learners.tasks import task_kind
from schemas.fields import Label

MAX_TOKENS = 128

# What `--with` may name: rules for the rows, and changes to the training.
RULES: dict[str, dict[str, Any]] = {
    "clean": {"clean": True},
    "near-duplicates": {"near_duplicates": True},
    "label-noise": {"label_noise": True},
    "pseudo-labels": {"pseudo_labels": True},
    "augment": {"augment": 2},
}
TRAINING: dict[str, dict[str, Any]] = {
    "adapt": {"adapt_epochs": 1},
    **{name: {"adversarial": config} for name, config in ADVERSARIES.items() if name != "off"},
}


class Scores(msgspec.Struct, frozen=True):
    """How well one model answers the test rows.

    Attributes:
        accuracy: share of rows answered exactly, 0 to 1.
        macro_f1: mean over labels, 0 to 1.
        seconds: of processor time to make the model.
    """

    accuracy: float
    macro_f1: float
    seconds: float


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a data set gave.

    Attributes:
        data: its name.
        seed: of order, learner and trainer.
        rows: that were learned.
        tests: that were answered.
        frozen: the learner after one pass.
        consolidated: the same after its consolidation.
        joint: joint full fine-tuning; None where it was not asked for.
        accepted: whether the gate let the consolidation pass; else `consolidated` is `frozen`.
        reason: the gate's.
        rules: that were turned on for `consolidated`.
        curated: what they did, in rows.
    """

    data: str
    seed: int
    rows: int
    tests: int
    frozen: Scores
    consolidated: Scores
    joint: Scores | None
    accepted: bool
    reason: str
    rules: tuple[str, ...] = ()
    curated: str = ""


class Bench:
    """Runs one data set after the other.

    Args:
        folder: of the data sets.
        cache: folder of kept features.
        quick: whether the data are cut down, and trained on once.
        joint: whether the upper bound is trained too.
        rules: names of `RULES` and `TRAINING` that the consolidated side goes by.
        most: rows of either split at most, evenly spread; 0: all.
    """

    def __init__(
        self,
        folder: Path,
        *,
        cache: Path,
        quick: bool,
        joint: bool,
        rules: Sequence[str] = (),
        most: int = 0,
    ) -> None:
        self.rules = tuple(rules)
        self.folder = folder
        self.cache = cache
        self.quick = quick
        self.most = most
        self.joint = joint

    def run(self, name: str, *, seed: int) -> Outcome:
        """Measure one order of one data set."""
        data = DATA[name]
        train, unlabelled, test = self.rows(data, seed)
        encoder = Encoder.load(data.backbone, max_tokens=MAX_TOKENS, device="cpu", precision="fp32")
        kept = KeptFeatures(encoder, folder=self.cache / "features")
        with bar(f"{name}: features") as show:
            kept.warm([row.text for row in (*train, *test)], progress=show)
        learner = Learner(
            "two-speed", data.kind, encoder=kept.stand_in, memory=LocalMemory(), seed=seed
        )
        config = ConsolidationConfig(epochs=1 if self.quick else 4, seed=seed)
        texts, labels = _columns(train)

        started = time.process_time()
        with bar(f"{name}: one pass") as show:
            learner.learn(texts, labels, progress=show)
        frozen = _scores(learner, test, seconds=time.process_time() - started)
        started = time.process_time()
        with bar(f"{name}: consolidation") as show:
            report = learner.consolidate(
                with_rules(config, self.rules),
                data=data_rules(self.rules),
                unlabelled=unlabelled,
                progress=show,
            )
        consolidated = _scores(learner, test, seconds=time.process_time() - started)
        return Outcome(
            data=name,
            seed=seed,
            rows=len(train),
            tests=len(test),
            frozen=frozen,
            consolidated=consolidated,
            joint=self._joint(name, encoder, train, test, config) if self.joint else None,
            accepted=report.accepted,
            reason=report.reason,
            rules=self.rules,
            curated=str(learner.curated or ""),
        )

    def rows(self, data: DataSet, seed: int) -> tuple[list[Row], list[str], list[Row]]:
        """Give training rows in stream order, texts without labels, and test rows."""
        rows = [row for row in read(self.folder, *data.files) if row.label != OUT_OF_SCOPE]
        if self.quick and data.kind == "classify":
            rows = cut_down(rows, domains=2, labels=6, train_rows=40, test_rows=20)
        elif self.quick:
            rows = [
                row
                for split, most in (("train", 400), ("test", 200))
                for row in [row for row in rows if row.split == split][:most]
            ]
        chance = random.Random(seed)
        train = [row for row in rows if row.split == "train"]
        if data.order != "file":
            chance.shuffle(train)
        if data.order == "domains":
            places = sorted({row.domain for row in train})
            chance.shuffle(places)
            train.sort(key=lambda row: places.index(row.domain))
        if data.order == "classes":
            names = sorted({str(row.label) for row in train})
            chance.shuffle(names)
            train.sort(key=lambda row: 7 * names.index(str(row.label)) // len(names))
        train, unlabelled = _few(_mislabelled(train, data.wrong, chance), data.few)
        tests = [row for row in rows if row.split == "test"]
        train = train[: data.rows or None]
        most = self.most or len(rows)
        return list(thinned(train, most)), unlabelled, list(thinned(tests, most))

    def _joint(
        self,
        name: str,
        encoder: Encoder,
        train: Sequence[Row],
        test: Sequence[Row],
        config: ConsolidationConfig,
    ) -> Scores:
        """Fine-tune on all rows, held-out ones too, and answer by the head trained along."""
        kind = task_kind(DATA[name].kind)
        started = time.process_time()
        texts, labels = _columns(train)
        work = Consolidation(
            encoder, kind, texts, [kind.check_label(label) for label in labels], config=config
        )
        with bar(f"{name}: joint fine-tuning") as show:
            while work.done < work.steps:
                work.step()
                show(work.done, work.steps)
        seconds = time.process_time() - started
        scores = work.scores([row.text for row in test])
        decided = kind.decide(
            kind.probabilities(scores, scale=1.0), labels=work.labels, threshold=0.5, top=1
        )
        return measured([one.label for one in decided], test, kind=kind.name, seconds=seconds)


def _mislabelled(rows: list[Row], share: float, chance: random.Random) -> list[Row]:
    """Give a share of rows the label of another row that says something else."""
    wrong = set(chance.sample(range(len(rows)), int(share * len(rows))))
    names = sorted({str(row.label) for row in rows}) if wrong else []
    return [
        replace(row, label=chance.choice([name for name in names if name != row.label]))
        if place in wrong
        else row
        for place, row in enumerate(rows)
    ]


def _few(rows: list[Row], most: int) -> tuple[list[Row], list[str]]:
    """Keep the first rows of each label, and of the others only the text; 0 keeps all."""
    kept: list[Row] = []
    counts: Counter[str] = Counter()
    texts: list[str] = []
    for row in rows:
        counts[str(row.label)] += 1
        if not most or counts[str(row.label)] <= most:
            kept.append(row)
        else:
            texts.append(row.text)
    return kept, texts


def data_rules(names: Sequence[str]) -> DataRules:
    """Join the rules for rows that names stand for.

    Example:
        >>> data_rules(["fgm", "augment"]) == DataRules(augment=2)
        True
    """
    return DataRules(**{field: v for name in names for field, v in RULES.get(name, {}).items()})


def with_rules(config: ConsolidationConfig, names: Sequence[str]) -> ConsolidationConfig:
    """Change a training by what names stand for."""
    changes = {field: v for name in names for field, v in TRAINING.get(name, {}).items()}
    return replace(config, **changes)


def _columns(rows: Sequence[Row]) -> tuple[list[str], list[Label]]:
    return [row.text for row in rows], [row.label for row in rows]


def _scores(learner: Learner, test: Sequence[Row], *, seconds: float) -> Scores:
    """Score a learner; the time it takes to bring itself up to date counts for it."""
    started = time.process_time()
    learner.rest()
    seconds += time.process_time() - started
    said = [one.label for one in learner.predict([row.text for row in test], top=1)]
    return measured(said, test, kind=learner.loop.kind.name, seconds=seconds)


def measured(said: Sequence[Label], test: Sequence[Row], *, kind: str, seconds: float) -> Scores:
    """Compare what was said with test rows, one a row."""
    canonical = task_kind(kind).check_label
    truths = [canonical(row.label) for row in test]
    exact = [answer == truth for answer, truth in zip(said, truths, strict=True)]
    if kind == "classify":
        macro = f1_score(truths, list(said), average="macro", zero_division=0.0)
    else:
        columns = MultiLabelBinarizer().fit([list(truth) for truth in truths])
        known = set(columns.classes_)
        sets = [[text for text in answer if text in known] for answer in said]
        macro = f1_score(
            columns.transform([list(truth) for truth in truths]),
            columns.transform(sets),
            average="macro",
            zero_division=0.0,
        )
    return Scores(float(np.mean(exact)), float(macro), seconds)


def table(outcomes: Sequence[Outcome]) -> Table:
    """Write the outcomes for people."""
    shown = Table(title="Accuracy on test rows, % (macro-F1, %)")
    for column in ("data", "seed", "rows", "one pass, frozen", "consolidated", "joint"):
        shown.add_column(column, justify="left" if column == "data" else "right")
    shown.add_column("consolidated - joint", justify="right")
    shown.add_column("processor time, s", justify="right")
    for one in outcomes:
        sides = (one.frozen, one.consolidated, one.joint)
        shown.add_row(
            one.data,
            str(one.seed),
            f"{one.rows:,}",
            *(f"{100 * s.accuracy:.2f} ({100 * s.macro_f1:.1f})" if s else "-" for s in sides),
            f"{100 * (one.consolidated.accuracy - one.joint.accuracy):+.2f}" if one.joint else "-",
            " / ".join(f"{side.seconds:.0f}" if side else "-" for side in sides),
        )
    return shown


def take_sources(parser: argparse.ArgumentParser) -> None:
    """Let a command line say how much of which data, where they are, and what computes."""
    parser.add_argument(
        "--most", type=int, default=0, help="rows of either split at most, evenly spread; 0: all"
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="folder of data sets")
    parser.add_argument("--cache", type=Path, default=CACHE, help="of features")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.consolidate", description=__doc__)
    parser.add_argument("--data-set", nargs="+", choices=DATA, default=["banking77", "clinc150"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--with",
        dest="rules",
        nargs="+",
        choices=[*RULES, *TRAINING],
        default=[],
        metavar="NAME",
        help=f"rules for the consolidated side: {', '.join([*RULES, *TRAINING])}",
    )
    parser.add_argument("--no-joint", action="store_true", help="leave the upper bound out")
    parser.add_argument("--quick", action="store_true", help="little data, one epoch")
    take_sources(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run what the command line asks for; answer the exit status."""
    chosen = parse(arguments)
    torch.set_num_threads(chosen.threads)
    bench = Bench(
        chosen.data,
        cache=chosen.cache,
        quick=chosen.quick,
        most=chosen.most,
        joint=not chosen.no_joint,
        rules=chosen.rules,
    )
    about = {"machine": machine(), "precision": "fp32", "revision": revision()}  # as imported
    outcomes: list[Outcome] = []
    try:
        for name in chosen.data_set:
            outcomes += [bench.run(name, seed=seed) for seed in chosen.seeds]
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    Console(width=140).print(table(outcomes))
    results = msgspec.to_builtins(outcomes)
    print(json.dumps({"benchmark": "consolidate", **about, "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
