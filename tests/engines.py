"""Engines in tests: what is installed, texts that the small encoder knows, and comparisons."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from numpy.typing import NDArray

from learners.engines.base import Engine
from learners.engines.base import features as compute
from learners.engines.making import Maker
from learners.model import Encoder

NEEDED = {"openvino": ("openvino", "nncf"), "onnxruntime": ("onnxruntime", "onnx")}


def is_installed(engine: str) -> bool:
    return all(find_spec(library) is not None for library in NEEDED.get(engine, ()))


needs_openvino = pytest.mark.skipif(
    not is_installed("openvino"), reason="openvino is not installed"
)
needs_onnxruntime = pytest.mark.skipif(
    not is_installed("onnxruntime"), reason="onnxruntime is not installed"
)
each_library = pytest.mark.parametrize(
    "library",
    [
        pytest.param("openvino", marks=needs_openvino),
        pytest.param("onnxruntime", marks=needs_onnxruntime),
    ],
)
TEXTS = ["where is my refund", "", "card", "i lost my card yesterday evening", "word " * 40]


def stream_texts(encoder: Encoder, count: int) -> list[str]:
    """Make texts such as come in, of words that the small encoder knows."""
    words = sorted(w for w, n in encoder.vocabulary().items() if w.isalpha() and n > 1_000)
    chance = np.random.default_rng(5)
    draw: NDArray[np.str_] = chance.choice(words[:60], size=(count, 6))
    return [" ".join(row) for row in draw]


def maker_of(encoder: Encoder) -> Maker:
    return Maker(encoder.module, plain=lambda: encoder.module, device=encoder.device)


def cosines(some: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1)
    return np.asarray((some * others).sum(axis=1) / lengths, dtype=np.float32)


def features(engine: Engine, token_ids: list[list[int]], width: int) -> NDArray[np.float32]:
    return compute(engine, token_ids, width=width)
