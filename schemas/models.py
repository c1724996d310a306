"""The `ModelRelease` contract: one immutable release of one task, named by what is in it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from schemas.fields import Count, Sha256, TaskName, Time, Unit


class Blob(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A content-addressed file of a release."""

    sha256: Sha256
    size: Count


class GateFigures(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A figure of both sides of the gate.

    Attributes:
        rows: held-out rows behind it.
        challenger: of the candidate, 0 to 1.
        champion: of the release it replaces, 0 to 1; absent for a first release.
    """

    rows: Count
    challenger: Unit
    champion: Unit | None = None


class GateReport(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Why a candidate became a release, or did not.

    Attributes:
        accepted: the decision.
        reason: one sentence with the figure that decided.
        rows: held-out rows it was decided on.
        challenger: score of the candidate on them, 0 to 1.
        champion: score of the release it replaces, 0 to 1; absent for a first release.
        worst_label: the label that lost most, with its loss.
        worst_loss: how much that label lost, 0 to 1.
        oldest: scores on the rows that came first; absent when they are too few to be judged.
        newest: scores on the rows that came last, likewise.
        calibration: expected calibration errors, likewise; less is better.
        left_out: held-out rows of labels whose meaning changed since the champion was made.
        best: version of the best release so far; absent where that is the candidate itself.
        best_score: score of that release on the rows it was judged on, 0 to 1.
    """

    accepted: bool
    reason: str
    rows: Count
    challenger: Unit
    champion: Unit | None = None
    worst_label: str | None = None
    worst_loss: Unit | None = None
    oldest: GateFigures | None = None
    newest: GateFigures | None = None
    calibration: GateFigures | None = None
    left_out: Count = 0
    best: str | None = None
    best_score: Unit | None = None


class ModelRelease(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """The manifest of a release; the newest one of a task is what should serve.

    Attributes:
        version: `NNNNNN-xxxxxxxx`: a count within the task, and the start of the hash over the
            blobs.
        parent: version it replaces.
        kind: task kind, such as `classify`.
        strategy: name of the learning strategy.
        backbone: name of the encoder it started from.
        blobs: name to content: `encoder`, `encoder_config`, `tokenizer`, `projection`, `head`.
        positions: `topic/partition` to next offset: everything before it has been learned.
        learned: examples learned in all.
        labels: how many labels it knows.
        gate: the gate's decision and figures.
        rolled_back_from: set when an operator made an old release serve again.
    """

    ce_type: ClassVar[str] = "mindstream.model"
    identity: ClassVar[tuple[str, ...]] = ("task", "version", "time")

    task: TaskName
    version: Annotated[str, Meta(pattern=r"^[0-9]{6,}-[0-9a-f]{8}$(?!\n)")]
    time: Time
    kind: str
    strategy: str
    backbone: str
    blobs: dict[str, Blob]
    positions: dict[str, Count]
    learned: Count
    labels: Count
    gate: GateReport
    parent: str | None = None
    rolled_back_from: str | None = None
    contract: Literal[1] = 1
