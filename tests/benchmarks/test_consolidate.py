"""The benchmark of consolidation, end to end on a few rows."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from benchmarks import consolidate, curve


def few_rows(folder: Path) -> None:
    """Write 18 training rows and 6 test rows where Banking77 is looked for."""
    things = {"card": "my bank card", "rate": "the exchange rate", "atm": "cash from a machine"}
    rows = [
        {"text": f"{opening} {thing}", "label": label, "split": split}
        for label, thing in things.items()
        for split, openings in (
            ("train", ("where is", "what about", "I lost", "tell me about", "no", "again")),
            ("test", ("a question on", "please look at")),
        )
        for opening in openings
    ]
    file = folder / "banking77" / "data.jsonl.gz"
    file.parent.mkdir()
    with gzip.open(file, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


def test_a_run_prints_a_table_and_one_line_of_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few_rows(tmp_path)
    arguments = ["--quick", "--data-set", "banking77", "--data", str(tmp_path)]
    assert consolidate.main([*arguments, "--cache", str(tmp_path / "cache")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert any("consolidated" in line for line in printed)
    found = json.loads(printed[-1])
    [result] = found["results"]
    assert (result["rows"], result["tests"]) == (18, 6)
    for side in ("frozen", "consolidated", "joint"):
        assert 0.0 <= result[side]["accuracy"] <= 1.0
        assert result[side]["seconds"] > 0.0
    assert result["frozen"]["accuracy"] > 0.5


def test_missing_data_is_said_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert consolidate.main(["--data-set", "nlupp", "--data", str(tmp_path)]) == 2
    assert "give the folder of the data sets with --data" in capsys.readouterr().err


def test_a_curve_is_asked_after_every_twelfth_and_says_how_far_it_fell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few_rows(tmp_path)
    arguments = ["--quick", "--data-set", "banking77", "--data", str(tmp_path)]
    assert curve.main([*arguments, "--cache", str(tmp_path / "cache")]) == 0
    printed = capsys.readouterr().out.splitlines()
    found = json.loads(printed[-1])
    assert [one["pace"] for one in found["results"]] == ["busy", "idle"]
    for one in found["results"]:
        assert len(one["accuracies"]) == 12
        assert one["dip"] == curve.dip_of(one["accuracies"]) <= found["worst_dip"]
    assert curve.main(["--data-set", "nlupp", "--data", str(tmp_path / "nowhere")]) == 2
