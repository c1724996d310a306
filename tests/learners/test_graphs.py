"""CUDA graphs: recorded shapes, and what is padded to them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learners import backbones
from learners.batch import pad
from learners.engines.graphs import ROWS, TOKENS, padded_shape
from learners.model import Encoder
from schemas.errors import EncoderError
from tests.engines import cosines, features, maker_of
from tests.learners.test_engines import encoder

__all__ = ["encoder"]

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def test_a_batch_padded_for_a_recording_gives_the_same_features(encoder: Encoder) -> None:
    from learners.batch import collate

    packed = collate(encoder.tokenize(["card", "where is my refund"]))
    shape = padded_shape(packed.shape[0], packed.shape[2])
    assert shape is not None
    target = torch.full((shape[0], 2, min(shape[1], 16)), 9)
    pad(target, packed)
    with torch.inference_mode():
        found, exact = encoder.module(target), encoder.module(packed)
    assert torch.isfinite(found).all()
    np.testing.assert_allclose(found[: len(exact)].numpy(), exact.numpy(), atol=1e-5)


@given(st.integers(1, 600), st.integers(1, 200), st.integers(0, 200))
def test_a_recorded_shape_holds_the_batch_or_there_is_none(
    rows: int, tokens: int, longest: int
) -> None:
    shape = padded_shape(rows, tokens, longest=longest)
    if shape is None:
        assert rows > ROWS[-1] or tokens > min(TOKENS[-1], longest or TOKENS[-1])
    else:
        assert shape[0] >= rows
        assert tokens <= shape[1] <= (longest or TOKENS[-1])


def test_graphs_are_refused_without_a_cuda_device(encoder: Encoder) -> None:
    with pytest.raises(EncoderError, match="CUDA graphs need a CUDA device"):
        maker_of(encoder).make(("cuda-graphs", "bf16"))


@needs_cuda
def test_graphs_give_the_features_of_torch_whatever_came_before() -> None:
    encoder = Encoder.load(device="cuda", precision="fp32")
    texts = backbones.probe_texts(encoder._tokenizer, count=40)
    tokens = encoder.tokenize([*texts, "card", "word " * 200])
    exact = encoder.encode_tokens(tokens)
    engine = maker_of(encoder).make(("cuda-graphs", "bf16"))
    with torch.inference_mode():
        for part in (slice(None), slice(3), slice(7, 30), slice(None)):
            found = features(engine, tokens[part], encoder.width)
            assert cosines(found, exact[part]).min() > 0.999


@needs_cuda
def test_engines_of_two_releases_record_and_replay_beside_each_other() -> None:
    encoder = Encoder.load(device="cuda", precision="fp32")
    tokens = encoder.tokenize(backbones.probe_texts(encoder._tokenizer, count=40))
    exact = encoder.encode_tokens(tokens)
    engines = [maker_of(encoder).make(("cuda-graphs", "bf16")) for _ in range(2)]

    def ask(turn: int) -> float:
        rows = slice(None) if turn % 3 else slice(turn)
        found = features(engines[turn % 2], tokens[rows], encoder.width)
        return float(cosines(found, exact[rows]).min())

    with ThreadPoolExecutor(4) as threads:
        assert min(threads.map(ask, range(1, 40))) > 0.999
