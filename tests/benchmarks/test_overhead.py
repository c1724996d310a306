"""The benchmark of the machinery's own cost, on a few batches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import overhead
from benchmarks.data import read
from benchmarks.endurance import labels_first
from benchmarks.features import KeptFeatures
from benchmarks.scenarios import BANKING, SCENARIOS
from benchmarks.small import small_encoder
from learners.heads.additive import AdditiveHead
from tests.benchmarks.intents import write_intents


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_intents(tmp_path / "data", rows_of_label=15)


def nothing(done: int, total: int) -> None:
    assert done <= total


def test_the_bare_step_does_what_the_loop_does(data: Path) -> None:
    rows = labels_first(read(data, *BANKING), seed=0)
    cost = overhead.cost_of_loop(rows, pairs=2, progress=nothing, load=small_encoder)
    assert cost.loss_difference < 1e-5
    assert cost.loop_over_bare == pytest.approx(cost.loop_ms / cost.bare_ms)


def test_the_heads_parts_add_up_and_are_no_longer_timed_afterwards(
    data: Path, tmp_path: Path
) -> None:
    method = AdditiveHead.scores
    [stream] = SCENARIOS["banking77"].streams(data, seed=0, quick=True)
    features = KeptFeatures(small_encoder(), folder=tmp_path / "features")
    cost = overhead.cost_of_head(stream, features, seed=0, memory=20, progress=nothing)
    assert AdditiveHead.scores is method
    assert cost.rows == len(stream.train)
    assert cost.head_ms == pytest.approx(sum(cost.parts_ms.values()))
    assert 0.0 < cost.parts_ms["solve"] < cost.head_ms <= cost.learner_ms
    assert cost.calls["add"] > 0


@pytest.mark.slow
def test_a_run_prints_tables_and_one_line_of_json(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--quick", "--pairs", "1", "--cache", str(tmp_path / "cache"), "--data", str(data)]
    assert overhead.main(command) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["loop_over_bare"] > 0.0
    assert last["head_ms_per_row"] > 0.0


def test_absent_data_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert overhead.main(["--data", str(tmp_path)]) == 2
    assert "banking77/data.jsonl.gz is not there: give the folder" in capsys.readouterr().err
