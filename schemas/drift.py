"""The `DriftSignal` and `Alert` contracts: what watching found."""

from __future__ import annotations

from typing import ClassVar, Literal

from msgspec import Struct

from schemas.fields import Count, TaskName, Time


class DriftSignal(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A detector fired on a signal of one task.

    Attributes:
        signal: what was watched: `error` (0 or 1 per joined prediction) or `confidence` (0 to 1).
        detector: name of the detector, such as `adwin`.
        level: `warning` or `drift`.
        statistic: the detector's own figure when it fired.
        rows: observations the detector had seen.
        release: version that was serving.
    """

    ce_type: ClassVar[str] = "mindstream.drift"
    identity: ClassVar[tuple[str, ...]] = ("task", "signal", "detector", "time")

    task: TaskName
    time: Time
    signal: Literal["error", "confidence", "labels", "embedding"]
    detector: str
    level: Literal["warning", "drift"]
    statistic: float
    rows: Count
    release: str | None = None
    version: Literal[1] = 1


class Alert(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule was broken for longer than its window.

    Attributes:
        rule: name of the rule.
        value: the figure that broke it.
        window_s: length of the window, seconds.
    """

    ce_type: ClassVar[str] = "mindstream.alert"
    identity: ClassVar[tuple[str, ...]] = ("task", "rule", "time")

    task: TaskName
    time: Time
    rule: str
    value: float
    window_s: float
    severity: Literal["info", "warning", "critical"]
    version: Literal[1] = 1
