"""The end of a demo: every event accounted for, as a table and as one JSON object.

Owns the figures' arithmetic and words; must not know where they were counted.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from mindstream.demo.exam import ExamResult
from mindstream.demo.staleness import percentile
from mindstream.demo.tally import Moment


@dataclass(frozen=True, slots=True)
class WaveFigures:
    """One wave.

    Attributes:
        prequential: accuracy of what was served in it, 0 to 1.
        final: accuracy of the final release on its exam rows.
        best: best accuracy on them at any wave end.
    """

    name: str
    interactions: int
    prequential: float | None
    final: float | None
    best: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """All figures of one demo; the fields are the JSON object's.

    Attributes:
        interactions: sent, repeats and malformed ones too, by the producer's count.
        predictions: answers in all.
        no_release: first answers that said that there was no release yet.
        unanswered: interactions without any answer.
        joined: and the next five: what became of the interactions, by the join's counters.
        unaccounted: sent less all of these.
        duplicates: examples given twice, answers too many.
        feedback: sent.
        feedback_unaccounted: sent less what the join and dead letters know.
        examples: labelled examples, corrections too.
        rejected: candidates that the gate refused.
        prequential_accuracy: of the first answer to each interaction, those without a release left
            out.
        final_accuracy: of the final release on the exam.
        staleness_p50_s: from a label to the first answer of a release that learned it, seconds.
        events_per_s: interactions a second of streaming.
        seconds: from the first message to the last effect.
    """

    task: str
    kind: str
    strategy: str
    seed: int
    interactions: int
    predictions: int
    no_release: int
    unanswered: int
    joined: int
    waiting: int
    expired: int
    refused: int
    dead: int
    repeated: int
    unaccounted: int
    duplicates: int
    feedback: int
    feedback_unaccounted: int
    examples: int
    releases: int
    rejected: int
    drift_signals: int
    drift_warnings: int
    prequential_accuracy: float | None
    final_accuracy: float | None
    exam_rows: int
    forgetting: float | None
    staleness_p50_s: float | None
    staleness_p95_s: float | None
    events_per_s: float
    seconds: float
    waves: tuple[WaveFigures, ...]

    @property
    def holds(self) -> bool:
        """Whether every event is accounted for, once."""
        return not (
            self.unaccounted or self.duplicates or self.unanswered or self.feedback_unaccounted
        )

    def as_json(self) -> str:
        """Give the JSON object, on one line."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Run:
    """What was run.

    Attributes:
        seconds: streaming, from the first message to the last effect.
    """

    task: str
    kind: str
    strategy: str
    seed: int
    seconds: float


def summarize(
    run: Run, moment: Moment, *, staleness_s: list[float], exam: ExamResult | None
) -> Summary:
    """Put the figures together.

    Args:
        run: what was run.
        moment: the state at the end.
        staleness_s: of every example that was served from, seconds.
        exam: None when there was no release to ask.
    """
    levels = [signal.level for signal in moment.drift]
    fates = moment.fates
    return Summary(
        task=run.task,
        kind=run.kind,
        strategy=run.strategy,
        seed=run.seed,
        interactions=moment.sent,
        predictions=moment.answers,
        no_release=moment.silent,
        unanswered=moment.expected - moment.answered,
        joined=fates.get("joined", 0),
        waiting=fates.get("waiting", 0),
        expired=fates.get("expired", 0),
        refused=fates.get("refused", 0),
        dead=fates.get("dead", 0),
        repeated=fates.get("repeated", 0),
        unaccounted=moment.unaccounted,
        duplicates=moment.duplicates,
        feedback=moment.feedback_sent,
        feedback_unaccounted=moment.feedback_sent - moment.feedback_accounted,
        examples=moment.examples,
        releases=len(moment.releases),
        rejected=moment.rejected,
        drift_signals=levels.count("drift"),
        drift_warnings=levels.count("warning"),
        prequential_accuracy=_rounded(moment.accuracy),
        final_accuracy=_rounded(exam.accuracy if exam else None),
        exam_rows=exam.rows if exam else 0,
        forgetting=_rounded(exam.forgetting if exam else None),
        staleness_p50_s=_rounded(percentile(staleness_s, 0.50), 3),
        staleness_p95_s=_rounded(percentile(staleness_s, 0.95), 3),
        events_per_s=round(moment.sent / run.seconds, 2) if run.seconds > 0 else 0.0,
        seconds=round(run.seconds, 2),
        waves=tuple(
            WaveFigures(
                name=wave.name,
                interactions=wave.sent,
                prequential=_rounded(wave.accuracy),
                final=_rounded(exam.final[number] if exam else None),
                best=_rounded(exam.best[number] if exam else None),
            )
            for number, wave in enumerate(moment.waves)
        ),
    )


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)


