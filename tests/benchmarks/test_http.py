"""The benchmark of HTTP: what it counts, and a short run of all of it."""

from __future__ import annotations

import json
import os
from itertools import repeat
from pathlib import Path

import pytest
from aiohttp import web

from benchmarks import http
from benchmarks.http import OURS, RECORDED, BenchmarkError, Side, load
from benchmarks.turns import PLAIN, Turn, cpu_ratio, ratio, table
from tests.benchmarks.intents import write_intents


def turn(side: str, speed: float, *, cpu_ms: float = 1.0) -> Turn:
    return Turn(
        side=side,
        connections=4,
        requests_per_s=speed,
        p50_ms=1.0,
        p99_ms=2.0,
        cpu_ms=cpu_ms,
        requests=10,
    )


def test_the_ratio_is_to_the_faster_rival_of_the_same_round() -> None:
    turns = [
        turn(OURS, 40.0, cpu_ms=2.0),
        turn(PLAIN[0], 10.0, cpu_ms=8.0),
        turn(PLAIN[1], 20.0, cpu_ms=5.0),
        turn(RECORDED, 20.0, cpu_ms=4.0),
        turn(RECORDED, 60.0, cpu_ms=4.0),
        turn(OURS, 90.0, cpu_ms=2.0),
        turn(PLAIN[0], 30.0, cpu_ms=8.0),
        turn(PLAIN[1], 10.0, cpu_ms=5.0),
    ]
    assert ratio(turns, OURS, connections=4) == pytest.approx(2.5)
    assert cpu_ratio(turns, OURS, connections=4) == pytest.approx(2.5)
    lines = table(turns)
    assert [line[:4] for line in lines[1:]] == [
        ["4", OURS, "90", "2.50"],
        ["4", PLAIN[0], "30", "0.75"],
        ["4", PLAIN[1], "20", "0.67"],
        ["4", RECORDED, "60", "1.50"],
    ]
    last = json.loads(http.summary(turns, engine="torch, fp32"))
    assert last["over_fastapi"] == last["cpu_over_fastapi"] == pytest.approx(2.5)
    assert last["recorded_over_fastapi"] == pytest.approx(1.5)


async def test_load_keeps_every_connection_busy_and_tells_of_answers_that_are_none() -> None:
    at_once: set[int] = set()

    async def answer(request: web.Request) -> web.Response:
        assert (await request.json()) == {"text": "hello"}
        at_once.add(id(request.transport))
        return web.json_response({}, status=500 if request.path == "/bad" else 200)

    app = web.Application()
    app.add_routes([web.post("/good", answer), web.post("/bad", answer)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    good, bad = (
        Side(name, f"{address}/{name}", os.getpid(), lambda text: {"text": text})
        for name in ("good", "bad")
    )
    found = await load(good, repeat("hello"), connections=3, seconds=0.3)
    assert len(at_once) == 3
    assert found.requests > 0
    assert 0.0 < found.p50_ms <= found.p99_ms
    assert found.requests_per_s == pytest.approx(found.requests / 0.24, rel=0.5)
    with pytest.raises(ExceptionGroup) as raised:
        await load(bad, repeat("hello"), connections=1, seconds=0.3)
    assert raised.group_contains(BenchmarkError, match="bad: 500")
    await runner.cleanup()


@pytest.mark.slow
def test_a_run_prints_a_table_and_one_line_of_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_intents(tmp_path / "data", rows_of_label=15)
    command = ["--quick", "--connections", "4", "--seconds", "1", "--data", str(data)]
    assert http.main(command) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["over_fastapi"] > 0.0
    assert {one["side"] for one in last["turns"]} == {OURS, RECORDED, *PLAIN}


def test_absent_data_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert http.main(["--data", str(tmp_path)]) == 2
    assert "banking77/data.jsonl.gz is not there: give the folder" in capsys.readouterr().err
