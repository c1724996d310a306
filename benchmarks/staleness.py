"""How old what is known may be: from a label's arrival in Kafka to the first answer that knows it.

Ingest, learn and serve run as they do in a deployment; serve has a core of its own and answers a
stream at half of its capacity. Some interactions get their label a moment later, as feedback. A
label's way is followed on the topics themselves: the example made of it, the first release that had
learned up to there, and the first prediction by that release or a later one. Prints a table; the
last line is one JSON object.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import Producer
from rich.console import Console
from rich.table import Table

from benchmarks.bars import Show, bar
from benchmarks.commands import changes_of, parser_of, print_last
from benchmarks.data import DataError, Row
from benchmarks.deployment import Deployment, apart, deployment, questions
from benchmarks.following import Reader, follow
from benchmarks.load import quantile
from benchmarks.serve import banking, rate_through
from schemas import Feedback, Interaction, codec

SECONDS, QUICK_SECONDS = 60.0, 8.0
LABEL_EVERY = 10  # one of so many interactions gets a label
LABEL_AFTER_S = 0.5
HALF = 0.5
PATIENCE_S = 30.0
GOAL_P50_S, GOAL_P95_S = 1.0, 3.0


class Staleness(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen; all times in seconds, from the label's sending.

    Attributes:
        rate: interactions a second, half of what serve can answer.
        labels: sent while the stream ran.
        unanswered: of them, those that no answer was seen to know.
        releases: that came to answer meanwhile.
        p50_s: median.
        p95_s: 95 % were as fast.
        example_p50_s: until the example was on its topic, median.
        release_p50_s: until the release was on its topic, median.
    """

    rate: float
    labels: int
    unanswered: int
    releases: int
    p50_s: float
    p95_s: float
    example_p50_s: float
    release_p50_s: float


class Stream:
    """Sends interactions at a rate, and labels of some a moment later.

    Args:
        deployed: where.
        rows: texts with their labels, in turn.
    """

    def __init__(self, deployed: Deployment, rows: Sequence[Row]) -> None:
        self._topics = deployed.topics
        self._rows = rows
        self._producer = Producer(
            {
                "bootstrap.servers": deployed.servers,
                "log_level": 0,
                "linger.ms": 1,
                "partitioner": "murmur2_random",
            }
        )
        self.labelled: dict[str, float] = {}

    def teach(self, rows: Sequence[Row]) -> None:
        """Send rows with their labels at once."""
        now = datetime.now(UTC)
        for number, row in enumerate(rows):
            asked = questions([row.text], name=f"taught-{number}")[0]
            self._send(msgspec.structs.replace(asked, label=row.label, time=now))
        self._producer.flush()

    def run(self, rate: float, seconds: float) -> None:
        """Send for a time."""
        begin = time.monotonic()
        waiting: list[tuple[float, str, str]] = []
        for number in range(round(rate * seconds)):
            due_s = begin + number / rate
            while (left_s := due_s - time.monotonic()) > 0:
                time.sleep(left_s)
            while waiting and waiting[0][0] <= time.monotonic():
                _, id_, label = waiting.pop(0)
                self._label(id_, label)
            row = self._rows[number % len(self._rows)]
            asked = questions([row.text], name=f"asked-{number}")[0]
            self._send(asked)
            if number % LABEL_EVERY == 0:
                waiting.append((time.monotonic() + LABEL_AFTER_S, asked.id, row.label))

    def trickle(self, rate: float, until: threading.Event) -> None:
        """Send without labels until told to stop: the last labels need answers too."""
        number = 0
        while not until.wait(1 / rate):
            row = self._rows[number % len(self._rows)]
            self._send(questions([row.text], name=f"after-{number}")[0])
            number += 1
        self._producer.flush()

    def _label(self, id_: str, label: str) -> None:
        message = Feedback(interaction=id_, kind="label", value=label, time=datetime.now(UTC))
        self.labelled[id_] = time.monotonic()
        self._producer.produce(self._topics.feedback, codec.encode(message), id_)
        self._producer.poll(0)

    def _send(self, row: Interaction) -> None:
        self._producer.produce(self._topics.interactions, codec.encode(row), row.user)
        self._producer.poll(0)


