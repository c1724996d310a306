"""The `Feedback` contract: what became known later about an interaction."""

from __future__ import annotations

from typing import ClassVar, Literal

from msgspec import Struct

from schemas.fields import Id, Label, Time

FeedbackKind = Literal["label", "correction", "rating", "click", "dismiss"]


class Feedback(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Late knowledge about one interaction; it may come before or after it.

    Attributes:
        interaction: id of the interaction; the message key.
        kind: `label` and `correction` carry the truth; the first label counts, a correction
            replaces it. `rating`, `click` and `dismiss` are kept for the task kinds that learn
            from them.
        value: a label, a list of labels, or a number, as the kind asks.
        time: when the user gave it.
        version: of this contract.
    """

    ce_type: ClassVar[str] = "mindstream.feedback"
    identity: ClassVar[tuple[str, ...]] = ("interaction", "kind", "time")

    interaction: Id
    kind: FeedbackKind
    time: Time
    value: Label | float | bool | None = None
    version: Literal[1] = 1
