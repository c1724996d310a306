"""The benchmarks of serving, on a few rows: real roles in processes of their own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from benchmarks import latency, serve, staleness, swap
from tests.benchmarks.intents import write_intents

AT_ONCE = ("--set", "model.engine=torch", "--set", "model.precision=fp32")  # nothing is measured


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_intents(tmp_path_factory.mktemp("data") / "data", rows_of_label=50)


def last_line(
    main: Callable[[Sequence[str]], int],
    arguments: Sequence[str],
    data: Path,
    capsys: pytest.CaptureFixture[str],
) -> dict[str, float]:
    """Run a benchmark, and read the object on its last line."""
    before = os.sched_getaffinity(0)
    assert main([*arguments, *AT_ONCE, "--data", str(data)]) == 0
    assert os.sched_getaffinity(0) == before
    result: dict[str, float] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return result


def test_serve_has_four_sides_and_their_ratios(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = last_line(serve.main, ["--rows", "32", "--rounds", "1"], data, capsys)
    rates = {side["name"]: side["rows_s"] for side in last["sides"]}  # type: ignore[attr-defined]
    assert set(rates) == {"mindstream", "bare", "pipeline", "faust"}
    assert last["end_to_end_over_bare"] == pytest.approx(rates["mindstream"] / rates["bare"])
    assert last["over_pipeline"] == pytest.approx(rates["mindstream"] / rates["pipeline"])
    assert last["over_stock_faust"] == pytest.approx(rates["mindstream"] / rates["faust"])


def test_latency_is_taken_at_three_loads_and_everything_is_answered(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = last_line(latency.main, ["--seconds", "1"], data, capsys)
    loads = last["loads"]
    assert [load["share"] for load in loads] == [0.2, 0.5, 0.8]  # type: ignore[attr-defined]
    for load in loads:  # type: ignore[attr-defined]
        assert load["unanswered"] == 0
        assert 0.0 < load["p50_ms"] <= load["p99_ms"] <= load["p999_ms"]
        assert load["batch_rows"] >= 1.0


def test_swaps_lose_nothing_and_answer_nothing_twice(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = last_line(swap.main, ["--swaps", "3"], data, capsys)
    assert (last["failed"], last["duplicated"], last["by_two_releases"]) == (0, 0, 0)
    assert last["swaps"] >= 1  # of releases that come while one loads, only the last is loaded
    assert last["rows"] > 0


def test_staleness_follows_every_label_to_an_answer(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = last_line(staleness.main, ["--seconds", "3"], data, capsys)
    assert last["labels"] > 0
    assert last["unanswered"] == 0
    assert 0.0 < last["example_p50_s"] < last["release_p50_s"] < last["p50_s"] <= last["p95_s"]


@pytest.mark.parametrize("benchmark", [serve, latency, swap, staleness])
def test_absent_data_are_named(
    benchmark: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        benchmark.main(["--data", str(tmp_path)])  # type: ignore[attr-defined]
    assert "banking77/data.jsonl.gz is not there: give the folder" in capsys.readouterr().err
