"""The data sets that consolidation is measured on: which files, in which order, with which labels.

Must not know how anything is learned.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.data import DEFAULT_FOLDER
from learners.model import DEFAULT_BACKBONE

CHINESE = DEFAULT_FOLDER.parent / "models" / "bge-small-zh-v1.5"


@dataclass(frozen=True, slots=True)
class DataSet:
    """What is learned.

    Attributes:
        files: below the folder of data sets.
        kind: of the task.
        order: of the training rows: `classes` (new labels come in seven parts), `shuffled`,
            `domains` (one after the other) or `file` (which is that of time).
        backbone: name or folder.
        rows: training rows at most, the first in stream order; 0: all.
        wrong: share of training rows whose label is another one, drawn at random.
        few: labelled training rows of each label, the others come without; 0: all are labelled.
    """

    files: tuple[str, ...]
    kind: str
    order: str
    backbone: str = DEFAULT_BACKBONE
    rows: int = 0
    wrong: float = 0.0
    few: int = 0


DATA = {
    "banking77": DataSet(("banking77/data",), "classify", "classes"),
    "noise30": DataSet(("banking77/data",), "classify", "shuffled", wrong=0.3),
    "banking77-few": DataSet(("banking77/data",), "classify", "shuffled", few=10),
    "clinc150": DataSet(("clinc150/data",), "classify", "domains"),
    "airline": DataSet(("airline_tweets/data",), "classify", "file"),
    "phrasebank": DataSet(("financial_phrasebank/data",), "classify", "shuffled"),
    "zh_reviews": DataSet(("zh_reviews/data",), "classify", "shuffled", str(CHINESE)),
    "nlupp": DataSet(("nlupp/data",), "multilabel", "shuffled"),
    "shift5": DataSet(
        tuple(f"shift5/{name}" for name in ("yelp", "agnews", "dbpedia", "amazon", "yahoo2")),
        "classify",
        "domains",
    ),
}
