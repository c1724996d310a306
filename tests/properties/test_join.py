"""Laws of the label join: any order, two workers, redelivery, and a crash between any two steps."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass, field

import redis as redis_client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learners.join import (
    FEEDBACK_FATES,
    Arrival,
    FeedbackArrival,
    InteractionArrival,
    JoinedExample,
    LabelJoin,
    Outcome,
    Verb,
)
from schemas.fields import Label

NOW_MS = 1_790_000_000_000
TTL_MS = 60_000
TASKS = {"intents": "classify", "tags": "multilabel"}
VERBS: tuple[Verb, ...] = ("label", "correction", "click")
_run = itertools.count()

ids = st.sampled_from(["a", "b", "c", "d|e"])
labels: st.SearchStrategy[dict[str, Label]] = st.sampled_from(
    [{"classify": "x"}, {"classify": "y", "multilabel": ("y",)}, {"multilabel": ()}, {}]
)


@st.composite
def records(draw: st.DrawFn) -> list[Arrival]:
    """Draw what lies in Kafka: every record has its own position."""
    kinds = draw(st.lists(st.booleans(), min_size=1, max_size=10))
    made: list[Arrival] = []
    for offset, is_interaction in enumerate(kinds):
        id_ = draw(ids)
        if is_interaction:
            task = draw(st.sampled_from(sorted(TASKS)))
            inside = draw(st.none() | st.sampled_from(["x", "y"]))
            made.append(
                InteractionArrival(
                    id=id_,
                    task=task,
                    kind=TASKS[task],
                    user="u",
                    position=f"interactions:0:{offset}",
                    payload=f"{id_} at {offset}".encode(),
                    label=(inside,) if inside and task == "tags" else inside,
                    consent=draw(st.integers(0, 5)) > 0,
                    at_ms=NOW_MS + offset,
                )
            )
        else:
            made.append(
                FeedbackArrival(
                    interaction=id_,
                    position=f"feedback:0:{offset}",
                    verb=draw(st.sampled_from(VERBS)),
                    labels=draw(labels),
                    raw=f"raw {offset}".encode(),
                    at_ms=NOW_MS + offset,
                )
            )
    return made


steps = st.lists(
    st.tuples(
        st.sampled_from(["apply", "apply", "produce", "confirm", "acknowledge", "crash", "expire"]),
        st.integers(0, 1),
        st.lists(st.integers(0, 9), min_size=1, max_size=4),
    ),
    max_size=14,
)


@dataclass
class Worker:
    """An ingest worker: applies, produces, confirms, and forgets everything when it crashes."""

    batch: list[Arrival] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    produced: bool = False
    confirmed: bool = False


@dataclass
class Kafka:
    """What has been produced and which records need no redelivery."""

    examples: defaultdict[tuple[str, int], list[JoinedExample]] = field(
        default_factory=lambda: defaultdict(list)
    )
    dead: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)

    def produce(self, worker: Worker) -> None:
        for outcome in worker.outcomes:
            if outcome.example is not None:
                self.examples[outcome.id, outcome.example.revision].append(outcome.example)
            if outcome.raw is not None:
                assert outcome.raw.decode().split()[1] == outcome.position.split(":")[2]
                self.dead.add(outcome.position)
        worker.produced = True

    def acknowledge(self, worker: Worker) -> None:
        self.done.update(arrival.position for arrival in worker.batch)

    def check_against(self, total: dict[str, int], records: list[Arrival]) -> None:
        """Hold what was produced against the counters, once everything has been delivered."""
        interactions = [each for each in records if isinstance(each, InteractionArrival)]
        assert total["interactions"] == len({each.id for each in interactions})
        assert total["interactions"] + total["repeated"] == len(interactions)
        assert total["feedback"] == len(records) - len(interactions)
        assert total["feedback_mismatched"] == len(self.dead)
        assert total["joined"] == sum(revision == 1 for _, revision in self.examples)
        assert total["feedback_corrected"] == sum(revision > 1 for _, revision in self.examples)
        for (id_, revision), given_examples in list(self.examples.items()):
            example = given_examples[0]
            assert all(each == example for each in given_examples), "not the same each time"
            before = self.examples[id_, revision - 1][0].label if revision > 1 else None
            assert example.previous == before


def check_equations(join: LabelJoin, redis: redis_client.Redis, namespace: str) -> dict[str, int]:
    counters = join.counters()
    for task in counters.values():
        parts = ("joined", "waiting", "expired", "refused", "dead")
        assert task["interactions"] == sum(task[name] for name in parts)
        assert task["feedback"] == sum(task[f"feedback_{fate}"] for fate in FEEDBACK_FATES)
        assert min(task.values()) >= 0
    total: defaultdict[str, int] = defaultdict(int)
    for task in counters.values():
        for name, value in task.items():
            total[name] += value
    waiting = sum(redis.zcard(f"{namespace}:{{j{n:02d}}}:w") for n in range(2))
    pending = sum(redis.zcard(f"{namespace}:{{j{n:02d}}}:o") for n in range(2))
    assert (total["waiting"], total["feedback_pending"]) == (waiting, pending)
    return total


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(records=records(), steps=steps)
def test_no_crash_and_no_order_loses_or_doubles_anything(
    redis: redis_client.Redis,
    records: list[Arrival],
    steps: list[tuple[str, int, list[int]]],
) -> None:
    namespace = f"p{next(_run)}"
    join = LabelJoin(redis, namespace=namespace, shards=2, ttl_s=TTL_MS / 1000, remember_s=3600)
    kafka, workers, now_ms = Kafka(), [Worker(), Worker()], NOW_MS

    def apply(worker: Worker, batch: list[Arrival]) -> None:
        worker.batch, worker.produced, worker.confirmed = batch, False, False
        worker.outcomes = join.apply(batch, now_ms=now_ms)
        assert [o.arrival for o in worker.outcomes] == sorted(o.arrival for o in worker.outcomes)
        assert {outcome.arrival for outcome in worker.outcomes} == set(range(len(batch)))

    for action, which, picks in steps:
        worker = workers[which]
        if action == "apply":
            apply(worker, [records[n % len(records)] for n in picks])
        elif action == "produce":
            kafka.produce(worker)
        elif action == "confirm" and worker.produced:
            join.confirm(worker.outcomes)
            worker.confirmed = True
        elif action == "acknowledge" and worker.confirmed:
            kafka.acknowledge(worker)
        elif action == "crash":
            workers[which] = Worker()
        elif action == "expire":
            now_ms += TTL_MS // 2
            join.expire(now_ms=now_ms, limit=100)
        check_equations(join, redis, namespace)

    # Whatever was not acknowledged comes again, to a worker that lives.
    last = Worker()
    apply(last, [record for record in records if record.position not in kafka.done])
    kafka.produce(last)
    join.confirm(last.outcomes)
    total = check_equations(join, redis, namespace)

    kafka.check_against(total, records)
    # Nothing is left to give: everything redelivered once more is silent.
    assert all(
        outcome.example is None and outcome.raw is None and not outcome.counted
        for outcome in join.apply(records, now_ms=now_ms)
    )
    assert check_equations(join, redis, namespace) == total
