"""What a trial gave, and the file it is kept in.

Owns the shape of a result and its cache, keyed by everything that decides it; must not know how a
trial runs.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess  # git alone is called
from pathlib import Path

import msgspec
import torch

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "benchmarks"


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides a trial.

    Attributes:
        scenario: name of the stream.
        strategy: name of the strategy.
        seed: of the order of the stream and of the learner.
        memory: rows that replay memory keeps.
        threads: of torch.
        quick: whether the data were cut down.
        data: hash over every row of the stream, in order.
        revision: of the code in learners/, see `revision`.
        encoder: name of the backbone.
        precision: of the encoder.
        tuning: how much of the encoder trains, where the strategy trains one.
        options: of the strategy, by name, where they are not the default.
        batch_rows: rows of a micro-batch; after each, classes that came are asked for.
        protocol: counts up when a trial comes to measure something else.
    """

    scenario: str
    strategy: str
    seed: int
    memory: int
    threads: int
    quick: bool
    data: str
    revision: str
    encoder: str
    precision: str
    tuning: str = "full"
    options: dict[str, float] = {}
    batch_rows: int = 32
    protocol: int = 1


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a trial gave. Shares are 0 to 1.

    Attributes:
        setup: what was run.
        tasks: names of the tasks.
        groups: names of the groups of test rows.
        matrix: accuracy of each group (column) after each task (row); null where not tested.
        curve: accuracy after each task on all rows tested then.
        prequential: accuracy on training rows before they were learned.
        final: the last of `curve`.
        average: the mean of `curve`.
        forgetting: mean over groups of best minus last accuracy.
        rows_to_80: median over classes of the examples it took to answer 80 % of its probe rows.
        calibration_error: expected calibration error of the final probabilities.
        unknown_auroc: how well `unknown` tells rows of no label; null where it is not measured.
        strategy_ms: processor time of learning, a training row, all threads together, without the
            encoder where that is frozen.
        features_ms: processor time of the frozen encoder, a text that this run computed; null when
            all were kept.
        seconds: of the whole trial, by the clock on the wall.
        memory_growth_mb: main memory at the end less that after the first rows; a trial may use
            what an earlier one in the same process gave back.
    """

    setup: Setup
    tasks: list[str]
    groups: list[str]
    matrix: list[list[float | None]]
    curve: list[float]
    prequential: float
    final: float
    average: float
    forgetting: float | None
    rows_to_80: float | None
    calibration_error: float
    unknown_auroc: float | None
    strategy_ms: float
    features_ms: float | None
    seconds: float
    memory_growth_mb: float


class Kept:
    """Results on disk, one JSON file a setup.

    Args:
        folder: made when needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, setup: Setup) -> Result | None:
        """Read the result of a setup, if it was run before."""
        path = self._path(setup)
        return msgspec.json.decode(path.read_bytes(), type=Result) if path.is_file() else None

    def put(self, result: Result) -> None:
        """Keep a result."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(result.setup)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(result)))
        temporary.replace(path)

    def _path(self, setup: Setup) -> Path:
        digest = hashlib.sha256(msgspec.json.encode(setup)).hexdigest()[:24]
        return self.folder / f"{setup.scenario.replace(' ', '-')}-{setup.strategy}-{digest}.json"


def revision() -> str:
    """Name the code of learners/: its last commit, and a hash of it where it was changed since."""
    commit = _git("log", "-1", "--format=%h", "--", "learners")
    if not _git("status", "--porcelain", "--", "learners"):
        return commit
    digest = hashlib.sha256()
    for path in sorted((ROOT / "learners").rglob("*.py")):
        digest.update(path.read_bytes())
    return f"{commit}+{digest.hexdigest()[:12]}"


def machine() -> str:
    """Name the processor and what torch is, without the machine's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} CPUs; torch {torch.__version__}"


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
