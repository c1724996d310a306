from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn

from learners.batch import collate
from learners.data.adversarial import (
    AdversarialConfig,
    AdversarialTraining,
    fgm,
    free,
    pgd,
)
from learners.model import Encoder
from learners.strategies.base import NoReplay, StrategyConfig
from learners.strategies.naive import naive
from learners.tasks import task_kind
from learners.template import MicroBatch, StreamTemplate
from schemas.errors import EncoderError

TEXTS = ["where is my card", "give me my money back", "the app does not start", "card"]
TARGETS = torch.tensor([0, 1, 2, 0])
CONFIGS = [fgm(), pgd(), free()]
NAMES = ["fgm", "pgd", "free"]


class Classifier(nn.Module):
    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder.module
        self.head = nn.Linear(encoder.width, 3)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(3, encoder.width) * 8)
            self.head.bias.zero_()

    def forward(self, packed: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(packed))
        return logits

    def train(self, mode: bool = True) -> Classifier:
        del mode
        return super().train(False)


class Watch(SupervisedPlugin):  # type: ignore[misc]  # Avalanche is untyped
    """Keeps weights and gradients at the moments around the plugin under test."""

    def __init__(self, table: nn.Parameter) -> None:
        super().__init__()
        self.table = table

    def after_forward(self, strategy: StreamTemplate, **_: Any) -> None:
        self.weights = self.table.detach().clone()
        self.output = strategy.mb_output.detach().clone()

    def before_update(self, strategy: StreamTemplate, **_: Any) -> None:
        assert torch.equal(self.table.detach(), self.weights)
        assert torch.equal(strategy.mb_output, self.output)
        self.gradients = [
            None if parameter.grad is None else parameter.grad.clone()
            for parameter in strategy.model.parameters()
        ]


def micro_batch(encoder: Encoder) -> MicroBatch:
    rows = len(TEXTS)
    return MicroBatch(
        packed=collate(encoder.tokenize(TEXTS)),
        labels=("x",) * rows,
        previous=(None,) * rows,
        held_out=(False,) * rows,
        ids=tuple(str(row) for row in range(rows)),
    )


def template(encoder: Encoder, plugins: Sequence[SupervisedPlugin], rate: float) -> StreamTemplate:
    model = Classifier(encoder)
    return StreamTemplate(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=rate),
        criterion=nn.functional.cross_entropy,
        device=encoder.device,
        plugins=plugins,
    )


def gradients(encoder: Encoder, config: AdversarialConfig | None) -> list[Tensor | None]:
    """Run one iteration at learning rate 0: weights must come out as they went in."""
    watch = Watch(encoder.word_embeddings)
    before = {name: tensor.clone() for name, tensor in encoder.module.state_dict().items()}
    plugins = [] if config is None else [AdversarialTraining(encoder, config)]
    template(encoder, [*plugins, watch], 0.0).learn(micro_batch(encoder), TARGETS)
    for name, tensor in encoder.module.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    return watch.gradients


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    encoder = Encoder.load(max_tokens=32, device="cpu", precision="fp32")
    encoder.module.requires_grad_(True)
    return encoder


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_weights_come_back_bit_by_bit_and_gradients_differ(
    encoder: Encoder, config: AdversarialConfig
) -> None:
    plain, hard = gradients(encoder, None), gradients(encoder, config)
    assert [g is None for g in plain] == [g is None for g in hard]
    pairs = [(a, b) for a, b in zip(plain, hard, strict=True) if a is not None and b is not None]
    assert all(torch.isfinite(b).all() for _, b in pairs)
    assert sum(not torch.equal(a, b) for a, b in pairs) > len(pairs) / 2


def test_without_epsilon_or_weight_a_step_is_the_plain_one(encoder: Encoder) -> None:
    plain = gradients(encoder, None)
    for config in (AdversarialConfig(), AdversarialConfig(epsilon=0.5, weight=0.0)):
        for one, other in zip(plain, gradients(encoder, config), strict=True):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                assert torch.equal(one, other)


