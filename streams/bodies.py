"""What is asked and answered over HTTP: the contracts of the bodies, and bytes to contracts.

An item of a request is the topic's contract, with what a caller who waits need not say left open.
Owns these shapes and the checks by which HTTP takes what ingest takes; must not know routes,
batches or who answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from learners.tasks.base import TaskKind
from schemas import Feedback, Interaction, Prediction, codec
from schemas.errors import DecodeError, LabelError, MessageError
from schemas.feedback import FeedbackKind
from schemas.fields import Id, Label, ScalarMap, TaskName, Text, Time, User
from schemas.times import check_time
from streams.decoding import Limits
from streams.problems import ItemError

T = TypeVar("T")


class InteractionBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An interaction as a caller sends it: the topic's contract, of which little must be said.

    Attributes:
        id: unique for ever; to ask again after an error, send the same. Absent: a fresh one, which
            the answer names.
        user: whose interaction it is. Absent: nobody else's.
        task: the task it belongs to. May be absent where the deployment has one task only.
        time: when it happened. Absent: now.
        text: what the user wrote. Either text or features must be present.
        features: named numbers or words, for task kinds that use them.
        label: the truth, when it is known already.
        consent: False means: predict, but never learn from it.
        context: anything else worth keeping beside it; not used for learning text tasks.
        version: of this contract.
    """

    id: Id | UnsetType = UNSET
    user: User | UnsetType = UNSET
    task: TaskName | UnsetType = UNSET
    time: Time | UnsetType = UNSET
    text: Text | None = None
    features: ScalarMap | None = None
    label: Label | None = None
    consent: bool = True
    context: ScalarMap | None = None
    version: Literal[1] = 1


class FeedbackBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Feedback as a caller sends it: the topic's contract, whose time may be absent.

    Attributes:
        interaction: id of the interaction, as its answer named it.
        kind: `label` and `correction` carry the truth; the first label counts, a correction
            replaces it. `rating`, `click` and `dismiss` are kept for the task kinds that learn
            from them.
        value: a label, a list of labels, or a number, as the kind asks.
        time: when the user gave it. Absent: now.
        version: of this contract.
    """

    interaction: Id
    kind: FeedbackKind
    time: Time | UnsetType = UNSET
    value: Label | float | bool | None = None
    version: Literal[1] = 1


class ManyInteractions(Struct, frozen=True, forbid_unknown_fields=True):
    """Several interactions in one request.

    Attributes:
        interactions: at least one; `http.max_rows` of the settings says how many at most.
    """

    interactions: list[InteractionBody]


class ManyFeedback(Struct, frozen=True, forbid_unknown_fields=True):
    """Several feedback messages in one request.

    Attributes:
        feedback: at least one; `http.max_rows` of the settings says how many at most.
    """

    feedback: list[FeedbackBody]


class Predictions(Struct, frozen=True, kw_only=True):
    """The answers to several interactions.

    Attributes:
        predictions: in the order of the request; null where an item has none.
        errors: why, for each null.
    """

    predictions: list[Prediction | None]
    errors: list[ItemError]


class Accepted(Struct, frozen=True, kw_only=True):
    """What of a request is in Kafka now.

    Attributes:
        accepted: how many items.
        ids: of the interactions that the items are, or are about, in the order of the request;
            null where an item was not taken.
        errors: why, for each null.
    """

    accepted: int
    ids: list[str | None]
    errors: list[ItemError]


@dataclass(frozen=True, slots=True)
class Rules:
    """What an item must satisfy beyond its contract: ingest's rules, known at the door.

    Attributes:
        kinds: the kind of each task of this deployment.
        limits: of a message.
        fresh_id: gives an id that nobody has.
        now: the wall clock.
    """

    kinds: Mapping[str, TaskKind]
    limits: Limits
    fresh_id: Callable[[], str]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


def split(data: bytes, *, many: str, max_rows: int) -> tuple[list[bytes], bool]:
    """Split a body into its items, unread.

    Args:
        data: one item, or an object whose only field is a list of them.
        many: name of that field.
        max_rows: items, at most.

    Returns:
        The items' bytes, at least one, and whether a list was sent.

    Raises:
        DecodeError: the list is no list, empty, or has something beside it.
        TooManyError: there are more than that.
    """
    try:
        fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return [data], False  # its own reading says what is wrong
    if many not in fields:
        return [data], False
    if len(fields) > 1:
        other = next(name for name in fields if name != many)
        raise DecodeError(f"message: {many!r} must be alone, and {other[:60]!r} is beside it")
    try:
        items = msgspec.json.decode(fields[many], type=list[msgspec.Raw])
    except msgspec.DecodeError:
        raise DecodeError(f"{many}: a list was expected") from None
    if not items:
        raise DecodeError(f"{many}: the list is empty")
    if len(items) > max_rows:
        raise TooManyError(f"{many}: {len(items):,} items, at most {max_rows:,} are taken at once")
    return [bytes(item) for item in items], True


class TooManyError(Exception):
    """Raised when a request has more items than are taken at once."""


def read_interaction(data: bytes, rules: Rules) -> Interaction:
    """Read one item, fill in what was not said, and check it as ingest would.

    A `MessageError` says why it cannot be used.
    """
    body = codec.decode(InteractionBody, data)
    id_ = rules.fresh_id() if body.id is UNSET else body.id
    task, kind = _task(body.task, rules)
    message = Interaction(
        id=id_,
        user=id_ if body.user is UNSET else body.user,
        task=task,
        time=rules.now() if body.time is UNSET else body.time,
        text=body.text,
        features=body.features,
        label=body.label,
        consent=body.consent,
        context=body.context,
    )
    kind.input_text(message.text, message.features)
    if message.label is not None:
        kind.check_label(message.label)
    return _checked(message, rules)


def read_feedback(data: bytes, rules: Rules) -> Feedback:
    """Read one item, fill in what was not said, and check it as ingest would.

    A `MessageError` says why it cannot be used.
    """
    body = codec.decode(FeedbackBody, data)
    message = Feedback(
        interaction=body.interaction,
        kind=body.kind,
        time=rules.now() if body.time is UNSET else body.time,
        value=body.value,
    )
    if message.kind in ("label", "correction"):
        _check_label(message.value, rules)
    return _checked(message, rules)


def _task(name: str | UnsetType, rules: Rules) -> tuple[str, TaskKind]:
    """Find the task.

    Raises:
        MessageError: there is none of that name, or no name.
    """
    known = ", ".join(sorted(rules.kinds))
    if name is UNSET:
        if len(rules.kinds) > 1:
            raise MessageError(f"task: absent, and this deployment has several ({known})")
        return next(iter(rules.kinds.items()))
    kind = rules.kinds.get(name)
    if kind is None:
        raise MessageError(f"task: {name!r} is not a task of this deployment ({known})")
    return name, kind


def _check_label(value: object, rules: Rules) -> None:
    """Refuse a value that is a label of no task: which task it is for is not known here.

    Raises:
        LabelError: with the reason of every kind of task.
    """
    reasons = []
    for kind in {kind.name: kind for kind in rules.kinds.values()}.values():
        try:
            kind.check_label(value)
        except LabelError as error:
            reasons.append(error.reason)
        else:
            return
    raise LabelError("; ".join(reasons))


def _checked(message: T, rules: Rules) -> T:
    """Check size and time of a message that is complete.

    Raises:
        MessageError: it is too large; too old, or too far in the future.
    """
    known: Any = message
    data = codec.encode(known)
    if len(data) > rules.limits.max_bytes:
        raise MessageError(
            f"too large: {len(data):,} bytes, at most {rules.limits.max_bytes:,} are taken"
        )
    check_time(
        known.time,
        now=rules.now(),
        max_age_s=rules.limits.max_age_s,
        max_ahead_s=rules.limits.max_ahead_s,
    )
    return message
