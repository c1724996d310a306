"""How much of the model's own speed reaches the topic: the serve role beside the bare model.

Four sides answer the same texts of Banking77, one after the other in every round, each in a process
of its own on the same core:

- `mindstream`: `mindstream serve`, the real role, from the `interactions` topic to `predictions`;
- `bare`: the same encoder and head in a loop over the texts, no Kafka at all: as many texts at once
  as the role takes from the stream, sorted by length;
- `pipeline`: the consumer loop that people write today, a transformers pipeline for each message;
- `faust`: an agent of stock Faust over the same model, batches by `take`.

Kafka, Redis and what produces and counts have the other cores, where there are any. The memory of
repeated texts is off: every text is computed. A side's rate is rows over the seconds from the first
row produced to the last answer read. Prints a table; the last line is one JSON object.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess  # the other sides are called
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.bars import Show, bar
from benchmarks.commands import changes_of, parser_of, print_last
from benchmarks.data import DataError, Row, read
from benchmarks.deployment import (
    Deployment,
    Role,
    Wire,
    apart,
    deployment,
    pin,
    questions,
    taught,
)
from benchmarks.scenarios import BANKING

ROWS, QUICK_ROWS = 9_216, 1_024
ROUNDS, QUICK_ROUNDS = 3, 1
SLOW_SHARE = 16  # the pipeline gets one of so many rows: it would take the time of all the others
GOAL = 0.95
TAUGHT = 2_000


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """What one side did.

    Attributes:
        name: of the side.
        rows_s: answers a second, median of the rounds.
        cpu_ms: processor time of its process for one answer, milliseconds, median of the rounds;
            None where it was not taken.
        engine: what the model computes with.
    """

    name: str
    rows_s: float
    cpu_ms: float | None
    engine: str


class Rival:
    """A process of `benchmarks.rivals` on one core.

    Args:
        argv: its arguments.
        environment: of its process; None: this one's.
        on: cores.
    """

    def __init__(self, argv: Sequence[str], *, environment: dict[str, str], on: set[int]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.rivals", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        pin(self._process.pid, on)
        self.engine = ""

    def hear(self) -> dict[str, Any]:
        """Wait for its next line.

        Raises:
            RuntimeError: it has ended.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                message: dict[str, Any] = json.loads(line)
                return message
        raise RuntimeError(f"a side ended with status {self._process.wait()}")

    def ask(self, line: str) -> dict[str, Any]:
        """Send a line, and wait for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self.hear()

    def wait_ready(self) -> None:
        """Wait until it has loaded its model."""
        self.engine = self.hear()["ready"]

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


def rate_through(wire: Wire, texts: Sequence[str], name: str) -> float:
    """Send texts through a topic and wait for all answers: rows a second."""
    rows = questions(texts, name=name)
    started = perf_counter()
    wire.send(rows)
    wire.count(len(rows))
    return len(rows) / (perf_counter() - started)


def banking(data: Path, rows: int) -> tuple[list[Row], list[str]]:
    """Give rows to teach a model and texts to ask, so many at most, in a random order."""
    training = [row for row in read(data, *BANKING) if row.split == "train"]
    random.Random(0).shuffle(training)
    return training[: min(TAUGHT, rows)], [row.text for row in training[:rows]]


class Contest:
    """The four sides, ready.

    Args:
        deployed: services and a release.
        texts: to answer.
        labels: how many there are.
        on: cores of every side.
    """

    def __init__(
        self, deployed: Deployment, texts: Sequence[str], labels: int, *, on: set[int]
    ) -> None:
        self.texts = texts
        self.role: Role = deployed.start("serve", cores=on)
        self.wire = deployed.wire()
        self.role.wait_ready()
        self.role.wait_settled(self.wire, texts)  # what it has calibrated, the others load
        path = deployed.folder / "texts.json"
        path.write_text(json.dumps(list(texts)), encoding="utf-8")
        environment = deployed.environment()
        self.bare = Rival(["bare", "--texts", str(path)], environment=environment, on=on)
        self.rivals: dict[str, tuple[Rival, Wire]] = {}
        for name in ("pipeline", "faust"):
            topics = (f"{name}-interactions", f"{name}-predictions")
            deployed.make_topics(topics)
            argv = [name, "--servers", deployed.servers, "--labels", str(labels)]
            argv += ["--interactions", topics[0], "--predictions", topics[1]]
            rival = Rival([*argv, "--folder", str(deployed.folder)], environment=environment, on=on)
            self.rivals[name] = (rival, Wire(deployed.servers, *topics))
        self.bare.wait_ready()
        rate_through(self.wire, texts[:64], "warm")
        for name, (rival, wire) in self.rivals.items():
            rival.wait_ready()
            rate_through(wire, texts[:16], f"warm-{name}")
        self.bare.ask("64")

    def round(self, number: int) -> dict[str, tuple[float, float | None]]:
        """Let every side answer once: rows a second, and milliseconds of processor time a row."""
        rows = len(self.texts)
        before_s = self.role.cpu_s()
        rate = rate_through(self.wire, self.texts, f"m{number}")
        result: dict[str, tuple[float, float | None]] = {
            "mindstream": (rate, 1e3 * (self.role.cpu_s() - before_s) / rows)
        }
        told = self.bare.ask(str(rows))
        result["bare"] = (rows / told["seconds"], 1e3 * told["cpu_s"] / rows)
        for name, (_, wire) in self.rivals.items():
            mine = self.texts[::SLOW_SHARE] if name == "pipeline" else self.texts
            result[name] = (rate_through(wire, mine, f"{name}{number}"), None)
        return result

    def engines(self) -> dict[str, str]:
        """Say what each side computes with."""
        return {
            "mindstream": self.role.engine(),
            "bare": self.bare.engine,
            **{name: rival.engine for name, (rival, _) in self.rivals.items()},
        }

    def stop(self) -> None:
        """End the other sides; the role ends with the deployment."""
        self.bare.stop()
        for rival, wire in self.rivals.values():
            rival.stop()
            wire.close()
        self.wire.close()


def measure(
    data: Path, *, rows: int, rounds: int, changes: dict[str, object], show: Show
) -> list[Side]:
    """Run the contest; see the module.

    Args:
        data: folder of the data sets.
        rows: texts of a round.
        rounds: how many.
        changes: settings of the role and of the bare model, by dotted name.
        show: moves the bar.
    """
    known, asked = banking(data, rows)
    settings: dict[str, object] = {"model.threads": 1, "serve.remembered": 0, **changes}
    with (
        apart() as mine,
        tempfile.TemporaryDirectory(prefix="mindstream-benchmark-") as folder,
        deployment(Path(folder), settings) as deployed,
    ):
        learner = taught([row.text for row in known], [row.label for row in known])
        deployed.release(learner, learned=len(known))
        contest = Contest(deployed, asked, len(learner.labels), on=mine)
        try:
            results = []
            for number in range(rounds):
                results.append(contest.round(number))
                show(number + 1, rounds)
            engines = contest.engines()
        finally:
            contest.stop()
    return [_side(name, [result[name] for result in results], engines[name]) for name in engines]


def _side(name: str, rounds: Sequence[tuple[float, float | None]], engine: str) -> Side:
    cpu = [cpu_ms for _, cpu_ms in rounds if cpu_ms is not None]
    return Side(
        name=name,
        rows_s=statistics.median(rate for rate, _ in rounds),
        cpu_ms=statistics.median(cpu) if cpu else None,
        engine=engine,
    )


def show_table(sides: Sequence[Side], console: Console) -> None:
    """Draw the table."""
    table = Table(title="Answers a second, on one core")
    for column in ("side", "rows/s", "processor ms/row", "mindstream over it", "engine"):
        table.add_column(column, justify="left" if column in ("side", "engine") else "right")
    rate = {side.name: side.rows_s for side in sides}
    for side in sides:
        table.add_row(
            side.name,
            f"{side.rows_s:,.0f}",
            "-" if side.cpu_ms is None else f"{side.cpu_ms:.2f}",
            f"{rate['mindstream'] / side.rows_s:.2f}",
            side.engine,
        )
    console.print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; see the module."""
    parser = parser_of("serve", __doc__, quick="few texts, one round", kafka=False)
    parser.add_argument("--rows", type=int, help="texts of a round")
    parser.add_argument("--rounds", type=int)
    args = parser.parse_args(argv)
    rows = args.rows or (QUICK_ROWS if args.quick else ROWS)
    rounds = args.rounds or (QUICK_ROUNDS if args.quick else ROUNDS)
    try:
        with bar("rounds") as show:
            sides = measure(
                args.data, rows=rows, rounds=rounds, changes=changes_of(args), show=show
            )
    except DataError as error:
        parser.error(str(error))
    show_table(sides, Console(width=120))
    rate = {side.name: side.rows_s for side in sides}
    print_last(
        "serve",
        precision=sides[0].engine,
        rows=rows,
        rounds=rounds,
        sides=msgspec.to_builtins(sides),
        end_to_end_over_bare=rate["mindstream"] / rate["bare"],
        over_pipeline=rate["mindstream"] / rate["pipeline"],
        over_stock_faust=rate["mindstream"] / rate["faust"],
        goal=GOAL,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
