"""One full message of every contract: what golden files and checks are made of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from schemas import (
    Alert,
    Blob,
    DeadLetter,
    DriftSignal,
    Example,
    Feedback,
    GateFigures,
    GateReport,
    Interaction,
    ModelRelease,
    Prediction,
    Scored,
)

GOLDEN = Path(__file__).parent / "golden"
TIME = datetime(2026, 5, 1, 12, 0, 0, 250_000, tzinfo=UTC)
EAST = datetime(2026, 5, 1, 17, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))

# File name without .json: contract, version, and what is special about it.
SAMPLES: dict[str, Any] = {
    "interaction.v1": Interaction(
        id="i-1",
        user="u-7",
        task="intents",
        time=TIME,
        text='Where is "my" card?\n\u00dcber \u6f22\u5b57 \U0001f642 \u2028',
        features={"channel": "chat", "age_days": 12, "score": 0.5, "vip": True, "note": None},
        label="card arrival",
        consent=False,
        context={"page": "/help"},
    ),
    "interaction-least.v1": Interaction(id="i-2", user="u", task="slots", time=EAST, text="x"),
    "interaction-labels.v1": Interaction(
        id="i-3", user="u", task="slots", time=TIME, text="x", label=("a", "b")
    ),
    "feedback.v1": Feedback(interaction="i-1", kind="label", time=TIME, value="card arrival"),
    "feedback-labels.v1": Feedback(interaction="i-3", kind="correction", time=TIME, value=()),
    "feedback-rating.v1": Feedback(interaction="i-1", kind="rating", time=TIME, value=4.5),
    "feedback-click.v1": Feedback(interaction="i-1", kind="click", time=TIME, value=True),
    "example.v1": Example(
        id="i-1",
        user="u-7",
        task="intents",
        time=TIME,
        labelled_at=TIME + timedelta(seconds=20),
        label="card lost",
        text="Where is my card?",
        features={"channel": "chat"},
        context={"page": "/help"},
        revision=2,
        previous="card arrival",
    ),
    "prediction.v1": Prediction(
        unknown=0.125,
        interaction="i-1",
        task="intents",
        time=TIME,
        status="ok",
        label="card arrival",
        score=0.75,
        top=(Scored(label="card arrival", score=0.75), Scored(label="card lost", score=0.25)),
        release="000012-0a1b2c3d",
        release_age_s=3.5,
        latency_s=0.012,
    ),
    "prediction-no-release.v1": Prediction(
        interaction="i-2", task="intents", time=TIME, status="no-release"
    ),
    "model-release.v1": ModelRelease(
        task="intents",
        version="000012-0a1b2c3d",
        time=TIME,
        kind="classify",
        strategy="two-speed",
        backbone="all-MiniLM-L6-v2",
        blobs={"head": Blob(sha256="0a" * 32, size=1024)},
        positions={"mindstream.examples/0": 4096},
        learned=4000,
        labels=77,
        gate=GateReport(
            accepted=True,
            reason="0.92 against 0.91 on 400 held-out rows",
            rows=400,
            challenger=0.92,
            champion=0.91,
            worst_label="card lost",
            worst_loss=0.05,
            oldest=GateFigures(rows=100, challenger=0.95, champion=0.96),
            newest=GateFigures(rows=100, challenger=0.89, champion=0.85),
            calibration=GateFigures(rows=400, challenger=0.03, champion=0.04),
            left_out=12,
            best="000009-11ee22dd",
            best_score=0.93,
        ),
        parent="000011-00ff00ff",
        rolled_back_from="000013-abcdef01",
    ),
    "model-release-first.v1": ModelRelease(
        task="slots",
        version="000001-00ff00ff",
        time=TIME,
        kind="multilabel",
        strategy="er",
        backbone="all-MiniLM-L6-v2",
        blobs={},
        positions={},
        learned=3,
        labels=2,
        gate=GateReport(accepted=True, reason="first release", rows=0, challenger=0.0),
    ),
    "drift-signal.v1": DriftSignal(
        task="intents",
        time=TIME,
        signal="error",
        detector="adwin",
        level="drift",
        statistic=0.25,
        rows=2000,
        release="000012-0a1b2c3d",
    ),
    "alert.v1": Alert(
        task="intents",
        time=TIME,
        rule="release-age",
        value=900.5,
        window_s=300.0,
        severity="warning",
    ),
    "dead-letter.v1": DeadLetter(
        data=b"\x00\xff{not json",
        key=b"\xfe",
        reason="not UTF-8: byte 0xff at position 1 (invalid start byte)",
        topic="mindstream.interactions",
        partition=3,
        offset=123456,
        time=TIME,
        attempt=2,
    ),
    "dead-letter-shortened.v1": DeadLetter(
        data=b"the beginning",
        key=b"u-7",
        reason="too large; too long for a dead letter: 13 of 20,000,000 bytes are kept",
        topic="mindstream.interactions",
        partition=3,
        offset=123457,
        time=TIME,
        size=20_000_000,
        sha256="0a" * 32,
    ),
}
