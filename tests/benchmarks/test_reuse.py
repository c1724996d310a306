"""The benchmark of kept features, on a few rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import reuse
from benchmarks.small import small_encoder
from tests.benchmarks.intents import write_intents


def test_a_run_prints_a_table_and_one_line_of_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_intents(tmp_path / "data", rows_of_label=50)
    assert reuse.main(["--quick", "--data", str(data)], load=small_encoder) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["rows"] == 160
    assert last["found"] == 1.0
    assert last["sums_differ_by"] == 0.0  # the same features, in the steps of the sums
    assert last["with_features_over_encoding"] == pytest.approx(
        last["encoding_s"] / last["reusing_s"]
    )
    assert last["server_bytes_a_text"] > last["bytes_a_text"] > 0


def test_absent_data_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reuse.main(["--data", str(tmp_path)]) == 2
    assert "banking77/data.jsonl.gz is not there: give the folder" in capsys.readouterr().err
