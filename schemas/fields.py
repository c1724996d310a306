r"""The bounded types that contracts are made of.

Owns the limits of every field; knows nothing of topics or transport. All limits are checked while
decoding, so a value that got past the codec holds them, and can be written again.

Patterns end in `$(?!\n)`: Python's `$` alone also matches before a last line break.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta

MAX_TEXT_CHARS = 20_000
MAX_LABEL_CHARS = 200
MAX_LABELS = 64
MAX_ID_CHARS = 128

Id = Annotated[
    str, Meta(min_length=1, max_length=MAX_ID_CHARS, description="Identifier, 1 to 128 characters.")
]
User = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_ID_CHARS,
        description="Who interacted; messages of one user keep their order.",
    ),
]
TaskName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$(?!\n)",
        description="Name of a task in the settings: lower case, digits, - and _.",
    ),
]
Text = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_TEXT_CHARS,
        description="What the user wrote, at most 20,000 characters.",
    ),
]
LabelText = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_LABEL_CHARS,
        description="A label in words, at most 200 characters.",
    ),
]
LabelList = Annotated[
    tuple[LabelText, ...],
    Meta(max_length=MAX_LABELS, description="Labels of a multilabel task; may be empty."),
]
Label = LabelText | LabelList
Time = Annotated[datetime, Meta(tz=True, description="RFC 3339 time with an offset.")]
# What a signed 64-bit integer holds; larger ones can be read but not written.
Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Scalar = Annotated[str, Meta(max_length=MAX_TEXT_CHARS)] | Integer | float | bool | None
ScalarMap = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=64)], Scalar],
    Meta(max_length=64, description="Flat names and values; at most 64."),
]
Unit = Annotated[float, Meta(ge=0.0, le=1.0)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Sha256 = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)", description="SHA-256 of the bytes, in hexadecimal.")
]
