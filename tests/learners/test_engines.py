from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from learners.engines import EngineOptions, ort, vino
from learners.engines.base import (
    CALIBRATED,
    DATA_FREE,
    REFERENCE,
    STAND_INS,
    Candidate,
    Engine,
    EngineName,
    Pair,
    Shape,
    micro_batches,
)
from learners.engines.checks import Labelled, check, make_probes
from learners.engines.choosing import MIN_GAIN, fastest
from learners.engines.making import KEPT, PAIRS, KeptEngines, wanted
from learners.model import Encoder
from mindstream.sections import ENGINE_PRECISIONS
from schemas.errors import EncoderError
from tests.engines import (
    TEXTS,
    cosines,
    each_library,
    features,
    is_installed,
    maker_of,
    needs_openvino,
    stream_texts,
)
from tests.small import small_encoder

# One step of rounding a layer: an 8-bit small encoder of two layers stays this near.
NEAREST = {"fp32": 1 - 1e-5, "bf16": 0.9995, "int8-weights": 0.9990, "int8": 0.98}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return small_encoder()


@pytest.fixture(scope="module")
def engines(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Engine]:
    """Every engine that can be made here, the calibrated one included."""
    maker = maker_of(encoder)
    free = [pair for pair in DATA_FREE if is_installed(pair[0])]
    if ("openvino", "bf16") in free and "BF16" not in vino.capabilities():
        free.remove(("openvino", "bf16"))
    made = {" ".join(pair): maker.make(pair) for pair in free}
    tokens = encoder.tokenize(stream_texts(encoder, 80))
    for pair in CALIBRATED:
        if not is_installed(pair[0]):
            continue
        built = tmp_path_factory.mktemp("built")
        made[" ".join(pair)] = maker.calibrate(pair, tokens, folder=built)
    return made


@pytest.fixture
def run_engines(engines: dict[str, Engine]) -> Iterator[dict[str, Engine]]:
    with torch.inference_mode():
        yield engines


def test_every_engine_gives_the_features_of_torch_in_fp32(
    encoder: Encoder, run_engines: dict[str, Engine]
) -> None:
    texts = [*TEXTS, *stream_texts(encoder, 60)]
    tokens = encoder.tokenize(texts)
    exact = encoder.encode_tokens(tokens)
    for name, engine in run_engines.items():
        found = features(engine, tokens, encoder.width)
        assert found.dtype == np.float32
        assert cosines(found, exact).min() > NEAREST[engine.precision], name


def test_no_engine_lets_a_text_depend_on_its_neighbours(
    encoder: Encoder, run_engines: dict[str, Engine]
) -> None:
    tokens = encoder.tokenize([*TEXTS, *stream_texts(encoder, 20)])
    for name, engine in run_engines.items():
        together = features(engine, tokens, encoder.width)
        alone = np.concatenate([features(engine, [ids], encoder.width) for ids in tokens])
        assert cosines(together, alone).min() > 1 - 1e-3, name


def test_every_engine_computes_in_several_threads_at_once(
    encoder: Encoder, run_engines: dict[str, Engine]
) -> None:
    tokens = encoder.tokenize(stream_texts(encoder, 48))
    for name, engine in run_engines.items():
        expected = features(engine, tokens, encoder.width)
        start = threading.Barrier(4)

        def part(
            n: int, engine: Engine = engine, start: threading.Barrier = start
        ) -> NDArray[np.float32]:
            start.wait()
            return features(engine, tokens[n::4], encoder.width)

        with ThreadPoolExecutor(4) as pool:
            for n, found in enumerate(pool.map(part, range(4))):
                # Other neighbours, so not to the bit: see above.
                np.testing.assert_allclose(found, expected[n::4], atol=5e-3, err_msg=name)


