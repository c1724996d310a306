"""The label join: interactions and what became known about them later, in any order, counted once.

Owns the state that waits in Redis, its counters and their equations; must not know Kafka, Faust or
what a label means. The state is sharded by a hash of the interaction's id over hash tags, one
script a shard changes it atomically, and every effect is keyed by the record's position, so that a
record may be applied again by anybody at any time: nothing is counted twice, and an example is
given again until somebody confirms that it is in Kafka.

Always, for each task and summed over all::

    interactions = joined + waiting + expired + refused + dead
    feedback = joined + corrected + repeated + contradicted + late + refused + unused
               + pending + orphaned + mismatched          (each with the prefix feedback_)
"""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import msgspec
import redis

from learners.scripts import Argument, Script, check_client, pack, run_scripts
from schemas.fields import Label

INTERACTION_COUNTERS = (
    "interactions",
    "joined",
    "waiting",
    "expired",
    "refused",
    "dead",
    "repeated",
)
FEEDBACK_FATES = (
    "joined",
    "corrected",
    "repeated",
    "contradicted",
    "late",
    "refused",
    "unused",
    "pending",
    "orphaned",
    "mismatched",
)
FEEDBACK_COUNTERS = ("feedback", *(f"feedback_{fate}" for fate in FEEDBACK_FATES))
UNKNOWN_TASK = "-"  # feedback whose interaction is not known yet, records that name no task

Verb = Literal["label", "correction", "rating", "click", "dismiss"]


class Status(StrEnum):
    """What became of a record; each is a counter's name too."""

    JOINED = "joined"  # an interaction has its label, or a feedback gave it one
    WAITING = "waiting"  # an interaction waits for its label
    EXPIRED = "expired"  # an interaction waited too long
    REFUSED = "refused"  # no consent; or feedback on such an interaction
    REPEATED = "repeated"  # another record with a known id, or the label that is in effect already
    PENDING = "pending"  # feedback waits for its interaction
    CORRECTED = "corrected"  # a correction replaced the label: a new revision
    CONTRADICTED = "contradicted"  # another `label` after the first: the first one stays
    LATE = "late"  # feedback on an expired interaction
    UNUSED = "unused"  # a rating, click or dismissal that the task's kind does not learn from
    ORPHANED = "orphaned"  # feedback whose interaction never came
    MISMATCHED = "mismatched"  # feedback whose value is no label of the task's kind


@dataclass(frozen=True, slots=True)
class InteractionArrival:
    """An interaction as read from Kafka.

    Attributes:
        id: the interaction's id.
        task: its task.
        kind: the task's kind, such as `classify`.
        user: whose it is.
        position: `topic:partition:offset`.
        payload: the encoded Interaction; given back with its example.
        label: canonical label that came inside, or None.
        consent: False: remembered, never an example.
        at_ms: Kafka's timestamp, milliseconds since 1970.
    """

    id: str
    task: str
    kind: str
    user: str
    position: str
    payload: bytes
    label: Label | None
    consent: bool
    at_ms: int


@dataclass(frozen=True, slots=True)
class FeedbackArrival:
    """A feedback as read from Kafka.

    Attributes:
        interaction: id of the interaction it speaks of.
        position: `topic:partition:offset`.
        verb: what the user did.
        labels: kind name to canonical label, for the kinds of which the value is a valid label.
        raw: the original bytes, kept while it waits, so that a mismatch can be dead-lettered later.
        at_ms: Kafka's timestamp, milliseconds since 1970.
    """

    interaction: str
    position: str
    verb: Verb
    labels: Mapping[str, Label]
    raw: bytes
    at_ms: int


Arrival = InteractionArrival | FeedbackArrival


@dataclass(frozen=True, slots=True)
class DeadRecord:
    """An interaction that can never be used.

    Attributes:
        task: its task, or `-` when it cannot be read.
        position: `topic:partition:offset`.
        digest: of its bytes.
    """

    task: str
    position: str
    digest: str


