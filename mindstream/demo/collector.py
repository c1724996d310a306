"""Watches a running deployment from outside: its topics, its counters in Redis, its metrics pages.

Owns reading; what is read goes to the tally. Must not know what is done with it. One thread, no
consumer group: it disturbs nobody's offsets.
"""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from learners.join import LabelJoin
from mindstream.demo.tally import Tally
from schemas import DeadLetter, DriftSignal, Example, ModelRelease, Prediction, codec
from streams.topics import Topics

COUNTERS_EVERY_S = 0.1
PAGES_EVERY_S = 0.2
PAGE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Sources:
    """Where to look.

    Attributes:
        connect: makes a kafka-python consumer without a group.
        topics: names.
        join: whose counters are read.
        pages: role to the address of its metrics page.
    """

    connect: Callable[[], Any]
    topics: Topics
    join: LabelJoin
    pages: Mapping[str, str]


class Collector:
    """Feeds the tally until stopped.

    Args:
        sources: where to look.
        tally: told everything.
        clock_s: monotonic seconds.

    Attributes:
        error: what ended the thread early, or None.
    """

    def __init__(
        self,
        sources: Sources,
        tally: Tally,
        *,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.error: BaseException | None = None
        self._sources = sources
        self._tally = tally
        self._clock_s = clock_s
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._guard, args=(work,), name=f"demo-{name}", daemon=True)
            for name, work in (("records", self._read_topics), ("pages", self._read_pages))
        ]

    def start(self) -> None:
        """Start looking."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop looking."""
        self._stopping.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=5.0)

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        # A thread's error would be lost: it is kept, and raised where the demo waits.
        except Exception as error:  # noqa: BLE001
            self.error = error

    def _read_topics(self) -> None:
        from kafka import TopicPartition

        topics = self._sources.topics
        consumer = self._sources.connect()
        try:
            names = (
                topics.predictions,
                topics.examples,
                topics.models,
                topics.drift,
                topics.dead_letters,
            )
            partitions = [
                TopicPartition(name, number)
                for name in names
                for number in sorted(consumer.partitions_for_topic(name) or ())
            ]
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            counters_s = 0.0
            while not self._stopping.is_set():
                for records in consumer.poll(timeout_ms=50, max_records=2_000).values():
                    for record in records:
                        self._take(record)
                if self._clock_s() >= counters_s:
                    self._tally.counted(self._sources.join.counters())
                    counters_s = self._clock_s() + COUNTERS_EVERY_S
        finally:
            consumer.close()

    def _take(self, record: Any) -> None:  # noqa: ANN401
        topics, tally = self._sources.topics, self._tally
        if record.topic == topics.predictions:
            tally.predicted(codec.decode(Prediction, record.value))
        elif record.topic == topics.examples:
            position = (f"{record.topic}/{record.partition}", record.offset)
            tally.joined(codec.decode(Example, record.value), position=position)
        elif record.topic == topics.models:
            tally.released(codec.decode(ModelRelease, record.value))
        elif record.topic == topics.drift:
            tally.drifted(codec.decode(DriftSignal, record.value))
        else:
            tally.died(codec.decode(DeadLetter, record.value))

    def _read_pages(self) -> None:
        while not self._stopping.wait(PAGES_EVERY_S):
            learn = read_page(self._sources.pages["learn"])
            if learn is not None:
                self._tally.learner_said(
                    learned=int(total(learn, "mindstream_examples_learned_total")),
                    rejected=int(
                        total(learn, "mindstream_gate_decisions_total", decision="rejected")
                    ),
                )
            ingest = read_page(self._sources.pages["ingest"])
            if ingest is not None:
                self._tally.remembered(
                    rows=int(total(ingest, "mindstream_replay_rows", part="train")),
                    held_out=int(total(ingest, "mindstream_replay_rows", part="held_out")),
                    size_bytes=int(total(ingest, "mindstream_replay_bytes")),
                )


Sample = tuple[str, Mapping[str, str], float]


def read_page(url: str) -> list[Sample] | None:
    """Read a metrics page: name, labels and value of each sample; None when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=PAGE_TIMEOUT_S) as answer:
            text = answer.read().decode()
    except (urllib.error.URLError, OSError):
        return None
    return parse_page(text)


def parse_page(text: str) -> list[Sample]:
    r"""Parse a metrics page.

    Examples:
        >>> page = 'rows{part="a"} 2.0\nrows{part="b"} 3.0\n'
        >>> total(parse_page(page), "rows"), total(parse_page(page), "rows", part="b")
        (5.0, 3.0)
    """
    return [
        (sample.name, sample.labels, float(sample.value))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def total(samples: list[Sample], name: str, **labels: str) -> float:
    """Sum the samples of a name whose labels are these."""
    return sum(
        value
        for sample, found, value in samples
        if sample == name and all(found.get(key) == want for key, want in labels.items())
    )


def answers(url: str) -> bool:
    """Say whether a page answers with 200."""
    try:
        with urllib.request.urlopen(url, timeout=PAGE_TIMEOUT_S) as answer:
            return int(answer.status) == 200
    except (urllib.error.URLError, OSError):
        return False