@each_library
@pytest.mark.timeout(900)  # the process of low priority waits for whatever else is running
def test_texts_of_the_stream_bring_the_calibrated_engine_and_the_next_start_keeps_it(
    library: EngineName, tmp_path: Path
) -> None:
    pair: Pair = (library, "int8")
    encoder = small_encoder()
    exact = encoder.encode(TEXTS)
    options = EngineOptions(*pair, folder=tmp_path / "engines")

    # Given an encoder that has seen no text: its stand-in computes
    choice = encoder.choose_engine(options)
    assert (choice.engine, choice.precision) == STAND_INS[pair]
    assert encoder.wants_calibration

    # When texts have come, then others go on computing until the calibrated engine takes over
    space = encoder.space_id
    with ThreadPoolExecutor(1) as pool:
        calibrating = pool.submit(encoder.calibrate, stream_texts(encoder, 90))
        while wait([calibrating], timeout=0.1).not_done:
            assert cosines(encoder.encode(TEXTS), exact).min() > NEAREST["int8"]
        choice = calibrating.result()
    known = choice.of(pair)
    assert known is not None
    if known.rejected:  # a small encoder may lose too much; then its stand-in goes on
        assert (choice.engine, choice.precision) == STAND_INS[pair]
        return
    assert choice.precision == "int8"
    assert not encoder.wants_calibration
    assert encoder.space_id == space
    assert cosines(encoder.encode(TEXTS), exact).min() > NEAREST["int8"]
    assert encoder.precision == "fp32"  # what torch would need to come near

    # And the next start has it from the beginning, with what was found then
    again = small_encoder()
    kept = again.choose_engine(options)
    assert kept.precision == "int8"
    assert not again.wants_calibration
    assert kept.chosen is not None
    assert kept.chosen.cosine == known.cosine
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))

    # But not where the settings ask for another
    other = small_encoder().choose_engine(replace(options, precision="fp32"))
    assert (other.engine, other.precision) == (library, "fp32")


@needs_openvino
def test_a_damaged_kept_engine_is_made_again(tmp_path: Path, encoder: Encoder) -> None:
    kept = KeptEngines(tmp_path)
    assert kept.find(encoder.space_id) is None
    folder = tmp_path / encoder.space_id[:32]
    folder.mkdir()
    (folder / "about.json").write_text("{}")
    assert kept.find(encoder.space_id) is None
    (folder / "about.json").write_bytes(b"\xff")
    assert kept.find(encoder.space_id) is None


@each_library
def test_changed_weights_are_followed_at_once_by_torch(library: EngineName) -> None:
    encoder = small_encoder()
    encoder.choose_engine(EngineOptions(library, "fp32"))
    assert encoder.choice.engine == library
    before = encoder.encode(TEXTS)
    with torch.no_grad():
        for parameter in encoder.module.parameters():
            parameter.mul_(1.1)
    found = encoder.encode(TEXTS)
    assert np.abs(found - before).max() > 1e-3
    assert (encoder.choice.engine, encoder.choice.precision) == REFERENCE
    assert "weights changed" in str(encoder.choice)
    with torch.inference_mode():
        exact = features(maker_of(encoder).make(REFERENCE), encoder.tokenize(TEXTS), encoder.width)
    np.testing.assert_array_equal(found, exact)


def test_too_few_texts_calibrate_nothing(encoder: Encoder) -> None:
    with pytest.raises(EncoderError, match="3 different texts: calibration needs 64"):
        encoder.calibrate(["a", "a", "b", "card"])


def test_an_encoder_that_may_be_trained_wants_no_calibration() -> None:
    encoder = small_encoder()
    assert not encoder.wants_calibration
    assert str(encoder.calibrate(stream_texts(encoder, 70))) == "torch fp32 on cpu (given)"


def test_what_is_not_installed_is_said_and_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = (vino.library, vino.compressor, ort.library)
    for library in loaded:
        library.cache_clear()
    for name in ("openvino", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    try:
        encoder = small_encoder()
        choice = encoder.choose_engine(EngineOptions())
        assert choice.engine == "torch"
        assert "openvino is not installed: pip install openvino nncf" in str(choice)
        assert "onnxruntime is not installed: pip install onnxruntime onnx" in str(choice)
        assert choice.rejected.keys() == {
            "openvino fp32",
            "openvino bf16",
            "openvino int8-weights",
            "onnxruntime fp32",
        }
        choice = encoder.calibrate(stream_texts(encoder, 70))
        assert choice.engine == "torch"
        for name, precision in CALIBRATED:
            assert "not installed" in choice.rejected[f"{name} {precision}"]
        assert not encoder.wants_calibration  # it was tried
    finally:
        for library in loaded:
            library.cache_clear()


@needs_openvino
def test_no_more_engines_are_kept_than_the_bound(tmp_path: Path) -> None:
    built, kept = tmp_path / "built", KeptEngines(tmp_path / "engines")
    built.mkdir()
    for part in ("int8.xml", "int8.bin"):
        (built / part).write_text("")
    for number in range(KEPT + 3):
        kept.keep(f"space{number}", built, Candidate("openvino", "int8"))
        os.utime(tmp_path / "engines" / f"space{number}" / "about.json", (number, number))
    left = {folder.name for folder in (tmp_path / "engines").iterdir()}
    assert left == {f"space{number}" for number in range(3, KEPT + 3)}


class Skewed:
    """Gives the features of an engine, spoiled in one way."""

    def __init__(self, engine: Engine, *, noise: float = 0.0, neighbours: float = 0.0) -> None:
        self._engine, self._noise, self._neighbours = engine, noise, neighbours

    def engine(self) -> Engine:
        return replace(self._engine, name="openvino", precision="int8", run=self.run)

    def run(self, packed: Tensor) -> NDArray[np.float32]:
        found = self._engine.run(packed)
        chance = np.random.default_rng(3)
        found = found + self._noise * chance.standard_normal(found.shape).astype(np.float32)
        mean = found.mean(axis=0, keepdims=True) * (len(found) > 1)
        return np.asarray(found + self._neighbours * mean, dtype=np.float32)


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        ({}, ""),
        ({"noise": 0.02}, "to fp32 is under 0.995"),
        ({"neighbours": 0.15}, "depend on its neighbours"),
        ({"noise": float("nan")}, "not finite"),
    ],
)
def test_an_engine_that_is_not_near_enough_is_rejected_with_the_reason(
    encoder: Encoder, spoiled: dict[str, float], said: str
) -> None:
    reference = maker_of(encoder).make(REFERENCE)
    probes = make_probes(
        reference, encoder.tokenize(stream_texts(encoder, 64)), width=encoder.width
    )
    found = check(Skewed(reference, **spoiled).engine(), probes, max_accuracy_loss=0.3)
    assert said in found.rejected
    assert bool(found.rejected) == bool(said)
    assert not spoiled or "rejected" in str(found)


