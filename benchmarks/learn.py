"""How well strategies learn from a stream: accuracy, forgetting, speed, calibration.

Real data, the deployed objects, the real encoder in fp32. Features of frozen encoders are kept in
.cache/benchmarks, so that a second seed or run costs no encoder time; results are kept beside them,
by everything that decides them. Prints a table; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import torch
from rich.console import Console

from benchmarks.bars import bar
from benchmarks.data import DEFAULT_FOLDER, DataError
from benchmarks.endurance import PLUGIN
from benchmarks.features import KeptFeatures
from benchmarks.report import group_table, markdown, table, write
from benchmarks.results import CACHE, Kept, Result, Setup, machine, revision
from benchmarks.scenarios import SCENARIOS, Stream
from benchmarks.search import tuned_options
from benchmarks.trial import BATCH_ROWS, Trial
from learners.library import Learner
from learners.localmemory import LocalMemory
from learners.model import DEFAULT_BACKBONE, Encoder
from learners.pooling import POOLING, Pooling
from learners.strategies import STRATEGIES
from learners.tuning import TUNINGS
from schemas.errors import EncoderError

FROZEN = ("two-speed",)
QUICK_STRATEGIES = ("two-speed", "er-ace", "naive")
MAX_TOKENS = 128


class Bench:
    """Runs trials one after another.

    Args:
        cache: folder of kept features and results.
        memory: rows of replay memory.
        threads: of torch.
        quick: whether streams were cut down.
        tuning: how much of the encoder trains, where a strategy trains one.
        batch_rows: rows of a micro-batch.
        pooling: of the encoder, as `learners.pooling.Pooling` reads it.
    """

    def __init__(
        self,
        cache: Path,
        *,
        memory: int,
        threads: int,
        quick: bool,
        tuning: str = "full",
        batch_rows: int = BATCH_ROWS,
        pooling: str = POOLING,
    ) -> None:
        torch.set_num_threads(threads)
        self.cache = cache
        self.results = Kept(cache / "results")
        self.memory = memory
        self.threads = threads
        self.quick = quick
        self.tuning = tuning
        self.batch_rows = batch_rows
        self.pooling = pooling
        self.revision = revision()

    @cached_property
    def features(self) -> KeptFeatures:
        """The encoder that nobody trains."""
        encoder = load_encoder(self.pooling)
        return KeptFeatures(encoder, folder=self.cache / "features", module=True)

    def run(
        self,
        stream: Stream,
        strategy: str,
        *,
        seed: int,
        options: Mapping[str, float] | None = None,
    ) -> Result:
        """Run a trial, or give its result from before."""
        setup = Setup(
            scenario=stream.name,
            strategy=strategy,
            seed=seed,
            memory=self.memory,
            threads=self.threads,
            quick=self.quick,
            data=digest(stream),
            revision=self.revision,
            encoder=DEFAULT_BACKBONE + f" {self.pooling}" * (self.pooling != POOLING),
            precision="fp32",
            tuning="frozen" if strategy in FROZEN else self.tuning,
            options=dict(options or {}),
            batch_rows=self.batch_rows,
        )
        result = self.results.get(setup)
        if result is None:
            result = self._run(stream, setup)
            self.results.put(result)
        return result

    def _run(self, stream: Stream, setup: Setup) -> Result:
        kept = self.features if setup.tuning == "frozen" else None
        if kept is not None:
            kept.computed, kept.computing_s = 0, 0.0
            with bar(f"features of {stream.name}") as show:
                kept.warm(stream.texts, progress=show)
        options: dict[str, Any] = {"tuning": setup.tuning, **setup.options}
        if setup.strategy == "plugin":
            options |= PLUGIN
        learner = Learner(
            setup.strategy,
            encoder=load_encoder(self.pooling) if kept is None else kept.stand_in,
            memory=LocalMemory(max_rows=self.memory),
            seed=setup.seed,
            **options,
        )
        with bar(f"{stream.name}, {setup.strategy}, seed {setup.seed}") as show:
            result = Trial(stream, learner, kept).run(setup, progress=show)
        if kept is not None:
            kept.keep()
        return result


def load_encoder(pooling: str = POOLING) -> Encoder:
    """Load the default backbone in exact arithmetic, on the CPU."""
    return Encoder.load(pooling=pooling, max_tokens=MAX_TOKENS, device="cpu", precision="fp32")


def digest(stream: Stream) -> str:
    """Hash every row of a stream, its delays, and what is tested when."""
    return hashlib.sha256(msgspec.json.encode(stream)).hexdigest()[:16]


def option(text: str) -> tuple[str, float]:
    """Read NAME=NUMBER."""
    name, _, value = text.partition("=")
    return name, int(value) if value.isdigit() else float(value)


def summary(results: Sequence[Result], *, report: Path) -> str:
    """Write results as one line of JSON."""
    return json.dumps(
        {
            "benchmark": "learn",
            "machine": machine(),
            "report": os.path.relpath(report),
            "results": msgspec.to_builtins(results),
        }
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    listed = "; ".join(f"{name}: {s.meaning} ({s.files[0]})" for name, s in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learn", description=__doc__, epilog=f"Scenarios: {listed}"
    )
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=["banking77"])
    parser.add_argument("--strategy", nargs="+", choices=STRATEGIES, metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--memory", type=int, default=2_000, help="rows of replay memory")
    parser.add_argument(
        "--batch-rows",
        type=int,
        default=BATCH_ROWS,
        help="rows of a micro-batch; no class can be found known sooner than after its first",
    )
    parser.add_argument("--quick", action="store_true", help="little data: minutes, not hours")
    parser.add_argument(
        "--tuning", choices=TUNINGS, default="full", help="how much of the encoder trains"
    )
    parser.add_argument(
        "--tune", action="store_true", help="choose each strategy's options on a share of train"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        type=option,
        default=[],
        metavar="NAME=NUMBER",
        help="options of the strategies, as head_learning_rate=0.01",
    )
    parser.add_argument(
        "--pooling", default=POOLING, help="features of hidden states, as the setting model.pooling"
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="folder of data sets")
    parser.add_argument("--cache", type=Path, default=CACHE, help="of features and results")
    parser.add_argument("--out", type=Path, help="folder of the report (in the cache by default)")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    chosen = parser.parse_args(arguments)
    for name, least in (("memory", 0), ("threads", 1), ("batch_rows", 1)):
        if getattr(chosen, name) < least:
            given = name.replace("_", "-")
            parser.error(f"--{given} {getattr(chosen, name)}: {least} or more was expected")
    try:
        Pooling.parse(chosen.pooling)
    except EncoderError as error:
        parser.error(f"--pooling: {error}")
    return chosen


def main(arguments: Sequence[str]) -> int:
    """Run what the command line asks for; answer the exit status."""
    chosen = parse(arguments)
    strategies = chosen.strategy or (QUICK_STRATEGIES if chosen.quick else FROZEN)
    seeds = chosen.seeds or ([0] if chosen.quick else [0, 1, 2])
    bench = Bench(
        chosen.cache,
        memory=chosen.memory,
        threads=chosen.threads,
        quick=chosen.quick,
        tuning=chosen.tuning,
        batch_rows=chosen.batch_rows,
        pooling=chosen.pooling,
    )
    results: list[Result] = []
    for name in chosen.scenario:
        for seed in seeds:
            try:
                streams = SCENARIOS[name].streams(chosen.data, seed=seed, quick=chosen.quick)
            except DataError as error:
                print(f"error: {error}", file=sys.stderr)
                return 2
            for strategy in strategies:
                options = dict(chosen.set)
                if chosen.tune:
                    options |= tuned_options(bench, streams[0], strategy, seed=seed)
                results += [bench.run(s, strategy, seed=seed, options=options) for s in streams]
    command = " ".join(["python -m benchmarks.learn", *arguments])
    page = write(results, chosen.out or chosen.cache / "report", about=machine(), command=command)
    if chosen.markdown:
        print(markdown(results))
    else:
        Console(width=200).print(table(results))
    print("\n".join(group_table(results)))
    print(summary(results, report=page))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
