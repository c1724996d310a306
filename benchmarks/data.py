"""Labelled texts from files beside the project.

Owns reading and cutting down; must not know scenarios or learners.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

OUT_OF_SCOPE = "oos"  # label and domain of texts that no label fits
DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"


class DataError(Exception):
    """Raised when a data set is not where it was looked for."""


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled text.

    Attributes:
        text: what is read.
        label: the truth.
        domain: where the text comes from, or what it is about.
        split: train, val or test.
    """

    text: str
    label: str
    domain: str
    split: str


def read(folder: Path, *files: str) -> list[Row]:
    """Read rows of gzipped JSON lines, in the order of the files.

    Args:
        folder: of all data sets.
        files: below it, without `.jsonl.gz`.

    Returns:
        Every row that has text.

    Raises:
        DataError: a file is not there.
    """
    rows: list[Row] = []
    for name in files:
        path = folder / f"{name}.jsonl.gz"
        if not path.is_file():
            raise DataError(
                f"{path} is not there: give the folder of the data sets with --data; the project "
                "does not carry them (python -m benchmarks.learn --help lists what is read)"
            )
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            values = [json.loads(line) for line in lines]
        rows += [
            Row(v["text"], v["label"], v.get("domain", name), v["split"])
            for v in values
            if v["text"].strip()
        ]
    return rows


def cut_down(
    rows: Sequence[Row], *, domains: int, labels: int, train_rows: int, test_rows: int
) -> list[Row]:
    """Keep the first so many domains, labels of each, and rows of each label, in order.

    Texts out of scope are no domain of these.

    Args:
        rows: of a data set.
        domains: kept.
        labels: kept of each domain.
        train_rows: kept of each label.
        test_rows: kept of each label.

    Returns:
        Rows in their order.

    Example:
        >>> rows = [Row(str(n), f"label{n % 3}", "d", "train") for n in range(9)]
        >>> kept = cut_down(rows, domains=1, labels=2, train_rows=1, test_rows=1)
        >>> [row.text for row in kept]
        ['0', '1']
    """
    kept_labels: dict[str, list[str]] = {}
    counts: dict[tuple[str, str, str], int] = {}
    kept: list[Row] = []
    for row in rows:
        full = len(kept_labels.keys() - {OUT_OF_SCOPE}) >= domains
        if row.domain not in kept_labels and full and row.domain != OUT_OF_SCOPE:
            continue
        mine = kept_labels.setdefault(row.domain, [])
        if row.label not in mine and len(mine) < labels:
            mine.append(row.label)
        key = (row.domain, row.label, row.split)
        limit = train_rows if row.split == "train" else test_rows
        if row.label in mine and counts.get(key, 0) < limit:
            counts[key] = counts.get(key, 0) + 1
            kept.append(row)
    return kept


def labels_of(rows: Iterable[Row]) -> list[str]:
    """List the labels of rows, sorted."""
    return sorted({row.label for row in rows})


def shuffled(rows: Iterable[Row], chance: random.Random) -> list[Row]:
    """Give rows in another order."""
    mixed = list(rows)
    chance.shuffle(mixed)
    return mixed