def test_an_engine_that_costs_accuracy_is_rejected(encoder: Encoder) -> None:
    # Given a head that is right by a hair on every labelled text, and an engine a hair beside
    reference = maker_of(encoder).make(REFERENCE)
    tokens = encoder.tokenize(stream_texts(encoder, 240))
    exact = encoder.encode_tokens(tokens)
    wrong = Skewed(reference, noise=3e-4).engine()
    found = features(wrong, tokens, encoder.width)
    direction = (found - exact).mean(axis=0)
    direction /= np.linalg.norm(direction)
    edge = float(np.median(exact @ direction)) + 1e-6

    def scores(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack([rows @ direction, np.full(len(rows), edge, np.float32)], axis=1)

    truth = scores(exact).argmax(axis=1)
    labelled = Labelled(scores, tokens[120:], truth[120:])
    probes = make_probes(reference, tokens[:120], width=encoder.width, labelled=labelled)
    probes = replace(probes, scores=lambda rows: rows[:, :2])  # the probes keep their answer
    judged = check(wrong, probes, max_accuracy_loss=0.3)
    assert judged.accuracy_loss is not None
    assert judged.accuracy_loss > 0.3
    assert "points of accuracy lost, more than 0.3" in judged.rejected
    assert not check(wrong, probes, max_accuracy_loss=100.0).rejected


@given(
    st.lists(st.integers(0, 40), max_size=60),
    st.integers(1, 9),
    st.integers(1, 64),
)
def test_micro_batches_hold_every_row_once_within_their_bounds(
    lengths: list[int], rows: int, tokens: int
) -> None:
    batches = list(micro_batches(lengths, shape=Shape(rows, tokens)))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= rows
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= tokens


@given(st.lists(st.floats(1.0, 1e6), min_size=1, max_size=8))
def test_the_choice_is_never_slower_than_the_first_nor_much_slower_than_any(
    speeds: list[float],
) -> None:
    pairs = [*DATA_FREE, *CALIBRATED][: len(speeds)]
    chosen = fastest(dict(zip(pairs, speeds, strict=True)))
    speed = speeds[pairs.index(chosen)]
    assert speed >= speeds[0]
    assert speed > max(speeds) / MIN_GAIN * (1 - 1e-9)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("torch", "int8"), "engine 'torch' does not compute in int8"),
        (("tpu", "auto"), "engine 'tpu': one of auto, torch,"),
        (("auto", "fp8"), "precision 'fp8': one of auto, fp32,"),
    ],
)
def test_an_engine_that_there_is_not_is_refused(options: tuple[str, str], said: str) -> None:
    with pytest.raises(EncoderError, match=said):
        wanted(EngineOptions(*options), device=torch.device("cpu"))  # type: ignore[arg-type]


def test_the_settings_know_the_engines_and_their_precisions() -> None:
    assert dict(ENGINE_PRECISIONS) == dict(PAIRS)


@given(st.integers(1, 64), st.integers(1, 600), st.integers(0, 600))
def test_a_batch_is_padded_a_little_to_one_of_few_shapes(
    rows: int, tokens: int, longest: int
) -> None:
    tall, wide = vino.roomy_shape(rows, tokens, longest=longest)
    assert rows <= tall <= max(rows, rows * 1.25)
    assert tokens <= wide <= max(tokens + 1, tokens * 1.25)
    assert wide == tokens or wide <= longest