def render_summary(summary: Summary) -> RenderableType:
    """Draw the tables."""
    return Group(_accounts(summary), _quality(summary), _waves(summary), _verdict(summary))


def print_summary(summary: Summary, console: Console) -> None:
    """Print the tables."""
    console.print(render_summary(summary))


def _accounts(summary: Summary) -> Table:
    table = Table(title="Every event accounted for", title_justify="left", expand=False)
    table.add_column("what became of it", no_wrap=True)
    table.add_column("interactions", justify="right", no_wrap=True)
    table.add_column("meaning", style="dim")
    rows = (
        ("joined", summary.joined, "got their label and became an example"),
        ("waiting", summary.waiting, "their label may still come"),
        ("expired", summary.expired, "waited too long for a label"),
        ("refused", summary.refused, "no consent: answered, never learned"),
        ("dead", summary.dead, "could not be used: in dead letters, with the reason"),
        ("repeated", summary.repeated, "an id that was known already"),
    )
    for name, count, meaning in rows:
        table.add_row(name, f"{count:,}", meaning)
    table.add_section()
    table.add_row("sent", f"{summary.interactions:,}", "counted by the producer")
    style = "bold red" if summary.unaccounted else "bold green"
    table.add_row("unaccounted", Text(f"{summary.unaccounted:,}", style), "sent less all above")
    style = "bold red" if summary.duplicates else "bold green"
    table.add_row("duplicates", Text(f"{summary.duplicates:,}", style), "effects that came twice")
    return table


def _quality(summary: Summary) -> Table:
    table = Table(title="What it learned", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    rows = (
        ("predictions", f"{summary.predictions:,}", f"{summary.no_release:,} before a release"),
        ("accuracy as served", _share(summary.prequential_accuracy), "first answer to each"),
        ("final accuracy", _share(summary.final_accuracy), f"{summary.exam_rows:,} exam rows"),
        ("forgetting", _share(summary.forgetting), "best at a wave's end, less final"),
        ("releases", f"{summary.releases:,}", f"{summary.rejected:,} candidates refused"),
        ("drift signals", f"{summary.drift_signals:,}", f"{summary.drift_warnings:,} warnings"),
        (
            "label to serving",
            f"{_seconds(summary.staleness_p50_s)} / {_seconds(summary.staleness_p95_s)}",
            "half of all labels / 95 % of them",
        ),
        (
            "throughput",
            f"{summary.events_per_s:,.1f} events/s",
            f"{summary.seconds:,.1f} s of streaming",
        ),
    )
    for row in rows:
        table.add_row(*row)
    return table


def _waves(summary: Summary) -> Table:
    table = Table(title="By wave", title_justify="left")
    table.add_column("wave")
    for name in ("interactions", "as served", "best in exam", "final exam"):
        table.add_column(name, justify="right")
    for wave in summary.waves:
        table.add_row(
            wave.name,
            f"{wave.interactions:,}",
            _share(wave.prequential),
            _share(wave.best),
            _share(wave.final),
        )
    return table


def _verdict(summary: Summary) -> Text:
    if summary.holds:
        return Text("Nothing was lost, nothing was counted twice.", "bold green")
    return Text(
        f"Not everything is accounted for: {summary.unaccounted} interactions and "
        f"{summary.feedback_unaccounted} feedback unaccounted, {summary.unanswered} unanswered, "
        f"{summary.duplicates} duplicates.",
        "bold red",
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
