"""ONNX Runtime: what a graph keeps of a module, and how it becomes 8 bits."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learners.batch import collate
from learners.engines import ort
from learners.engines.base import REFERENCE, Engine
from learners.engines.calibrating import Seen, eight_bits, fit
from learners.engines.checks import check, make_probes
from learners.model import Encoder
from schemas.errors import EncoderError
from tests.engines import TEXTS, features, maker_of, needs_onnxruntime, stream_texts
from tests.learners.test_engines import encoder
from tests.small import small_encoder

__all__ = ["encoder"]


@needs_onnxruntime
@pytest.mark.parametrize("name", ["prompt", "prefix"])
def test_a_graph_keeps_virtual_tokens_and_the_mask(name: str) -> None:
    # Given an encoder with virtual tokens, which stand before the words or beside them
    encoder = small_encoder(max_tokens=12)  # and three places for a prompt
    module: Any = encoder.module
    config = module.backbone.config
    heads, width = config.num_attention_heads, config.hidden_size
    shape = {
        "prompt": (3, width),
        "prefix": (config.num_hidden_layers, 2, heads, 3, width // heads),
    }[name]
    module.carry(name, torch.randn(shape, generator=torch.Generator().manual_seed(1)) / 4)
    # When it is computed in batches of many lengths, then padding changes nothing
    engine = maker_of(encoder).make(("onnxruntime", "fp32"))
    tokens = encoder.tokenize([*TEXTS, *stream_texts(encoder, 9)])
    with torch.inference_mode():
        exact = np.concatenate([module(collate([ids])).numpy() for ids in tokens])
    np.testing.assert_allclose(features(engine, tokens, encoder.width), exact, atol=2e-5)
    np.testing.assert_allclose(engine.run(collate(tokens)), exact, atol=2e-5)


@needs_onnxruntime
@pytest.mark.filterwarnings("ignore")  # of its tools
def test_ranges_taken_from_a_batch_let_a_text_depend_on_its_neighbours(
    encoder: Encoder, tmp_path: Path
) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    ort.export(encoder.module, tmp_path / "fp32.onnx")
    quantize_dynamic(
        tmp_path / "fp32.onnx",
        tmp_path / "int8.onnx",
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul"],
    )
    engine = ort.calibrated_engine(tmp_path, threads=1)
    reference = maker_of(encoder).make(REFERENCE)
    tokens = encoder.tokenize(stream_texts(encoder, 64))
    probes = make_probes(reference, tokens, width=encoder.width)
    found = check(engine, probes, max_accuracy_loss=100.0)
    assert found.alone is not None
    assert found.alone > 1e-5  # a calibrated engine: 1e-7 of rounding in other sums


def test_what_is_missing_is_said_with_what_to_install(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    ort.library.cache_clear()
    monkeypatch.setitem(sys.modules, "onnx", None)
    try:
        with pytest.raises(EncoderError, match="onnx is not installed: pip install onnxruntime"):
            maker_of(encoder).make(("onnxruntime", "fp32"))
    finally:
        ort.library.cache_clear()


@needs_onnxruntime
def test_a_damaged_graph_is_said(tmp_path: Path) -> None:
    (tmp_path / "int8.onnx").write_bytes(b"no graph")
    with pytest.raises(EncoderError, match="onnxruntime cannot compute this encoder"):
        ort.calibrated_engine(tmp_path, threads=1)


@needs_onnxruntime
def test_a_module_that_cannot_be_traced_is_said(tmp_path: Path) -> None:
    class Odd(torch.nn.Module):
        def forward(self, packed: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = torch.linalg.svdvals(packed.float())
            return found

    with pytest.raises(EncoderError, match="onnx cannot express this encoder"):
        ort.export(Odd(), tmp_path / "odd.onnx")


rows = st.integers(1, 6).flatmap(
    lambda channels: st.lists(
        st.lists(st.floats(-50, 50, width=32), min_size=channels, max_size=channels),
        min_size=1,
        max_size=8,
    )
)


@given(rows)
def test_eight_bit_weights_are_half_a_step_away_at_most(weights: list[list[float]]) -> None:
    exact = np.array(weights, dtype=np.float32)
    values, steps = eight_bits(exact)
    assert values.dtype == np.int8
    assert np.all(np.abs(values * steps - exact) <= steps * 0.501)


@given(rows, st.integers(0, 99))
def test_activations_that_were_seen_are_half_a_step_away_at_most(
    some: list[list[float]], seed: int
) -> None:
    seen = np.array(some, dtype=np.float32)
    chance = np.random.default_rng(seed)
    weights = chance.standard_normal((seen.shape[1], 3)).astype(np.float32)
    fitted = fit(Seen(seen.min(axis=0), seen.max(axis=0), seen), [weights])
    assert 0 <= fitted.zero <= 255
    away = np.abs(fitted.rounded(seen) - seen / fitted.divisor)
    assert np.all(away <= fitted.step * 1.01)  # half a step, and half that zero was moved by
    silent = np.zeros_like(seen)
    np.testing.assert_array_equal(fitted.rounded(silent), silent)


def test_the_graph_in_eight_bits_has_no_weights_of_fp32_left(
    encoder: Encoder, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    tokens = encoder.tokenize(stream_texts(encoder, 70))
    engine: Engine = maker_of(encoder).calibrate(("onnxruntime", "int8"), tokens, folder=tmp_path)
    assert engine.pair == ("onnxruntime", "int8")
    graph = onnx.load(tmp_path / "int8.onnx").graph
    constants = {tensor.name for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    assert not any(node.input[1] in constants for node in products)
    whole = [t for t in graph.initializer if t.data_type == onnx.TensorProto.INT8]
    assert sum(len(tensor.dims) == 2 for tensor in whole) == 6 * 2  # of each of two layers


ASKS = """
import sys
from pathlib import Path
from tests.engines import maker_of, stream_texts
from tests.small import small_encoder