def test_fgm_adds_the_gradients_taken_one_step_of_epsilon_up_the_slope(encoder: Encoder) -> None:
    table, packed = encoder.word_embeddings, micro_batch(encoder).packed
    model = Classifier(encoder)

    def backward() -> list[Tensor]:
        loss = nn.functional.cross_entropy(model(packed), TARGETS)
        trained = list(model.parameters())
        return list(torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True))

    clean = backward()
    slope = next(g for p, g in zip(model.parameters(), clean, strict=True) if p is table)
    original = table.detach().clone()
    with torch.no_grad():
        table.copy_(original + 0.5 * slope / slope.norm())
    expected = [a + b for a, b in zip(clean, backward(), strict=True)]
    with torch.no_grad():
        table.copy_(original)
    for given, wanted in zip(gradients(encoder, fgm(0.5)), expected, strict=True):
        if given is not None:
            torch.testing.assert_close(given, wanted, atol=1e-5, rtol=1e-3)


class HarderAt(AdversarialTraining):  # a look inside: what the model is asked during the climb
    moves: list[float]
    losses: list[float]

    def after_backward(self, strategy: StreamTemplate, **_: Any) -> None:
        self.moves, self.losses = [], [float(strategy.loss.detach())]
        criterion = strategy._criterion
        table = self._encoder.word_embeddings
        clean = table.detach().clone()

        def noting(output: Tensor, targets: Tensor) -> Tensor:
            loss: Tensor = criterion(output, targets)
            self.moves.append(float((table.detach() - clean).norm()))
            self.losses.append(float(loss.detach()))
            return loss

        strategy._criterion = noting
        try:
            super().after_backward(strategy)
        finally:
            strategy._criterion = criterion


@pytest.mark.parametrize("config", [fgm(0.3), pgd(0.3, steps=5), free(0.3, steps=4)], ids=NAMES)
def test_every_step_stays_in_the_ball_and_the_loss_rises(
    encoder: Encoder, config: AdversarialConfig
) -> None:
    plugin = HarderAt(encoder, config)
    template(encoder, [plugin], 0.0).learn(micro_batch(encoder), TARGETS)
    assert len(plugin.moves) == config.steps
    assert plugin.moves[-1] == pytest.approx(0.3, rel=1e-4)
    assert all(move <= 0.3 * 1.0001 for move in plugin.moves)
    assert plugin.losses == sorted(plugin.losses)
    assert plugin.losses[-1] > plugin.losses[0]


def test_a_failing_pass_leaves_the_weights_as_they_were(encoder: Encoder) -> None:
    learner = template(encoder, [AdversarialTraining(encoder, fgm())], 0.1)
    before = encoder.word_embeddings.detach().clone()
    calls: list[int] = []

    def fail_second(output: Tensor, targets: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        return nn.functional.cross_entropy(output, targets)

    learner._criterion = fail_second
    with pytest.raises(MemoryError):
        learner.learn(micro_batch(encoder), TARGETS)
    assert torch.equal(encoder.word_embeddings.detach(), before)


def test_frozen_embeddings_are_refused_in_words(encoder: Encoder) -> None:
    table = encoder.word_embeddings
    table.requires_grad_(False)
    table.grad = None
    try:
        with pytest.raises(EncoderError, match="'all-MiniLM-L6-v2' get no gradient"):
            template(encoder, [AdversarialTraining(encoder, fgm())], 0.1).learn(
                micro_batch(encoder), TARGETS
            )
    finally:
        table.requires_grad_(True)


def test_it_accompanies_a_fine_tuning_strategy_whose_head_is_still_zero() -> None:
    own = Encoder.load(max_tokens=32, device="cpu", precision="fp32")
    config = StrategyConfig(kind=task_kind("classify"), encoder=own, replay=NoReplay())
    strategy = naive(config)
    strategy._template.plugins.insert(0, AdversarialTraining(own, fgm()))
    batch = micro_batch(own)
    labelled = MicroBatch(
        packed=batch.packed,
        labels=("card", "refund", "app", "card"),
        previous=batch.previous,
        held_out=batch.held_out,
        ids=batch.ids,
    )
    losses = [strategy.step(labelled).loss for _ in range(6)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (AdversarialConfig(epsilon=-1.0), "epsilon is -1.0"),
        (AdversarialConfig(weight=-0.5), "weight is -0.5"),
        (AdversarialConfig(steps=0), "steps is 0"),
        (AdversarialConfig(step_share=0.0), "step_share is 0.0"),
    ],
)
def test_numbers_out_of_range_are_refused(
    encoder: Encoder, config: AdversarialConfig, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        AdversarialTraining(encoder, config)
