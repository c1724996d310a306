"""The `DeadLetter` contract: whatever could not be used, complete, with the reason."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from schemas.fields import Count, Time


class DeadLetter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A message that could not be used.

    Attributes:
        data: the original value, every byte (base64 on the wire).
        key: the original key, every byte (base64 on the wire).
        reason: one sentence for a person: the field, the value and the rule.
        topic: where it came from.
        partition: where it came from.
        offset: where it came from.
        attempt: how often it was tried, 1 for a message that can never work.
    """

    ce_type: ClassVar[str] = "mindstream.dead-letter"
    identity: ClassVar[tuple[str, ...]] = ("topic", "partition", "offset")

    data: bytes
    reason: Annotated[str, Meta(min_length=1)]
    topic: str
    partition: Count
    offset: Count
    time: Time
    key: bytes | None = None
    attempt: Annotated[int, Meta(ge=1)] = 1
    version: Literal[1] = 1
