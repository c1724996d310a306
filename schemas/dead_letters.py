"""The `DeadLetter` contract: what could not be used, complete where it fits, and why."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from schemas.fields import Count, Time


class DeadLetter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A message that could not be used.

    Attributes:
        data: the original value, every byte (base64 on the wire); where `size` is given, only its
            beginning.
        key: the original key (base64 on the wire), as `data`.
        reason: one sentence for a person: the field, the value and the rule.
        topic: where it came from.
        partition: where it came from.
        offset: where it came from.
        attempt: how often it was tried, 1 for a message that can never work.
        size: bytes of the original value, where not all of them are here.
        sha256: of the original value, where not all of it is here.
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
    size: Count | None = None
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")] | None = None
    version: Literal[1] = 1
