"""Requests a second, and how long each takes: mindstream's HTTP beside plain FastAPI.

Both answer from the same release: the default encoder, a `two-speed` head learned from Banking77,
by torch in fp32 on one thread (with `--auto` mindstream computes as it chooses to). Each is one
process on the same core; the load comes from the other cores, over N connections, each with one
text a request and the next one when its answer is there. No text comes twice, and neither side
remembers answers. The sides take turns within one run. mindstream is asked with `publish=false`,
which is the same work, and as by default, when interaction and prediction go to Kafka before the
answer. FastAPI is asked by `def` and by `async def`; the ratio is to the faster of them. Prints a
table; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import subprocess  # the rival's process
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import msgspec
import numpy as np

from benchmarks.bars import Show, bar
from benchmarks.data import DEFAULT_FOLDER, DataError, read
from benchmarks.deployment import START_S, Deployment, apart, deployment, free_port, pin, taught
from benchmarks.overhead import show
from benchmarks.results import ROOT, machine, revision
from benchmarks.scenarios import BANKING
from benchmarks.turns import PLAIN, Turn, cpu_ratio, ratio, table
from learners.model import DEFAULT_BACKBONE

CONNECTIONS, QUICK_CONNECTIONS = (1, 16, 64), (16,)
SECONDS, QUICK_SECONDS = 8.0, 2.0
ROUNDS, QUICK_ROUNDS = 3, 1
LEARNED, QUICK_LEARNED = 2_000, 300
WARM_SHARE = 0.2  # of a turn, before anything is counted
COMPARED = 64  # texts whose answers both sides must agree on
MIN_SAME = 0.98
OURS, RECORDED = "mindstream", "mindstream, in Kafka"


class BenchmarkError(Exception):
    """Raised when the sides do not do the same, or one of them fails."""


class Server(msgspec.Struct, frozen=True):
    """A process that is measured."""

    port: int
    pid: int


class Side(msgspec.Struct, frozen=True):
    """Where a side is asked, and what it wants to be sent.

    Attributes:
        name: of the side.
        url: of its route.
        pid: of its process.
        body: of a text.
    """

    name: str
    url: str
    pid: int
    body: Callable[[str], dict[str, str]]


def sides(ours: Server, plain: Server) -> list[Side]:
    """List the sides of the two servers."""

    def interaction(text: str) -> dict[str, str]:
        return {"task": "intents", "text": text}

    def question(text: str) -> dict[str, str]:
        return {"text": text}

    predict, rival = f"http://127.0.0.1:{ours.port}/v1/predict", f"http://127.0.0.1:{plain.port}"
    return [
        Side(OURS, f"{predict}?publish=false", ours.pid, interaction),
        Side(RECORDED, predict, ours.pid, interaction),
        Side(PLAIN[0], f"{rival}/def", plain.pid, question),
        Side(PLAIN[1], f"{rival}/async", plain.pid, question),
    ]


async def load(side: Side, texts: Iterator[str], *, connections: int, seconds: float) -> Turn:
    """Keep so many connections busy for a while.

    Args:
        side: asked.
        texts: one a request, without end.
        connections: each waits for its answer before it asks again.
        seconds: of the turn; its first part warms up.

    Returns:
        What was counted after that. A `BenchmarkError` in a group tells of an answer that is none.
    """
    took_s: list[float] = []
    started = time.perf_counter()
    counted, end = started + WARM_SHARE * seconds, started + seconds
    all_requests, cpu_s = itertools.count(), cpu_time_s(side.pid)

    async def caller(session: aiohttp.ClientSession) -> None:
        while (asked := time.perf_counter()) < end:
            async with session.post(side.url, json=side.body(next(texts))) as answer:
                body = await answer.read()
            if answer.status != 200:
                raise BenchmarkError(f"{side.name}: {answer.status} {body[:300]!r}")
            next(all_requests)
            if asked >= counted:
                took_s.append(time.perf_counter() - asked)

    connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(caller(session))
    lasted = time.perf_counter() - counted
    spent_s = cpu_time_s(side.pid) - cpu_s
    p50_ms, p99_ms = (1e3 * float(np.quantile(took_s, q)) for q in (0.5, 0.99))
    return Turn(
        side=side.name,
        connections=connections,
        requests_per_s=len(took_s) / lasted,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        cpu_ms=1e3 * spent_s / max(1, next(all_requests)),
        requests=len(took_s),
    )


def cpu_time_s(pid: int) -> float:
    """Give the processor time of a process so far, seconds; 0 where the system does not tell."""
    file = Path(f"/proc/{pid}/stat")
    if not file.is_file():
        return 0.0
    user, system = file.read_text(encoding="ascii").rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def same_answers(asked: Sequence[Side], texts: Sequence[str]) -> float:
    """Give the share of texts to which all sides say the same label."""

    def label(side: Side, text: str) -> str:
        body = json.dumps(side.body(text)).encode()
        request = urllib.request.Request(
            side.url, body, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(json.load(answer)["label"])

    return sum(len({label(side, text) for side in asked}) == 1 for text in texts) / len(texts)


@contextmanager
def plain_api(store: str, *, on: set[int], folder: Path) -> Iterator[Server]:
    """Start the FastAPI server on some cores; it ends with the block.

    Yields:
        The server.

    Raises:
        BenchmarkError: it does not answer.
    """
    port, log = free_port(), folder / "plain.log"
    command = [sys.executable, "-m", "benchmarks.plain_api", "--store", store, "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    pin(process.pid, on)
    try:
        end = time.monotonic() + START_S
        while not _answers(f"http://127.0.0.1:{port}/ready"):
            if process.poll() is not None or time.monotonic() > end:
                raise BenchmarkError(f"FastAPI: {log.read_text(encoding='utf-8')[-2_000:]}")
            time.sleep(0.1)
        yield Server(port, process.pid)
    finally:
        process.terminate()
        process.wait(timeout=20)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def measure(
    deployed: Deployment,
    texts: Sequence[str],
    *,
    measured: set[int],
    connections: Sequence[int],
    seconds: float,
    rounds: int,
    progress: Show,
) -> tuple[list[Turn], str]:
    """Let all sides take turns.

    Args:
        deployed: with a release in its store, without roles.
        texts: asked, all different.
        measured: cores of the servers.
        connections: each a row of the table.
        seconds: of a turn.
        rounds: of all turns; every other one in the opposite order.
        progress: called with turns done and in all.

    Returns:
        Every turn, and what mindstream computed with.

    Raises:
        BenchmarkError: the sides do not answer alike.
    """
    server = deployed.start("serve", cores=measured)
    turns: list[Turn] = []
    with plain_api(deployed.settings.store_url, on=measured, folder=deployed.folder) as plain:
        server.wait_ready()
        wire = deployed.wire()
        server.wait_settled(wire, texts)
        wire.close()
        asked = sides(Server(server.port, server.process.pid), plain)
        same = same_answers(asked, texts[:COMPARED])
        if same < MIN_SAME:
            raise BenchmarkError(f"the sides agree on {same:.0%} of {COMPARED} texts only")
        endless = itertools.cycle(texts)
        order = [(number, side) for number in connections for side in asked]
        for turn in range(rounds):
            for number, side in order if turn % 2 == 0 else reversed(order):
                turns.append(asyncio.run(load(side, endless, connections=number, seconds=seconds)))
                progress(len(turns), rounds * len(order))
        engine = server.engine()
    return turns, engine


def summary(turns: Sequence[Turn], *, engine: str) -> str:
    """Write results as one line of JSON."""
    most = max(turn.connections for turn in turns)
    return json.dumps(
        {
            "benchmark": "http",
            "machine": machine(),
            "revision": revision(),
            "encoder": DEFAULT_BACKBONE,
            "engine": engine,
            "rival_engine": "torch, fp32",
            "connections": most,
            "over_fastapi": ratio(turns, OURS, connections=most),
            "cpu_over_fastapi": cpu_ratio(turns, OURS, connections=most),
            "recorded_over_fastapi": ratio(turns, RECORDED, connections=most),
            "turns": msgspec.to_builtins(turns),
        }
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http", description=__doc__)
    parser.add_argument("--connections", nargs="+", type=int, help="open at a time, each a row")
    parser.add_argument("--seconds", type=float, help="of a turn")
    parser.add_argument("--rounds", type=int, help="of all turns")
    parser.add_argument(
        "--auto",
        action="store_true",
        help="let mindstream choose engine and precision, as by default; else torch, fp32",
    )
    parser.add_argument("--quick", action="store_true", help="one round, 16 connections, short")
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="folder of data sets")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run what the command line asks for; answer the exit status."""
    chosen = parse(arguments)
    try:
        rows = read(chosen.data, *BANKING)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    learned = [row for row in rows if row.split == "train"]
    step = max(1, len(learned) // (QUICK_LEARNED if chosen.quick else LEARNED))
    learned = learned[::step]  # of every label
    texts = list(dict.fromkeys(row.text for row in rows))
    changes: dict[str, object] = {"model.threads": 1, "serve.remembered": 0}
    if not chosen.auto:
        changes |= {"model.engine": "torch", "model.precision": "fp32"}
    with (
        tempfile.TemporaryDirectory() as folder,
        apart() as measured,
        deployment(Path(folder), changes) as deployed,
        bar("HTTP, in turns") as progress,
    ):
        learner = taught([row.text for row in learned], [row.label for row in learned])
        deployed.release(learner, learned=len(learned))
        turns, engine = measure(
            deployed,
            texts,
            measured=measured,
            connections=chosen.connections or (QUICK_CONNECTIONS if chosen.quick else CONNECTIONS),
            seconds=chosen.seconds or (QUICK_SECONDS if chosen.quick else SECONDS),
            rounds=chosen.rounds or (QUICK_ROUNDS if chosen.quick else ROUNDS),
            progress=progress,
        )
    print(f"{machine()}, one torch thread, one core a server; {DEFAULT_BACKBONE}")
    print(f"mindstream: {engine}; FastAPI: torch, fp32")
    title = "one text a request, each connection waits for its answer; medians of rounds"
    show(table(turns), title=title, markdown=chosen.markdown)
    print(summary(turns, engine=engine))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
