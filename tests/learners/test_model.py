from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from learners.backbones import find
from learners.batch import collate
from learners.engines import EngineChoice
from learners.model import Encoder
from schemas.errors import EncoderError

CHINESE = Path(__file__).parents[3] / "shared" / "models" / "bge-small-zh-v1.5"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(device="cpu", precision="fp32")  # numbers do not depend on the machine


TEXTS = ["Where is my refund?", "", "card", "word " * 3_000, "I lost my card yesterday evening"]


def test_features_are_finite_unit_rows_in_the_order_of_the_texts(encoder: Encoder) -> None:
    features = encoder.encode(TEXTS)
    assert features.shape == (len(TEXTS), encoder.width)
    assert features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1.0, atol=1e-5)
    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(encoder.encode([text])[0], features[row], atol=2e-6)


def test_no_texts_give_no_features(encoder: Encoder) -> None:
    assert encoder.encode([]).shape == (0, encoder.width)


def test_rows_without_any_token_give_finite_features(encoder: Encoder) -> None:
    assert np.isfinite(encoder.encode_tokens([[], [101, 102]])).all()


def test_features_are_the_normalised_means_of_the_last_three_layers(encoder: Encoder) -> None:
    ids = encoder.tokenize(["a short text"])
    with torch.inference_mode():
        hidden = encoder.module.backbone(
            input_ids=torch.tensor(ids), output_hidden_states=True
        ).hidden_states
    means = [layer[0].mean(0) for layer in hidden[-3:]]
    expected = torch.cat([mean / mean.norm() for mean in means])
    expected = expected / expected.norm()
    np.testing.assert_allclose(encoder.encode_tokens(ids)[0], expected.numpy(), atol=1e-6)


def test_related_texts_are_nearer_than_unrelated_ones(encoder: Encoder) -> None:
    refund, money_back, weather = encoder.encode(
        ["I want a refund", "please give me my money back", "it rains in the mountains"]
    )
    assert refund @ money_back > refund @ weather + 0.1


def test_vocabulary_and_word_embeddings_speak_of_the_same_tokens(encoder: Encoder) -> None:
    vocabulary, table = encoder.vocabulary(), encoder.word_embeddings
    assert sorted(vocabulary.values()) == list(range(len(table)))
    assert encoder.tokenize(["card"])[0][1] == vocabulary["card"]
    assert (
        table
        is dict(encoder.module.named_parameters())["backbone.embeddings.word_embeddings.weight"]
    )


def test_texts_are_cut_to_the_most_tokens_and_never_padded(encoder: Encoder) -> None:
    lengths = [len(ids) for ids in encoder.tokenize(TEXTS)]
    assert lengths[1] == 2
    assert max(lengths) == encoder.max_tokens


def test_blobs_rebuild_an_encoder_with_the_same_features_space_and_blobs(encoder: Encoder) -> None:
    blobs = encoder.blobs()
    again = Encoder.from_blobs(blobs, device="cpu", precision="fp32")
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))
    assert again.space_id == encoder.space_id
    assert again.blobs() == blobs


def test_a_changed_weight_changes_features_and_space_at_every_precision(encoder: Encoder) -> None:
    copy = Encoder.from_blobs(encoder.blobs(), device="cpu", precision="bf16")
    space, before = copy.space_id, copy.encode(["a text"])
    with torch.no_grad():
        next(copy.module.parameters()).mul_(1.5)
    assert copy.space_id != space
    assert np.abs(copy.encode(["a text"]) - before).max() > 1e-3


def test_loading_leaves_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    blobs = Encoder.load(device="cpu", precision="fp32").blobs()
    Encoder.from_blobs(blobs, device="cpu", precision="fp32")
    assert torch.equal(torch.random.get_rng_state(), state)


def test_gradients_reach_the_encoder_through_the_module(encoder: Encoder) -> None:
    copy = Encoder.from_blobs(encoder.blobs(), device="cpu", precision="fp32")
    copy.module(collate(copy.tokenize(["a text", "another"])))[:, :5].sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in copy.module.parameters())


def test_the_engine_is_measured_and_the_choice_says_so() -> None:
    encoder = Encoder.load(device="cpu")
    assert encoder.choice.chosen is not None
    assert encoder.choice.chosen.cosine is not None
    assert encoder.choice.chosen.cosine > 0.99
    assert encoder.precision in ("fp32", "bf16")
    assert {(c.engine, c.precision) for c in encoder.choice.candidates} == {
        ("torch", "fp32"),
        ("torch", "bf16"),
    }
    assert "texts/s" in str(encoder.choice)


def test_a_given_precision_is_said_to_be_given() -> None:
    assert str(EngineChoice("cpu", "torch", "fp32")) == "torch fp32 on cpu (given)"


def test_a_folder_that_is_no_encoder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"has no config\.json"):
        Encoder.load(str(tmp_path))


def test_a_folder_with_damaged_weights_is_refused(tmp_path: Path) -> None:
    source = find("all-MiniLM-L6-v2")
    for file in ("config.json", "tokenizer.json"):
        (tmp_path / file).write_bytes((source / file).read_bytes())
    with pytest.raises(EncoderError, match="cannot be loaded as an encoder"):
        Encoder.load(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(EncoderError, match="cannot be loaded as an encoder"):
        Encoder.load(str(tmp_path))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_tokens": 1_000}, "max_tokens 1000"),
        ({"precision": "fp8"}, "precision 'fp8'"),
        ({"pooling": "cls"}, "pooling 'cls'"),
        ({"device": "nowhere"}, "device 'nowhere'"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_its_value(
    settings: dict[str, int | str], words: str
) -> None:
    with pytest.raises(EncoderError, match=words):
        Encoder.load(**settings)  # type: ignore[arg-type]


def test_damaged_blobs_are_refused(encoder: Encoder) -> None:
    blobs = encoder.blobs()
    with pytest.raises(EncoderError, match="lack tokenizer"):
        Encoder.from_blobs({name: blobs[name] for name in ("encoder", "encoder_config")})
    with pytest.raises(EncoderError, match="damaged"):
        Encoder.from_blobs({**blobs, "encoder": blobs["encoder"][:1_000]})
    with pytest.raises(EncoderError, match="damaged"):
        Encoder.from_blobs({**blobs, "encoder_config": b"{}"})
    with pytest.raises(EncoderError, match="damaged"):
        Encoder.from_blobs({**blobs, "tokenizer": b"{}"})


@pytest.mark.data
@pytest.mark.skipif(not CHINESE.is_dir(), reason="the Chinese encoder is not beside the project")
def test_a_half_precision_chinese_encoder_works_like_the_default() -> None:
    encoder = Encoder.load(str(CHINESE), device="cpu")
    good, fine, bad = encoder.encode(["酒店非常好", "宾馆很不错", "电池坏了，无法充电"])
    assert encoder.width == 1_536
    assert good @ fine > good @ bad
    again = Encoder.from_blobs(encoder.blobs(), device="cpu", precision="fp32")
    assert again.space_id == encoder.space_id
