"""The `Prediction` contract: what was served for an interaction, and by which release."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from schemas.fields import Id, Label, LabelText, TaskName, Time, Unit

PredictionStatus = Literal["ok", "no-release"]


class Scored(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One label with its probability."""

    label: LabelText
    score: Unit


class Prediction(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The answer to one interaction. Every answer comes from exactly one release.

    Attributes:
        interaction: id of the interaction; the message key.
        time: when the answer was made.
        status: `no-release` before the first release of the task: an answer that says so, not
            silence.
        label: what is predicted; a list for multilabel tasks.
        score: probability of the label (of all its labels, for multilabel).
        top: the most probable labels, best first.
        unknown: share of known inputs that looked more known, 0 to 1; from 0.95 on, five in a
            hundred known inputs look like it.
        release: version of the release that answered.
        release_age_s: seconds since that release was made.
        latency_s: seconds from the interaction's arrival at the server to its answer.
    """

    ce_type: ClassVar[str] = "mindstream.prediction"
    identity: ClassVar[tuple[str, ...]] = ("interaction",)

    interaction: Id
    task: TaskName
    time: Time
    status: PredictionStatus
    label: Label | None = None
    score: Unit | None = None
    top: Annotated[tuple[Scored, ...], Meta(max_length=16)] = ()
    unknown: Unit | None = None
    release: str | None = None
    release_age_s: Annotated[float, Meta(ge=0.0)] | None = None
    latency_s: Annotated[float, Meta(ge=0.0)] | None = None
    version: Literal[1] = 1
