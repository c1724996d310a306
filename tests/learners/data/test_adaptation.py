from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learners.backbones import find, find_local
from learners.data.adaptation import (
    AdaptationConfig,
    AdaptationReport,
    MaskedLanguage,
    _batches,
    adapt,
    choose_objective,
)
from learners.model import Encoder
from schemas.errors import EncoderError

TEXTS = [
    f"{verb} my {noun}" for verb in ("where is", "I lost", "refund") for noun in ("card", "bag")
]
SHORT = AdaptationConfig(steps=2, batch_rows=4, learning_rate=1e-4)


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(encoder: Encoder) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in encoder.module.state_dict().items()}


@pytest.fixture
def encoder() -> Encoder:
    return Encoder.load(max_tokens=32, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small BERT with a masked-language head and the default's tokenizer."""
    from transformers import BertConfig, BertForMaskedLM

    folder = tmp_path_factory.mktemp("bert")
    default = find("all-MiniLM-L6-v2")
    config = BertConfig.from_pretrained(
        default, hidden_size=48, intermediate_size=96, num_attention_heads=4, num_hidden_layers=2
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForMaskedLM(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    shutil.copy(default / "tokenizer.json", folder)
    return folder


def test_contrastive_steps_change_the_space_and_leave_everything_else_alone(
    encoder: Encoder,
) -> None:
    encoder.module.requires_grad_(False)
    encoder.word_embeddings.requires_grad_(True)
    space, state = encoder.space_id, torch.get_rng_state()
    told: list[tuple[int, float]] = []
    report = adapt(
        encoder,
        [*TEXTS, *TEXTS, "", "  "],
        config=SHORT,
        generator=generator(),
        progress=lambda step, loss: told.append((step, loss)),
    )
    assert (report.objective, report.texts) == ("contrastive", len(TEXTS))
    assert told == list(enumerate(report.losses, start=1))
    assert len(told) == 2
    assert encoder.space_id != space
    assert torch.equal(torch.get_rng_state(), state)
    assert not encoder.module.training
    trainable = [p for p in encoder.module.parameters() if p.requires_grad]
    assert [p is encoder.word_embeddings for p in trainable] == [True]
    assert all(parameter.grad is None for parameter in encoder.module.parameters())
    assert np.isfinite(encoder.encode(TEXTS)).all()


def test_the_same_generator_gives_the_same_weights_and_another_one_others() -> None:
    def run(seed: int) -> tuple[AdaptationReport, dict[str, torch.Tensor]]:
        encoder = Encoder.load(max_tokens=32, device="cpu", precision="fp32")
        torch.rand(3)  # the global state must not matter
        config = AdaptationConfig(steps=1, batch_rows=4)
        return adapt(encoder, TEXTS, config=config, generator=generator(seed)), weights(encoder)

    (report, first), (again, second), (other, third) = run(1), run(1), run(2)
    assert report == again
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert report.losses != other.losses
    assert any(not torch.equal(first[name], third[name]) for name in first)


def test_texts_are_told_apart_better_after_contrastive_adaptation(encoder: Encoder) -> None:
    before = encoder.encode(TEXTS)
    config = AdaptationConfig(steps=8, batch_rows=6, learning_rate=2e-4)
    report = adapt(encoder, TEXTS, config=config, generator=generator())
    after = encoder.encode(TEXTS)
    others = ~np.eye(len(TEXTS), dtype=bool)
    assert (after @ after.T)[others].mean() < (before @ before.T)[others].mean()
    assert np.mean(report.losses[-3:]) < np.mean(report.losses[:3])


def test_without_steps_nothing_changes(encoder: Encoder) -> None:
    before = weights(encoder)
    report = adapt(encoder, TEXTS, config=AdaptationConfig(), generator=generator())
    assert report.losses == ()
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(encoder).items())


def test_weights_with_a_head_for_it_learn_to_guess_hidden_words(bert: Path) -> None:
    encoder = Encoder.load(str(bert), max_tokens=32, device="cpu", precision="fp32")
    space = encoder.space_id
    config = AdaptationConfig(steps=40, batch_rows=6, learning_rate=5e-3, masked_share=0.3)
    report = adapt(encoder, TEXTS, config=config, generator=generator())
    assert report.objective == "masked"
    assert np.mean(report.losses[-10:]) < 0.6 * np.mean(report.losses[:10])
    assert encoder.space_id != space
    assert not encoder.module.training
    # The encoder is whole without the head it was trained with.
    again = Encoder.from_blobs(encoder.blobs(), device="cpu", precision="fp32")
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))


