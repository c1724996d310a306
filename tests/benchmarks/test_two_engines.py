"""The benchmark of two engines, on a few rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import two_engines
from benchmarks.data import read
from benchmarks.scenarios import BANKING
from benchmarks.small import small_encoder
from tests.benchmarks.intents import write_intents


def test_nothing_stays_of_a_row_where_engines_are_alike(tmp_path: Path) -> None:
    rows = read(write_intents(tmp_path / "data", rows_of_label=12), *BANKING)
    one = small_encoder()
    alike = two_engines.measure(one, one, rows[:32], rows[32:])
    assert alike.left_of_a_row == alike.feature_distance == 0.0
    assert len(set(alike.accuracy.values())) == 1
    weights = {name: tensor.bfloat16().float() for name, tensor in one.weights().items()}
    apart = two_engines.measure(one, one.with_weights(weights), rows[:32], rows[32:])
    assert 0.0 < apart.left_of_a_row < 0.2
    assert 0.99 < apart.least_cosine < 1.0


def test_absent_data_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert two_engines.main(["--data", str(tmp_path)]) == 2
    assert "banking77/data.jsonl.gz is not there: give the folder" in capsys.readouterr().err
