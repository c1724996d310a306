"""The benchmark of endless streams, on a few micro-batches of every part of it."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from benchmarks import forever
from benchmarks.endurance import Course, bounded_learner, endless, endure
from benchmarks.stock import run_stock
from learners.strategies import STRATEGIES
from tests.benchmarks.intents import LABELS, write_intents


@pytest.fixture
def course(tmp_path: Path) -> Course:
    data = write_intents(tmp_path / "data", rows_of_label=10)
    return Course(data, micro_batches=24, rows=4, memory=8)


def nothing(done: int, total: int) -> None:
    assert done <= total


def test_every_strategy_but_the_upper_bound_is_measured() -> None:
    assert set(forever.ENDLESS) == set(STRATEGIES) - {"joint"}


def test_the_stream_brings_every_label_at_once_and_then_repeats_its_texts(course: Course) -> None:
    batches = list(islice(endless(course), 16))
    assert {row.label for row in batches[0]} == set(LABELS)
    assert batches[8:] == batches[:8]
    assert all(row.split == "train" for batch in batches for row in batch)


@pytest.mark.parametrize("strategy", ["two-speed", "er", "gdumb", "plugin"])
def test_a_run_measures_both_ends(strategy: str, course: Course) -> None:
    result = endure(strategy, course, progress=nothing)
    assert (result.strategy, result.micro_batches) == (strategy, 24)
    assert (course.warm_up, course.window) == (4, 6)
    assert len(result.parts_ms) == 10
    assert min(result.parts_ms) > 0.0
    assert result.last_over_again == pytest.approx(result.last_ms / result.again_ms)
    assert min(result.first_ms, result.again_ms) > 0.0
    assert result.rss_growth == pytest.approx(result.rss_last_mb / result.rss_first_mb - 1)


def test_what_is_bounded_is_full_early(course: Course) -> None:
    learner = bounded_learner("er", course)
    for rows in islice(endless(course), course.warm_up):
        learner.learn([row.text for row in rows], [row.label for row in rows])
    size = learner.memory.size()
    assert size.rows == course.memory
    assert learner.labels == sorted(LABELS)


def test_avalanches_own_replay_runs_beside_them(course: Course) -> None:
    stock = run_stock(course, progress=nothing)
    assert stock.micro_batches == 24
    assert len(stock.parts_ms) == 4
    assert stock.last_over_first == pytest.approx(stock.parts_ms[-1] / stock.parts_ms[0])


@pytest.mark.parametrize("as_markdown", [False, True])
def test_results_are_printed_as_a_table_and_one_line_of_json(
    as_markdown: bool, course: Course, capsys: pytest.CaptureFixture[str]
) -> None:
    result, stock = endure("naive", course, progress=nothing), run_stock(course, progress=nothing)
    forever.report(course, [result], stock, as_markdown=as_markdown)
    out = capsys.readouterr().out
    last = json.loads(out.splitlines()[-1])
    assert [(r["strategy"], r["micro_batches"]) for r in last["results"]] == [("naive", 24)]
    assert last["results"][0]["flat"] == result.is_flat
    assert last["avalanche_replay"]["last_over_first"] == stock.last_over_first
    assert ("| naive | " in out) == as_markdown


@pytest.mark.slow
def test_a_strategy_runs_in_a_process_of_its_own(course: Course) -> None:
    result = forever.endure_apart("naive", course)
    assert (result.strategy, result.micro_batches) == ("naive", 24)


def test_absent_data_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert forever.main(["--data", str(tmp_path)]) == 2
    assert "banking77/data.jsonl.gz is not there: give the folder" in capsys.readouterr().err
