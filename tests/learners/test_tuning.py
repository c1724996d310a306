"""What of an encoder is trained by each method, and that a release answers as what was trained."""

from __future__ import annotations

import copy
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DistilBertConfig, DistilBertModel, RobertaConfig, RobertaModel

from learners import adapters
from learners.batch import collate
from learners.heads.linear import LinearHead
from learners.model import Encoder
from learners.pooling import EncoderModule, pooled
from learners.tuning import TUNINGS, Tuned, Tuning, TuningConfig, merged, tune, unadapted
from schemas.errors import EncoderError
from tests.small import small_encoder

TEXTS = {
    "refund": ["give me my money back", "i want my money", "please return my payment"],
    "card": ["my card was stolen", "i lost my card", "block my card please"],
    "call": ["i want to speak to someone", "please call me", "can you phone me"],
}
ALL = [text for texts in TEXTS.values() for text in texts]
MAX_TOKENS = 12  # of the small encoder's 16 places: a prompt takes the others
VIRTUAL = 4
HIDDEN, LAYERS, INNER = 384, 2, 192
MERGED: tuple[Tuning, ...] = ("lora", "adalora", "ia3")
CARRIED: tuple[Tuning, ...] = ("prefix", "prompt")


def fresh() -> Encoder:
    return small_encoder(max_tokens=MAX_TOKENS)


def tuned(encoder: Encoder, method: Tuning, *, steps: int = 20) -> Tuned:
    config = TuningConfig(method, rank=4, virtual_tokens=VIRTUAL, steps=steps)
    return tune(encoder.module, config, max_tokens=MAX_TOKENS)


