"""The benchmark of ingestion, on a few events."""

from __future__ import annotations

import json
import os

import pytest

from benchmarks import ingest, readers
from benchmarks.readers import Feed, Reading
from mindstream.embedded.kafka import EmbeddedKafka


def reading(rows: int, *, cpu_s: float) -> Reading:
    return Reading(rows=rows, seconds=2 * cpu_s, cpu_s=cpu_s)


def test_the_faster_stock_way_counts_and_each_turn_is_compared_with_itself() -> None:
    readings = {
        ingest.MINDSTREAM: [reading(100, cpu_s=1.0), reading(100, cpu_s=2.0)],
        ingest.RECORDS: [reading(5, cpu_s=1.0), reading(5, cpu_s=2.0)],
        ingest.TAKE: [reading(10, cpu_s=1.0), reading(4, cpu_s=2.0)],
        ingest.AIOKAFKA: [reading(200, cpu_s=1.0), reading(200, cpu_s=2.0)],
    }
    assert ingest.ratios(readings) == {"over_stock_faust": 15.0, "over_aiokafka": 0.5}
    assert ingest.rate(readings[ingest.MINDSTREAM], wall=True) == 37.5


async def test_ours_and_aiokafka_read_what_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "ROWS_OF_PARTITION", 600)
    with EmbeddedKafka({ingest.TOPIC: 2}) as cluster:
        assert 200 < ingest.preload(cluster.bootstrap, partitions=2) < 300
        for name, read in (
            ("ours", readers.run_mindstream),
            ("theirs", readers.run_aiokafka),
        ):
            feed = Feed(servers=cluster.bootstrap, topic=ingest.TOPIC, group=name, rows=500)
            found = await read(feed)
            assert found.rows >= 500
            assert found.seconds > 0.0


@pytest.mark.slow
def test_a_run_prints_a_table_and_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    try:
        assert ingest.main(["--quick"]) == 0
    finally:
        if before is not None:
            os.sched_setaffinity(0, before)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["over_stock_faust"] > 1.0
    assert 0.0 < last["over_aiokafka"] < 1.0