def test_at_least_one_token_is_hidden_and_never_a_special_one(bert: Path) -> None:
    encoder = Encoder.load(str(bert), max_tokens=32, device="cpu", precision="fp32")
    objective = choose_objective(encoder, AdaptationConfig(masked_share=1e-9))
    assert isinstance(objective, MaskedLanguage)
    for seed in range(5):
        loss = objective.loss(encoder.tokenize(["card", "my bag"]), generator=generator(seed))
        assert torch.isfinite(loss)


def test_a_head_that_the_weights_lack_is_refused_in_words(encoder: Encoder) -> None:
    with pytest.raises(EncoderError, match="'all-MiniLM-L6-v2' carry no masked-language head"):
        adapt(
            encoder,
            TEXTS,
            config=AdaptationConfig(steps=1, objective="masked"),
            generator=generator(),
        )
    assert not encoder.module.training


def test_an_encoder_without_a_known_folder_is_adapted_by_contrast(bert: Path) -> None:
    loaded = Encoder.load(str(bert), max_tokens=32, device="cpu", precision="fp32")
    encoder = Encoder.from_blobs(loaded.blobs(), device="cpu", precision="fp32")
    assert find_local(encoder.name) is None
    report = adapt(encoder, TEXTS, config=SHORT, generator=generator())
    assert report.objective == "contrastive"


def test_an_encoder_without_dropout_is_refused_in_words(encoder: Encoder) -> None:
    for part in encoder.module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    with pytest.raises(EncoderError, match="has no dropout"):
        adapt(encoder, TEXTS, config=SHORT, generator=generator())


def test_a_loss_that_is_no_number_stops_before_it_harms(encoder: Encoder) -> None:
    with torch.no_grad():
        encoder.word_embeddings.fill_(float("nan"))
    layer = weights(encoder)["backbone.encoder.layer.0.attention.self.query.weight"]
    with pytest.raises(EncoderError, match="the loss of step 1 is nan"):
        adapt(encoder, TEXTS, config=SHORT, generator=generator())
    assert torch.equal(
        layer, weights(encoder)["backbone.encoder.layer.0.attention.self.query.weight"]
    )


@given(st.integers(2, 40), st.integers(2, 20), st.integers(0, 100))
def test_batches_hold_no_text_twice_and_a_pass_repeats_none(
    texts: int, rows: int, seed: int
) -> None:
    size = min(rows, texts)
    drawn: Iterator[list[int]] = _batches(texts, rows, generator(seed))
    for _ in range(3):
        rows_of_pass = [row for batch in itertools.islice(drawn, texts // size) for row in batch]
        assert len(rows_of_pass) == len(set(rows_of_pass)) == texts // size * size
        assert set(rows_of_pass) <= set(range(texts))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (AdaptationConfig(steps=-1), "steps is -1"),
        (AdaptationConfig(batch_rows=1), "batch_rows is 1"),
        (AdaptationConfig(learning_rate=0.0), "learning_rate is 0.0"),
        (AdaptationConfig(temperature=0.0), "temperature is 0.0"),
        (AdaptationConfig(masked_share=0.0), "masked_share is 0.0"),
    ],
)
def test_numbers_out_of_range_are_refused(
    encoder: Encoder, config: AdaptationConfig, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        adapt(encoder, TEXTS, config=config, generator=generator())


def test_one_text_is_too_few(encoder: Encoder) -> None:
    with pytest.raises(ValueError, match="1 different texts"):
        adapt(encoder, ["a", "a"], config=SHORT, generator=generator())
