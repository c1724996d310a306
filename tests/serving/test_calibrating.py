"""An encoder is calibrated once, on texts that came, while it goes on answering."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from learners.engines import EngineOptions
from learners.registry import Registry
from learners.released import EncoderCache, ReleasedModel
from serving.calibrating import ENOUGH_TEXTS, FEWEST_TEXTS, PATIENCE_S, Calibrator
from tests.foundry import Foundry
from tests.small import small_encoder

pytest.importorskip("openvino", reason="OpenVINO calibrates, and is not installed")
pytest.importorskip("nncf", reason="nncf calibrates, and is not installed")


class Clock:
    """Time that a test moves."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def model(tmp_path: Path) -> ReleasedModel:
    """Load a release whose encoder is small, and may be calibrated."""
    registry, encoder = Registry(str(tmp_path / "store")), small_encoder()
    foundry = Foundry(registry, encoder, registry.put_blobs(encoder.blobs()), tmp_path / "store")
    encoders = EncoderCache(device="cpu", engines=EngineOptions())
    return ReleasedModel.load(foundry.release(), registry, encoders=encoders)


def texts(first: int, count: int) -> list[str]:
    """Make different texts."""
    words = ["card", "money", "parcel", "refund", "order", "late", "where", "please", "account"]
    return [
        " ".join(words[(number // 9**place) % 9] for place in range(4))
        for number in range(first, first + count)
    ]


def test_after_enough_texts_the_encoder_is_calibrated_once(
    model: ReleasedModel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asked: list[str] = []

    def labelled(task: str) -> list[tuple[str, str]]:
        asked.append(task)
        return [("where is my parcel", "delivery")]

    calibrator = Calibrator(labelled, monotonic_s=Clock())
    calibrator.saw(model, texts(0, ENOUGH_TEXTS - 1))
    calibrator.saw(model, texts(0, 10))  # the same again: nothing new
    assert model.encoder.wants_calibration
    assert not model.encoder.engine_settled
    calibrator.saw(model, texts(ENOUGH_TEXTS, 1))
    calibrator.wait(120)
    assert asked == ["intents"]
    assert model.encoder.engine_settled
    tried = {(c.engine, c.precision) for c in model.encoder.choice.candidates}
    assert ("openvino", "int8") in tried
    calibrator.saw(model, texts(0, 2 * ENOUGH_TEXTS))
    calibrator.wait(120)
    assert asked == ["intents"]
    assert sum("calibrating the encoder" in line for line in caplog.messages) == 1


def test_where_little_comes_fewer_texts_are_enough_in_the_end(model: ReleasedModel) -> None:
    clock = Clock()
    calibrator = Calibrator(lambda task: (), monotonic_s=clock)
    calibrator.saw(model, texts(0, FEWEST_TEXTS))
    assert model.encoder.wants_calibration
    clock.now_s = PATIENCE_S
    calibrator.saw(model, texts(0, 1))
    calibrator.wait(120)
    assert model.encoder.engine_settled


def test_without_labelled_texts_it_is_calibrated_all_the_same(
    model: ReleasedModel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    def away(task: str) -> list[tuple[str, str]]:
        raise ConnectionError(f"no {task} today")

    calibrator = Calibrator(away, monotonic_s=Clock())
    calibrator.saw(model, texts(0, ENOUGH_TEXTS))
    calibrator.wait(120)
    assert model.encoder.engine_settled
    assert "no labelled texts to judge an engine on: no intents today" in caplog.text


def test_an_encoder_that_is_as_it_was_told_to_be_is_left_alone(foundry: Foundry) -> None:
    encoders = EncoderCache(device="cpu", precision="fp32")
    given = ReleasedModel.load(foundry.release(), foundry.registry, encoders=encoders)
    calibrator = Calibrator(lambda task: pytest.fail("nobody asks"), monotonic_s=Clock())
    calibrator.saw(given, texts(0, ENOUGH_TEXTS))
    calibrator.wait(1)
    assert given.encoder.engine_settled
