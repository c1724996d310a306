"""The `Example` contract: a labelled, clean, unique training example, the log of truth."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from schemas.fields import Id, Label, ScalarMap, TaskName, Text, Time, User


class Example(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An interaction joined with its label.

    Attributes:
        id: the interaction's id. (id, revision) is unique in effect: a repeat is learned once.
        label: the truth as the task kind wrote it: text, or a sorted list of texts.
        time: when the interaction happened.
        labelled_at: when the label reached Kafka; staleness is counted from here.
        revision: 1 for the first label; a correction counts up.
        previous: the label that a correction replaces.
    """

    ce_type: ClassVar[str] = "mindstream.example"
    identity: ClassVar[tuple[str, ...]] = ("id", "revision")

    id: Id
    user: User
    task: TaskName
    time: Time
    labelled_at: Time
    label: Label
    text: Text | None = None
    features: ScalarMap | None = None
    context: ScalarMap | None = None
    revision: Annotated[int, Meta(ge=1, le=1_000)] = 1
    previous: Label | None = None
    version: Literal[1] = 1