def disturbed(method: Tuning, *, seed: int = 0, size: float = 0.02) -> Encoder:
    """Give an encoder whose trained numbers were all moved, as training moves them."""
    encoder, random = fresh(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tuned(encoder, method).parameters:
            parameter.add_(size * torch.randn(parameter.shape, generator=random))
    return encoder


LINEAR = LAYERS * (4 * 2 * HIDDEN + 2 * (HIDDEN + INNER))  # inputs and outputs of all layers
TRAINED = {
    "frozen": 0,
    "lora": 4 * LINEAR,
    "adalora": 6 * (LINEAR + LAYERS * 6),
    "ia3": LAYERS * (2 * HIDDEN + INNER),
    "prefix": LAYERS * 2 * HIDDEN * VIRTUAL,
    "prompt": HIDDEN * VIRTUAL,
}


@pytest.mark.parametrize("method", TUNINGS)
def test_exactly_what_a_method_says_is_trained(method: Tuning) -> None:
    encoder = fresh()
    trained = tuned(encoder, method).parameters
    every = list(encoder.module.parameters())
    expected = TRAINED.get(method, sum(p.numel() for p in every))
    assert sum(p.numel() for p in trained) == expected
    assert [p for p in every if p.requires_grad] == trained
    assert not encoder.module.training


@pytest.mark.parametrize("method", ["lora", "adalora", "ia3"])
def test_adapters_start_as_nothing(method: Tuning) -> None:
    encoder = fresh()
    before = encoder.encode(ALL)
    tuned(encoder, method)
    np.testing.assert_allclose(encoder.encode(ALL), before, atol=1e-6)


@pytest.mark.parametrize("method", TUNINGS)
def test_first_values_are_of_the_seed_alone(method: Tuning) -> None:
    encoders, state = (fresh(), fresh()), torch.get_rng_state()
    for encoder in encoders:
        tuned(encoder, method)
    assert torch.equal(torch.get_rng_state(), state)
    one, two = (encoder.module.state_dict() for encoder in encoders)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@settings(max_examples=4, deadline=None)
@given(method=st.sampled_from(MERGED), seed=st.integers(0, 2**31 - 1), size=st.floats(0.0, 0.05))
def test_merged_weights_answer_as_the_adapted_encoder(
    method: Tuning, seed: int, size: float
) -> None:
    encoder = disturbed(method, seed=seed, size=size)
    weights = merged(encoder.module)
    plain = fresh()
    assert weights.keys() == plain.module.backbone.state_dict().keys()
    plain.module.backbone.load_state_dict(weights)
    np.testing.assert_allclose(plain.encode(ALL), encoder.encode(ALL), atol=2e-6)
    assert adapters.adapted(encoder.module.backbone)  # merging for a release leaves it in training


@pytest.mark.parametrize("method", TUNINGS)
def test_a_release_answers_as_what_was_trained(method: Tuning) -> None:
    encoder = disturbed(method)
    written = encoder.blobs()
    again = Encoder.from_blobs(written, device="cpu", precision="fp32")
    np.testing.assert_allclose(again.encode(ALL), encoder.encode(ALL), atol=2e-6)
    assert again.space_id == encoder.space_id
    assert again.blobs() == written
    assert (encoder.space_id == fresh().space_id) == (method == "frozen")
    copied = fresh().with_weights(encoder.weights())
    assert copied.space_id == encoder.space_id
    np.testing.assert_array_equal(copied.encode(ALL), again.encode(ALL))


@pytest.mark.parametrize("method", ["full", "lora", "prefix", "prompt"])
def test_at_bf16_it_answers_to_the_bit_as_its_release(method: Tuning) -> None:
    encoder = disturbed(method)
    at_fp32 = encoder.encode(ALL)
    encoder.use_precision("bf16")
    released = Encoder.from_blobs(encoder.blobs(), device="cpu", precision="bf16")
    np.testing.assert_array_equal(encoder.encode(ALL), released.encode(ALL))
    assert float((encoder.encode(ALL) * at_fp32).sum(axis=1).min()) > 0.99


@pytest.mark.parametrize("method", CARRIED)
def test_virtual_tokens_are_seen_but_never_pooled(method: Tuning) -> None:
    """Against the same computed by hand, for texts of several lengths in one batch."""
    encoder = disturbed(method)
    module = encoder.module
    backbone: Any = module.backbone
    packed = collate(encoder.tokenize(ALL))
    features = module(packed)
    for row, ids in enumerate(encoder.tokenize(ALL)):
        words = backbone.get_input_embeddings()(torch.tensor([ids]))
        if module.prompt is not None:
            states = backbone(
                inputs_embeds=torch.cat([module.prompt[None], words], dim=1),
                output_hidden_states=True,
            ).hidden_states[-3:]
            states = [state[:, VIRTUAL:] for state in states]
        else:
            states = by_hand(module, words)
        unit = [torch.nn.functional.normalize(s.mean(dim=1), dim=1) for s in states]
        expected = torch.nn.functional.normalize(torch.cat(unit, dim=1), dim=1)[0]
        torch.testing.assert_close(features[row], expected, atol=2e-6, rtol=0.0)


def by_hand(module: EncoderModule, words: torch.Tensor) -> list[torch.Tensor]:
    """Compute a BERT's hidden states with a prefix, one text, from its layers' parts."""
    assert module.prefix is not None
    backbone: Any = module.backbone
    state = backbone.embeddings(inputs_embeds=words)
    states = [state]
    for layer, (keys, values) in zip(backbone.encoder.layer, module.prefix, strict=True):
        own = layer.attention.self
        heads = len(keys)
        query, key, value = (
            part(state)[0].unflatten(-1, (heads, -1)).transpose(0, 1)
            for part in (own.query, own.key, own.value)
        )
        key, value = torch.cat([keys, key], dim=1), torch.cat([values, value], dim=1)
        seen = torch.softmax(query @ key.transpose(1, 2) * query.shape[-1] ** -0.5, dim=-1)
        mixed = (seen @ value).transpose(0, 1).flatten(1)[None]
        attended = layer.attention.output(mixed, state)
        state = layer.output(layer.intermediate(attended), attended)
        states.append(state)
    return states[-3:]


@pytest.mark.parametrize("method", TUNINGS)
def test_a_copy_of_the_module_answers_the_same_and_learns_apart(method: Tuning) -> None:
    encoder = disturbed(method)
    packed = collate(encoder.tokenize(ALL))
    twin = copy.deepcopy(encoder.module)
    before = encoder.module(packed).detach()
    torch.testing.assert_close(twin(packed).detach(), before, atol=0.0, rtol=0.0)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.1)
    torch.testing.assert_close(encoder.module(packed).detach(), before, atol=0.0, rtol=0.0)


@pytest.mark.parametrize("method", TUNINGS)
def test_a_method_after_another_starts_from_what_that_one_made(method: Tuning) -> None:
    encoder = disturbed("lora")
    before, space = encoder.encode(ALL), encoder.space_id
    tuned(encoder, "frozen")
    assert unadapted(encoder.module) is encoder.module
    np.testing.assert_allclose(encoder.encode(ALL), before, atol=2e-6)
    assert encoder.space_id == space
    again = disturbed(method)
    tuned(again, "full")
    assert not adapters.adapted(again.module.backbone)
    if method in CARRIED:  # virtual tokens cannot be merged: they stay, and train with the rest
        assert len(again.module.virtual) == 1
        tokens = again.module.virtual[method].clone()
        tuned(again, method)
        assert torch.equal(again.module.virtual[method], tokens)


def test_space_id_is_not_that_of_the_weights_before_a_merge() -> None:
    encoder = fresh()
    space = encoder.space_id
    with torch.no_grad():
        for parameter in tuned(encoder, "lora").parameters:
            parameter.add_(0.02)
    tuned(encoder, "frozen")  # merges without asking for the space in between
    assert encoder.space_id != space


