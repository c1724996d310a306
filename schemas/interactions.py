"""The `Interaction` contract: what a user did, as a producer sends it."""

from __future__ import annotations

from typing import ClassVar, Literal

from msgspec import Struct

from schemas.fields import Id, Label, ScalarMap, TaskName, Text, Time, User


class Interaction(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One user interaction that a task predicts on and may learn from.

    Attributes:
        id: unique for ever; a second interaction with the same id is dropped, and counted as
            repeated.
        user: whose interaction it is; the message key.
        task: the task it belongs to, one of those in the settings.
        time: when it happened, not when it was sent.
        text: what the user wrote. Either text or features must be present.
        features: named numbers or words, for task kinds that use them.
        label: the truth, when it is known already.
        consent: False means: predict, but never learn from it.
        context: anything else worth keeping beside it; not used for learning text tasks.
        version: of this contract.
    """

    ce_type: ClassVar[str] = "mindstream.interaction"
    identity: ClassVar[tuple[str, ...]] = ("id",)

    id: Id
    user: User
    task: TaskName
    time: Time
    text: Text | None = None
    features: ScalarMap | None = None
    label: Label | None = None
    consent: bool = True
    context: ScalarMap | None = None
    version: Literal[1] = 1