encoder = small_encoder()
tokens = encoder.tokenize(stream_texts(encoder, 6_000))  # seconds of work
maker_of(encoder).calibrate(("onnxruntime", "int8"), tokens, folder=Path(sys.argv[1]))
"""


def calibrating_in(folder: Path) -> bool:
    """Whether a process calibrates there."""
    command = f"calibrating.py\0{folder}\0".encode()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ended meanwhile
            if file.read_bytes().endswith(command):
                return True
    return False


@needs_onnxruntime
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="processes are found by /proc")
@pytest.mark.parametrize("delay_s", [0.0, 0.5])
def test_a_calibration_ends_with_who_asked_for_it_and_leaves_nothing(
    tmp_path: Path, delay_s: float
) -> None:
    folder = tmp_path / "calibrating"
    folder.mkdir()
    asks = subprocess.Popen([sys.executable, "-c", ASKS, str(folder)])
    while not calibrating_in(folder):
        assert asks.poll() is None
        time.sleep(0.01)
    time.sleep(delay_s)
    assert calibrating_in(folder)
    asks.kill()
    asks.wait()
    deadline = time.monotonic() + 60
    while calibrating_in(folder) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not calibrating_in(folder)
    assert not folder.exists()


WRITES = """
import sys, threading
from contextlib import suppress
from pathlib import Path
from learners.engines.calibrating import _end

def write() -> None:
    for n in range(2_000):
        with suppress(OSError):
            (Path(sys.argv[1]) / f"{n}.onnx").write_bytes(b"part of a graph")

threads = [threading.Thread(target=write, daemon=True) for _ in range(4)]
[thread.start() for thread in threads]
_end(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("turn", range(3))
def test_what_is_being_written_goes_too(tmp_path: Path, turn: int) -> None:
    folder = tmp_path / f"calibrating{turn}"
    folder.mkdir()
    for n in range(500):
        (folder / f"before-{n}").touch()
    done = subprocess.run([sys.executable, "-c", WRITES, str(folder)], check=False)
    assert done.returncode == 1
    assert not folder.exists()


@needs_onnxruntime
def test_no_text_is_written_to_disk(encoder: Encoder, tmp_path: Path) -> None:
    tokens = encoder.tokenize(stream_texts(encoder, 96))
    maker_of(encoder).calibrate(("onnxruntime", "int8"), tokens, folder=tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"fp32.onnx", "int8.onnx"}
