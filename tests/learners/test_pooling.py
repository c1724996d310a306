"""Poolings: each against plain arithmetic, whatever pads it, in every engine and every blob."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from learners.batch import collate
from learners.model import Encoder
from learners.pooling import POOLING_FORM, Pooling
from mindstream.sections import POOLINGS, ModelSettings
from schemas.errors import EncoderError
from tests.engines import each_library, maker_of

TEXTS = ["Where is my refund?", "card", "I lost my card yesterday evening", ""]
ALL = ["mean-last-3", "max-last-2", "cls-last-1", "mean-last-2+max-last-1+cls-last-2", "cls-last-7"]


def load(pooling: str) -> Encoder:
    return Encoder.load(pooling=pooling, device="cpu", precision="fp32")


@pytest.fixture(scope="module", params=[*ALL, "mean-last-2+cls-last-1/joint"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return load(request.param)


def by_hand(encoder: Encoder, text: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    with torch.inference_mode():
        states = encoder.module.backbone(
            input_ids=torch.tensor(encoder.tokenize([text])), output_hidden_states=True
        ).hidden_states
    take = {"mean": lambda s: s.mean(0), "max": lambda s: s.amax(0), "cls": lambda s: s[0]}
    listed, _, joint = encoder.pooling.partition("/")
    vectors = []
    for part in listed.split("+"):
        kind, layers = part.split("-last-")
        vectors += [take[kind](state[0]) for state in states[-int(layers) :]]
    if not joint:
        vectors = [vector / vector.norm() for vector in vectors]
    features = torch.cat(vectors)
    return np.asarray((features / features.norm()).numpy())


def test_features_are_what_their_pooling_says_whatever_pads_them(encoder: Encoder) -> None:
    features = encoder.encode(TEXTS)
    assert features.shape == (len(TEXTS), encoder.width)
    for row, text in zip(features, TEXTS, strict=True):
        np.testing.assert_allclose(row, by_hand(encoder, text), atol=2e-6)


def test_a_release_keeps_its_pooling_and_spaces_differ(encoder: Encoder) -> None:
    again = Encoder.from_blobs(encoder.blobs(), device="cpu", precision="fp32")
    assert again.pooling == encoder.pooling
    assert again.space_id == encoder.space_id != load("mean-last-1").space_id
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))


@each_library
def test_engines_pool_as_torch_does(library: str) -> None:
    encoder = load("max-last-2+cls-last-1")
    engine = maker_of(encoder).make((library, "fp32"))  # type: ignore[arg-type]
    found = engine.run(collate(encoder.tokenize(TEXTS)))
    np.testing.assert_allclose(found, encoder.encode(TEXTS), atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        "cls",
        "mean",
        "mean-last-0",
        "min-last-1",
        "mean-last-3+",
        "mean-last-2/both",
        "cls-last-1\n",
        "",
    ],
)
def test_what_is_no_pooling_is_refused_with_what_is(wrong: str) -> None:
    with pytest.raises(EncoderError, match=re.escape(f"pooling {wrong!r}: mean-last-N")):
        Pooling.parse(wrong)
    with pytest.raises(ValidationError, match="pooling"):
        ModelSettings.model_validate({"pooling": wrong})


def test_more_layers_than_there_are_is_refused() -> None:
    with pytest.raises(EncoderError, match="this encoder has 7 hidden layers"):
        load("mean-last-1+cls-last-8")


def test_settings_take_what_an_encoder_takes() -> None:
    assert POOLINGS == POOLING_FORM
    for pooling in ALL:
        assert ModelSettings.model_validate({"pooling": pooling}).pooling == pooling