def measure(data: Path, *, seconds: float, changes: dict[str, object], show: Show) -> Staleness:
    """Run the benchmark; see the module.

    Args:
        data: folder of the data sets.
        seconds: how long the stream runs.
        changes: settings of the roles, by dotted name.
        show: moves the bar.
    """
    known, texts = banking(data, 4_096)
    labels = {row.text: row.label for row in known}
    settings: dict[str, object] = {"model.threads": 1, "serve.remembered": 0, **changes}
    with (
        apart() as mine,
        tempfile.TemporaryDirectory(prefix="mindstream-benchmark-") as folder,
        deployment(Path(folder), settings) as deployed,
    ):
        roles = [deployed.start(name) for name in ("ingest", "learn")]
        serve = deployed.start("serve", cores=mine)
        stream = Stream(deployed, known)
        reader = Reader(deployed)
        try:
            for role in roles:
                role.wait_up()
            serve.wait_up()
            show(0, 4)
            stream.teach(known)
            _wait(lambda: bool(reader.seen.answered) or _asked(stream), "no release came")
            _wait(lambda: _caught_up(reader, len(known)), "the learner does not catch up")
            serve.wait_ready()
            wire = deployed.wire()
            serve.wait_settled(wire, texts)
            show(1, 4)
            rate = HALF * rate_through(wire, [text for text in texts if text in labels], "capacity")
            wire.close()
            show(2, 4)
            before = len(reader.seen.answered)
            stream.run(rate, seconds)
            show(3, 4)
            ways = _last_ways(stream, reader, rate)
            show(4, 4)
        finally:
            reader.close()
        return _summary(ways, rate=rate, releases=len(reader.seen.answered) - before)


def _last_ways(stream: Stream, reader: Reader, rate: float) -> list[tuple[float, ...] | None]:
    """Go on asking until the last labels are known, or for some time."""
    over = threading.Event()
    after = threading.Thread(target=stream.trickle, args=(rate, over))
    after.start()
    deadline = time.monotonic() + PATIENCE_S
    try:
        while None in (ways := follow(stream.labelled, reader.seen, reader.examples)):
            if time.monotonic() > deadline:
                break
            time.sleep(0.5)
        return ways
    finally:
        over.set()
        after.join()


def _summary(ways: Sequence[tuple[float, ...] | None], *, rate: float, releases: int) -> Staleness:
    """Put the ways together.

    Raises:
        RuntimeError: none of them came to its end.
    """
    followed = [way for way in ways if way is not None]
    if not followed:
        raise RuntimeError(f"no answer was seen to know any of {len(ways)} labels")
    return Staleness(
        rate=rate,
        labels=len(ways),
        unanswered=len(ways) - len(followed),
        releases=releases,
        p50_s=quantile([way[2] for way in followed], 0.5),
        p95_s=quantile([way[2] for way in followed], 0.95),
        example_p50_s=quantile([way[0] for way in followed], 0.5),
        release_p50_s=quantile([way[1] for way in followed], 0.5),
    )


def _caught_up(reader: Reader, rows: int) -> bool:
    """Say whether so many examples were made, and a release had learned all there are."""
    seen = reader.seen
    if len(seen.examples) < rows or not seen.releases:
        return False
    _, positions, _ = seen.releases[-1]
    return all(
        positions.get(f"{reader.examples}/{partition}", 0) > offset
        for partition, offset, _ in seen.examples.values()
    )


def _asked(stream: Stream) -> bool:
    """Ask something, so that a release may answer; give False."""
    over = threading.Event()
    threading.Timer(0.2, over.set).start()
    stream.trickle(20.0, over)
    return False


def _wait(check: Any, words: str) -> None:  # noqa: ANN401
    """Wait until something holds.

    Raises:
        RuntimeError: it never did.
    """
    end = time.monotonic() + 240.0
    while not check():
        if time.monotonic() > end:
            raise RuntimeError(words)
        time.sleep(0.1)


def show_table(seen: Staleness, console: Console) -> None:
    """Draw the table."""
    table = Table(title="From a label to the first answer that knows it, seconds")
    for column in (
        "rows/s",
        "labels",
        "unanswered",
        "releases",
        "example p50",
        "release p50",
        "p50",
        "p95",
    ):
        table.add_column(column, justify="right")
    table.add_row(
        f"{seen.rate:,.0f}",
        f"{seen.labels:,}",
        f"{seen.unanswered:,}",
        f"{seen.releases:,}",
        *(
            f"{value:.2f}"
            for value in (seen.example_p50_s, seen.release_p50_s, seen.p50_s, seen.p95_s)
        ),
    )
    console.print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; see the module."""
    parser = parser_of("staleness", __doc__, quick="a few seconds")
    parser.add_argument("--seconds", type=float, help="how long the stream runs")
    args = parser.parse_args(argv)
    try:
        with bar("steps") as show:
            seen = measure(
                args.data,
                seconds=args.seconds or (QUICK_SECONDS if args.quick else SECONDS),
                changes=changes_of(args),
                show=show,
            )
    except DataError as error:
        parser.error(str(error))
    show_table(seen, Console(width=120))
    print_last(
        "staleness", **msgspec.to_builtins(seen), goal_p50_s=GOAL_P50_S, goal_p95_s=GOAL_P95_S
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
