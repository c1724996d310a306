"""The benchmark of replay memory, on a few rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import memory
from benchmarks.buffers import ListReservoir
from benchmarks.writers import make_rows, payload_bytes
from learners.rehearsal import ReplayRow
from tests.benchmarks.intents import write_intents


def test_payload_is_what_any_memory_must_hold() -> None:
    assert payload_bytes([ReplayRow("id", "user", "label", "é"), ReplayRow("", "", "", "")]) == 13


def test_rows_have_ids_of_their_own(tmp_path: Path) -> None:
    data = write_intents(tmp_path / "data", rows_of_label=2)
    rows = make_rows(data, ["banking77/data"], first=5, rows=20)
    assert len({row.id for row in rows}) == 20
    assert make_rows(data, ["banking77/data"], first=7, rows=3) == rows[2:5]


def test_a_list_reservoir_holds_what_it_may() -> None:
    buffer = ListReservoir(4)
    rows = [ReplayRow(f"id{n}", "user", "label", "text") for n in range(40)]
    buffer.offer(rows)
    drawn = buffer.sample(50, draws=[n / 50 for n in range(50)])
    assert len({row.id for row in drawn}) == 4
    assert {row.id for row in drawn} != {"id0", "id1", "id2", "id3"}


def test_a_run_prints_tables_and_one_line_of_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_intents(tmp_path / "data", rows_of_label=50)
    command = ["--quick", "--rows", "256", "--sets", "Banking77", "--data", str(data)]
    assert memory.main(command) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["bound_exact"]
    assert [one["writers"] for one in last["writers"]] == [1, 2]
    assert all(one["most_rows"] == 256 for one in last["writers"])
    assert last["bytes_over_payload"]["Banking77"] > 1.0
    assert min(last["offers_s"], last["samples_s"]) > 0.0


def test_absent_data_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert memory.main(["--data", str(tmp_path)]) == 2
    assert "banking77/data.jsonl.gz is not there: give the folder" in capsys.readouterr().err