def test_ranks_come_down_to_their_budget_and_go_on_moving() -> None:
    encoder = fresh()
    work = tuned(encoder, "adalora", steps=10)
    assert work.ranks is not None
    head = LinearHead(encoder.width)
    head.grow(TEXTS)
    optimizer = torch.optim.AdamW([work.group(1e-4), {"params": list(head.parameters())}])
    targets = torch.tensor([n for n, texts in enumerate(TEXTS.values()) for _ in texts])
    values = [p for n, p in encoder.module.named_parameters() if "lora_E" in n]
    texts, penalties, kept = ALL, [], []
    for step in range(1, 51):
        if step > 20:  # the stream changes
            texts = ["forgot pin", "low limit", "fees", "charge", "no", "hi", "one", "two", "three"]
        penalty = work.penalty()
        assert penalty is not None
        penalties.append(float(penalty.detach()))
        logits = head(encoder.module(collate(encoder.tokenize(texts))))
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits, targets) + penalty
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own is untyped
        optimizer.step()
        work.stepped()
        if step % adapters.ALLOCATE_EVERY == 0:
            kept.append(torch.cat([p.detach().flatten() != 0 for p in values]))
            assert sum(work.ranks.ranks().values()) == int(kept[-1].sum())
    first, target = 6 * len(values), 4 * len(values)
    assert 0 < int(kept[0].sum()) < first
    assert all(0 < int(now.sum()) <= target for now in kept[1:])
    assert (kept[-1] & ~kept[1]).any()  # ranks that had been taken away, long after `steps`
    assert penalties[-1] < penalties[0]


@pytest.mark.parametrize("method", TUNINGS)
def test_a_release_needs_no_peft(method: Tuning, monkeypatch: pytest.MonkeyPatch) -> None:
    written = disturbed(method).blobs()
    monkeypatch.setitem(sys.modules, "peft", None)  # an import of it would fail
    released = Encoder.from_blobs(written, device="cpu", precision="bf16")
    assert released.encode(ALL).shape == (len(ALL), 3 * HIDDEN)
    assert released.blobs().keys() == written.keys()


def roberta() -> EncoderModule:
    config = RobertaConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=40,
    )
    make: Any = RobertaModel
    return pooled(make(config, add_pooling_layer=False).eval(), "mean-last-2")


def distilbert() -> EncoderModule:
    config = DistilBertConfig(
        vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=40
    )
    make: Any = DistilBertModel
    return pooled(make(config).eval(), "mean-last-2")


@pytest.mark.parametrize("method", TUNINGS)
@pytest.mark.parametrize("architecture", [roberta, distilbert])
def test_other_architectures_train_or_say_that_they_cannot(
    architecture: object, method: Tuning
) -> None:
    module: EncoderModule = architecture()  # type: ignore[operator]
    config = TuningConfig(method, rank=2, virtual_tokens=3)
    if architecture is distilbert and method == "prefix":
        with pytest.raises(EncoderError, match="'prefix' does not work on this 'distilbert'"):
            tune(module, config, max_tokens=8)
        return
    work = tune(module, config, max_tokens=8)
    packed = collate([[5, 6, 7, 8], [9, 10]])
    if work.parameters:
        module(packed)[:, :9].sum().backward()
    assert all(p.grad is not None for p in work.parameters)
    alone = module(collate([[9, 10]]))
    torch.testing.assert_close(module(packed)[1:], alone, atol=1e-5, rtol=0.0)
    twin = EncoderModule(unadapted(module).backbone, pooling=module.pooling, virtual=module.virtual)
    torch.testing.assert_close(twin(packed), module(packed), atol=1e-5, rtol=0.0)


def test_what_cannot_be_is_said() -> None:
    encoder = small_encoder()
    with pytest.raises(EncoderError, match="16 positions: lower virtual_tokens or max_tokens"):
        tune(encoder.module, TuningConfig("prompt", virtual_tokens=1), max_tokens=16)
    with pytest.raises(ValueError, match="tuning 'half': one of full, frozen"):
        TuningConfig("half")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rank 0: 1 or more"):
        TuningConfig("lora", rank=0)
    with pytest.raises(ValueError, match="virtual_tokens -1"):
        TuningConfig("prefix", virtual_tokens=-1)
    make: Any = RobertaModel
    odd = pooled(make(ODD, add_pooling_layer=False), "mean-last-1")
    backbone: Any = odd.backbone
    for layer in backbone.encoder.layer:
        layer.attention.self.keys = layer.attention.self.key
        layer.attention.self.values = layer.attention.self.value
        del layer.attention.self.key, layer.attention.self.value
    with pytest.raises(EncoderError, match="'ia3' does not work.*not known by name"):
        tune(odd, TuningConfig("ia3"), max_tokens=8)


ODD = RobertaConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