@dataclass(frozen=True, slots=True)
class JoinedExample:
    """All that a training example is made of; the same bytes however often it is given.

    Attributes:
        payload: the encoded Interaction.
        label: canonical label.
        labelled_at_ms: when the label reached Kafka, milliseconds since 1970.
        revision: 1 for the first label, one more for each correction.
        previous: the label that a correction replaced.
    """

    payload: bytes
    label: Label
    labelled_at_ms: int
    revision: int
    previous: Label | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one arrival, or of a pending feedback that it released.

    Attributes:
        arrival: index of the arrival that caused it.
        status: what became of it.
        counted: False when a redelivery only told it again.
        id: the interaction's id.
        position: of the record it is about. An example's is the record that completed it; a
            mismatch's is the feedback that must go to dead letters.
        task: the interaction's task, `-` while it is not known.
        example: to be produced, then confirmed.
        raw: of a mismatch: the feedback's bytes, to be dead-lettered, then confirmed.
    """

    arrival: int
    status: Status
    counted: bool
    id: str
    position: str
    task: str
    example: JoinedExample | None = None
    raw: bytes | None = None


_read_label: msgspec.json.Decoder[str | tuple[str, ...]] = msgspec.json.Decoder(
    str | tuple[str, ...]
)
_APPLY = Script("join_apply", parts=["join_state"])
_EXPIRE = Script("join_expire", parts=["join_state"])
_DEAD = Script("join_dead", parts=["join_state"])


class LabelJoin:
    """The join of one deployment; any number of workers may share it."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        namespace: str,
        shards: int = 16,
        ttl_s: float,
        remember_s: float,
    ) -> None:
        """Connect to the state.

        Args:
            client: a connection that does not decode answers. The server must not evict keys
                (`maxmemory-policy noeviction`).
            namespace: start of every key.
            shards: hash tags the state is spread over; must never change on a live system.
            ttl_s: how long an interaction waits for its label, and feedback for its interaction.
            remember_s: how long an id and its payload are kept after that, seconds.

        Raises:
            ValueError: the connection decodes answers, or a number is not positive.
        """
        check_client(client)
        for name, value in (("shards", shards), ("ttl_s", ttl_s), ("remember_s", remember_s)):
            if value <= 0:
                raise ValueError(f"{name} is {value}: it must be positive")
        self._redis = client
        self._bases = [f"{namespace}:{{j{shard:02d}}}:" for shard in range(shards)]
        self._ttl_ms = max(1, round(ttl_s * 1000))
        self._remember_ms = max(1, round(remember_s * 1000))

    def apply(self, arrivals: Sequence[Arrival], *, now_ms: int) -> list[Outcome]:
        """Apply arrivals, those of one interaction in their order.

        Safe to do again, and to be done again when the server was gone (`redis.RedisError`).

        Args:
            arrivals: from one batch, either topic.
            now_ms: the clock, milliseconds since 1970; deadlines count from it.

        Returns:
            At least one outcome an arrival, by arrival; more where feedback had waited. Produce
            the examples and mismatches among them, then `confirm`.
        """
        shards: defaultdict[str, list[int]] = defaultdict(list)
        for index, arrival in enumerate(arrivals):
            shards[self._base(_id(arrival))].append(index)
        head: list[Argument] = [now_ms, self._ttl_ms, self._remember_ms]
        calls: list[tuple[Script, str, Sequence[Argument]]] = [
            (
                _APPLY,
                base,
                [
                    *head,
                    pack([_packed(index, arrivals[index]) for index in indices]),
                    *(_payload(arrivals[index]) for index in indices),
                ],
            )
            for base, indices in shards.items()
        ]
        outcomes = [_outcome(row) for answer in run_scripts(self._redis, calls) for row in answer]
        outcomes.sort(key=lambda outcome: outcome.arrival)
        return outcomes

    def confirm(self, outcomes: Sequence[Outcome]) -> None:
        """Say that these examples and mismatches are in Kafka: they are never given again."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for outcome in outcomes:
                key = f"{self._base(outcome.id)}i:{outcome.id}"
                if outcome.example is not None:
                    pipeline.hdel(key, f"x:{outcome.example.revision}")
                elif outcome.raw is not None:
                    pipeline.hdel(key, f"d:{outcome.position}")
            pipeline.execute()

    def expire(self, *, now_ms: int, limit: int) -> int:
        """Give up on interactions and feedback past their deadline.

        Args:
            now_ms: the clock, milliseconds since 1970.
            limit: about how many at most, spread over the shards.

        Returns:
            How many were given up; call again soon when it is near the limit.
        """
        each = max(1, math.ceil(limit / len(self._bases)))
        arguments: list[Argument] = [now_ms, each, self._remember_ms]
        return sum(run_scripts(self._redis, [(_EXPIRE, base, arguments) for base in self._bases]))

    def count_dead(self, records: Sequence[DeadRecord]) -> int:
        """Count interactions that can never be used, once per position and digest.

        Args:
            records: of one batch; one round trip for all of them.

        Returns:
            How many were not counted before.
        """
        shards: defaultdict[str, list[Argument]] = defaultdict(lambda: [self._remember_ms])
        for record in records:
            shards[self._base(record.position)] += [record.task, record.position, record.digest]
        return sum(run_scripts(self._redis, [(_DEAD, base, said) for base, said in shards.items()]))

    def counters(self) -> dict[str, dict[str, int]]:
        """Read every counter, exact and summed over the shards.

        Returns:
            Task to counter name to value, every name present; task `-` holds what names no task.
        """
        with self._redis.pipeline(transaction=False) as pipeline:
            for base in self._bases:
                pipeline.hgetall(f"{base}n")
            answers: list[dict[bytes, bytes]] = pipeline.execute()
        tasks: dict[str, dict[str, int]] = {}
        for answer in answers:
            for field, value in answer.items():
                task, name = field.decode().split("|", 1)
                names = (*INTERACTION_COUNTERS, *FEEDBACK_COUNTERS)
                tasks.setdefault(task, dict.fromkeys(names, 0))[name] += int(value)
        return tasks

    def _base(self, key: str) -> str:
        return self._bases[zlib.crc32(key.encode()) % len(self._bases)]


def _id(arrival: Arrival) -> str:
    return arrival.id if isinstance(arrival, InteractionArrival) else arrival.interaction


def _payload(arrival: Arrival) -> bytes:
    return arrival.payload if isinstance(arrival, InteractionArrival) else arrival.raw


def _packed(index: int, arrival: Arrival) -> list[object]:
    """Write an arrival as join_apply.lua reads it; labels as JSON text, which is compared whole."""
    if isinstance(arrival, InteractionArrival):
        label = "" if arrival.label is None else msgspec.json.encode(arrival.label).decode()
        return [
            "i",
            index,
            arrival.id,
            arrival.position,
            str(arrival.at_ms),
            arrival.task,
            arrival.kind,
            arrival.user,
            label,
            arrival.consent,
        ]
    labels = {k: msgspec.json.encode(value).decode() for k, value in arrival.labels.items()}
    return [
        "f",
        index,
        arrival.interaction,
        arrival.position,
        str(arrival.at_ms),
        arrival.verb,
        labels,
    ]


def _outcome(row: list[Any]) -> Outcome:
    index, status, counted, id_, position, task, part, *rest = row
    example = raw = None
    if part == b"x":
        revision, label, previous, at, _user, payload = rest
        example = JoinedExample(
            payload=payload,
            label=_read_label.decode(label),
            labelled_at_ms=int(at),
            revision=int(revision),
            previous=_read_label.decode(previous) if previous else None,
        )
    elif part == b"d":
        raw = rest[0]
    return Outcome(
        arrival=index,
        status=Status(status.decode()),
        counted=bool(counted),
        id=id_.decode(),
        position=position.decode(),
        task=task.decode(),
        example=example,
        raw=raw,
    )
