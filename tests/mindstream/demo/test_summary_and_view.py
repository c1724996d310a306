"""The end's arithmetic, and that every state can be drawn at any width."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from mindstream.demo.exam import ExamResult
from mindstream.demo.producer import Pace
from mindstream.demo.summary import Run, Summary, print_summary, summarize
from mindstream.demo.tally import Moment, WaveScore
from mindstream.demo.view import Frame, History, curve, progress_line, render
from mindstream.supervisor import RoleState
from schemas import DriftSignal
from tests.mindstream.demo.test_tally import START, release

KEYS = {
    "interactions",
    "predictions",
    "joined",
    "waiting",
    "expired",
    "refused",
    "dead",
    "unaccounted",
    "duplicates",
    "releases",
    "rejected",
    "drift_signals",
    "prequential_accuracy",
    "final_accuracy",
    "forgetting",
    "staleness_p50_s",
    "staleness_p95_s",
    "events_per_s",
    "seconds",
    "repeated",
    "seed",
    "strategy",
    "task",
    "waves",
}


def moment(**changes: object) -> Moment:
    signal = DriftSignal(
        task="t",
        time=START,
        signal="error",
        detector="adwin",
        level="drift",
        statistic=0.21,
        rows=900,
    )
    warning = DriftSignal(
        task="t",
        time=START,
        signal="confidence",
        detector="page-hinkley",
        level="warning",
        statistic=0.4,
        rows=950,
    )
    full = Moment(
        sent=100,
        feedback_sent=60,
        fates={
            "interactions": 97,
            "joined": 90,
            "waiting": 2,
            "expired": 1,
            "refused": 1,
            "dead": 3,
            "repeated": 3,
        },
        feedback_fates={"feedback": 58, "feedback_joined": 58},
        dead_feedback=2,
        answered=94,
        answers=97,
        expected=94,
        silent=4,
        duplicates=0,
        examples=91,
        to_learn=86,
        learned=86,
        accuracy=0.75,
        recent=0.9,
        waves=(WaveScore("orders", 50, 45, 4, 30.0), WaveScore("money", 44, 44, 0, 40.0)),
        releases=tuple(release(n, {}) for n in range(1, 9)),
        drift=(signal, warning),
        rejected=2,
        memory=(86, 5, 12_345),
    )
    return replace(full, **changes)  # type: ignore[arg-type]


EMPTY = moment(
    sent=0,
    fates={},
    feedback_fates={},
    feedback_sent=0,
    dead_feedback=0,
    answered=0,
    answers=0,
    expected=0,
    accuracy=None,
    recent=None,
    waves=(WaveScore("orders"),),
    releases=(),
    drift=(),
    memory=(0, 0, 0),
)
EXAM = ExamResult(
    accuracy=0.87654321, forgetting=0.0123456, final=(0.8, None), best=(0.82, None), rows=60
)
RUN = Run(task="t", kind="classify", strategy="two-speed", seed=7, seconds=20.0)


def summary(state: Moment, exam: ExamResult | None = EXAM) -> Summary:
    return summarize(RUN, state, staleness_s=[float(n) for n in range(100)], exam=exam)


def test_the_json_object_has_every_figure_and_they_add_up() -> None:
    found = json.loads(summary(moment()).as_json())
    assert set(found) >= KEYS
    assert found["interactions"] == 100
    fates = ("joined", "waiting", "expired", "refused", "dead", "repeated")
    assert sum(found[name] for name in fates) + found["unaccounted"] == 100
    assert found["unaccounted"] == found["duplicates"] == found["feedback_unaccounted"] == 0
    assert (found["releases"], found["rejected"]) == (8, 2)
    assert (found["drift_signals"], found["drift_warnings"]) == (1, 1)
    assert (found["prequential_accuracy"], found["final_accuracy"]) == (0.75, 0.8765)
    assert (found["staleness_p50_s"], found["staleness_p95_s"]) == (50.0, 95.0)
    assert (found["events_per_s"], found["seconds"]) == (5.0, 20.0)
    assert [wave["final"] for wave in found["waves"]] == [0.8, None]
    assert "\n" not in summary(moment()).as_json()


@pytest.mark.parametrize(
    "changes",
    [
        {"sent": 101},
        {"sent": 99},
        {"duplicates": 1},
        {"answered": 93},
        {"dead_feedback": 1},
    ],
)
def test_it_holds_only_when_everything_is_accounted_for_once(changes: dict[str, int]) -> None:
    assert summary(moment()).holds
    assert not summary(moment(**changes)).holds


@pytest.mark.parametrize("width", [40, 100, 240])
@pytest.mark.parametrize("exam", [EXAM, None])
def test_the_summary_is_printed_at_any_width(width: int, exam: ExamResult | None) -> None:
    for state in (moment(), moment(duplicates=3), EMPTY):
        console = Console(record=True, width=width, force_terminal=True, file=io.StringIO())
        end = (
            exam if exam is None or state is not EMPTY else replace(exam, final=(0.1,), best=(0.1,))
        )
        print_summary(summary(state, end), console)
        text = console.export_text()
        assert "unaccounted" in text
        assert ("Nothing was lost" in text) == (state.duplicates == 0)


def frame(state: Moment) -> Frame:
    return Frame(
        title="a support desk",
        phase="streaming",
        share=0.4,
        elapsed_s=31.0,
        rate=46.2,
        moment=state,
        staleness=(1.25, 3.5),
        roles=[RoleState("ingest", 1, True, 0, 9.0), RoleState("serve", None, False, 2, 0.0)],
        history=(0.1, 0.5, 0.9),
        notes=("something happened " * 20,),
    )


@pytest.mark.parametrize("width", [40, 80, 100, 200])
@pytest.mark.parametrize("state", [moment(), EMPTY], ids=["full", "empty"])
def test_a_frame_is_drawn_at_any_width(width: int, state: Moment) -> None:
    console = Console(record=True, width=width, force_terminal=True, file=io.StringIO())
    console.print(render(frame(state)))
    lines = console.export_text().splitlines()
    assert max(len(line) for line in lines) <= width
    assert any("accuracy" in line for line in lines)


def test_a_full_frame_fits_100_by_30_and_shows_what_matters() -> None:
    console = Console(record=True, width=100, force_terminal=True, file=io.StringIO())
    waves = tuple(WaveScore(f"wave {n}", 50, 45, 4, 30.0) for n in range(10))
    console.print(render(frame(moment(waves=waves))))
    text = console.export_text()
    assert len(text.splitlines()) <= 30
    for word in ("joined", "75.0 %", "000008-00000000", "adwin", "serve", "0.01 MB", "1.2 s"):
        assert word in text


def test_a_line_says_the_phase_the_counts_and_the_release() -> None:
    line = progress_line(frame(moment()))
    for word in ("streaming", "100 sent (40 %)", "46/s", "75.0 %", "000008-00000000", "2 refused"):
        assert word in line
    assert progress_line(frame(EMPTY)) == "streaming"


def test_the_accuracy_curve_keeps_its_span_in_a_bounded_number_of_points() -> None:
    history = History(points=8)
    for number in range(1_000):
        history.add(number / 1_000)
        history.add(None)
    assert len(history.values) <= 8
    assert history.values[0] < 0.05
    assert history.values[-1] > 0.7
    assert list(history.values) == sorted(history.values)
    assert len(curve(history.values)) == len(history.values)


def test_the_pace_holds_back_at_the_window_of_messages_and_of_bytes() -> None:
    pace = Pace(window=100, window_bytes=10_000)
    assert pace.allows(unread=99, mean_bytes=100.0)
    assert not pace.allows(unread=100, mean_bytes=10.0)
    assert not pace.allows(unread=50, mean_bytes=1_000.0)
    assert pace.allows(unread=0, mean_bytes=0.0)
