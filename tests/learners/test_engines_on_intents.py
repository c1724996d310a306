"""What it costs that a learner's features and a server's come from different engines."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from benchmarks.data import DEFAULT_FOLDER, cut_down, labels_of, read
from learners.engines import EngineOptions
from learners.heads.additive import AdditiveHead
from learners.heads.base import Floats
from learners.model import Encoder

TRAIN, TEST = 24, 12  # rows of each of 25 labels

pytestmark = [
    pytest.mark.data,
    pytest.mark.slow,
    pytest.mark.timeout(900),  # the process of low priority waits for whatever else is running
    pytest.mark.skipif(
        not (DEFAULT_FOLDER / "banking77").is_dir(), reason="Banking77 is not beside the project"
    ),
    pytest.mark.skipif(
        find_spec("openvino") is None or find_spec("nncf") is None,
        reason="openvino is not installed",
    ),
]


def test_features_of_different_engines_may_be_mixed(tmp_path: Path) -> None:
    # Given the texts of 25 intents, and torch's features of them
    rows = cut_down(
        read(DEFAULT_FOLDER, "banking77/data"),
        domains=1,
        labels=25,
        train_rows=TRAIN,
        test_rows=TEST,
    )
    train = [row for row in rows if row.split == "train"]
    test = [row for row in rows if row.split == "test"]
    columns = {label: place for place, label in enumerate(labels_of(rows))}
    truth = np.array([columns[row.label] for row in test])
    encoder = Encoder.load(device="cpu", precision="fp32")
    exact = [encoder.encode([row.text for row in part]) for part in (train, test)]

    def taught(found: Floats) -> AdditiveHead:
        head = AdditiveHead(
            features=encoder.width, solver="class-balanced", width=1_024, seed=0, space_id="any"
        )
        for label in columns:
            head.row_of(label)
        head.add(found, [(columns[row.label],) for row in train])
        head.solve()
        return head

    def right(head: AdditiveHead, found: Floats) -> float:
        return float((head.scores(found).argmax(axis=1) == truth).mean())

    # When the server's engine is calibrated on half of them, judged by a head and held-out labels
    exact_head = taught(exact[0])
    encoder.choose_engine(EngineOptions("openvino", "int8", folder=tmp_path))
    choice = encoder.calibrate(
        [row.text for row in train],
        head=exact_head,
        labelled=[(row.text, row.label) for row in test],
    )

    # Then it serves, and it costs next to nothing from which engine either side's features are
    assert (choice.engine, choice.precision) == ("openvino", "int8"), str(choice)
    assert choice.chosen is not None
    assert choice.chosen.accuracy_loss is not None
    assert choice.chosen.cosine is not None
    assert choice.chosen.cosine >= 0.995
    serving = encoder.encode([row.text for row in test])
    coarse = encoder.encode([row.text for row in train])
    half = exact[0].copy()
    half[1::2] = coarse[1::2]
    before = right(exact_head, exact[1])
    assert before > 0.8
    for sums in (exact[0], coarse, half):
        assert right(taught(sums), serving) > before - 0.02  # 6 of 300 rows
    assert before - right(exact_head, serving) == pytest.approx(
        choice.chosen.accuracy_loss / 100, abs=1e-9
    )
