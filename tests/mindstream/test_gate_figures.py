"""What the gate found, as metrics and as a log line."""

from __future__ import annotations

import logging

import pytest
from prometheus_client import CollectorRegistry

from learners.releasing import Verdict
from mindstream.learning import LearnMetrics
from schemas import GateReport
from serving.metrics import Metrics
from tests.samples import SAMPLES

REPORT: GateReport = SAMPLES["model-release.v1"].gate
FIRST: GateReport = SAMPLES["model-release-first.v1"].gate


def lines(metrics: Metrics) -> list[str]:
    """List what is exposed of the gate's figures."""
    found = metrics.text().decode().splitlines()
    return [
        line.removeprefix("mindstream_")
        for line in found
        if line.startswith("mindstream_gate_") and "_created" not in line
    ]


def test_every_figure_is_shown_and_said(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics(CollectorRegistry())
    release = SAMPLES["model-release.v1"]
    with caplog.at_level(logging.INFO, "mindstream"):
        LearnMetrics(metrics, {}).judged("intents", Verdict(REPORT, release))
    assert lines(metrics) == [
        'gate_decisions_total{decision="accepted",task="intents"} 1.0',
        'gate_score{model="challenger",task="intents"} 0.92',
        'gate_score{model="champion",task="intents"} 0.91',
        'gate_score{model="best",task="intents"} 0.93',
        'gate_slice_score{model="challenger",slice="oldest",task="intents"} 0.95',
        'gate_slice_score{model="champion",slice="oldest",task="intents"} 0.96',
        'gate_slice_score{model="challenger",slice="newest",task="intents"} 0.89',
        'gate_slice_score{model="champion",slice="newest",task="intents"} 0.85',
        'gate_calibration_error{model="challenger",task="intents"} 0.03',
        'gate_calibration_error{model="champion",task="intents"} 0.04',
    ]
    assert caplog.messages == [
        "intents: released 000012-0a1b2c3d: 0.92 against 0.91 on 400 held-out rows; "
        "oldest 0.950 after 0.960; newest 0.890 after 0.850; calibration error 0.030 after 0.040; "
        "the best so far has 0.930; 12 rows of changed labels left out"
    ]


def test_what_there_are_no_rows_for_is_neither_shown_nor_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = Metrics(CollectorRegistry())
    with caplog.at_level(logging.INFO, "mindstream"):
        LearnMetrics(metrics, {}).judged("slots", Verdict(FIRST, None))
    assert lines(metrics)[1:] == [
        'gate_score{model="challenger",task="slots"} 0.0',
        'gate_score{model="best",task="slots"} 0.0',
    ]
    assert caplog.messages == ["slots: candidate refused: first release"]
