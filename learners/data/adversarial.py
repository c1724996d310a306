"""Adversarial training in embedding space: learn a batch again where its loss is locally worst.

Owns the perturbation and its exact undoing, for any training loop (`harden`) and as an Avalanche
plugin; must not know heads, tasks or which strategy it accompanies.

The one step of length epsilon along the gradient is FGM of Miyato, Dai & Goodfellow, "Adversarial
Training Methods for Semi-Supervised Text Classification", ICLR 2017, section 3; the several smaller
ones inside a ball are PGD (Madry et al., ICLR 2018); to learn from the gradients of all of them is
FreeLB (Zhu et al., ICLR 2020). Ours differs: what is perturbed are the rows of the word
embeddings that the batch uses, together, and not each text's embedded tokens, so that any encoder
takes part without a change; and the first step follows the gradient that the clean backward pass
has left, where Madry et al. and FreeLB begin at a random point. No chance is involved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn

from learners.batch import IDS, MASK
from learners.model import Encoder
from learners.template import StreamTemplate
from schemas.errors import EncoderError


@dataclass(frozen=True, slots=True)
class AdversarialConfig:
    """How far and how often a batch is made harder; by default not at all.

    Attributes:
        epsilon: L2 length of the perturbation of all rows together, in the embeddings' own units;
            0 turns the plugin off. A row of all-MiniLM-L6-v2 has a length of about 1.1.
        steps: forward and backward passes a batch, beside the clean ones: each costs as much.
        step_share: length of one step, in units of epsilon.
        learn_from: the gradients that are added to the clean ones: the last step's, or the mean of
            all steps'.
        weight: factor of what is added.
    """

    epsilon: float = 0.0
    steps: int = 1
    step_share: float = 1.0
    learn_from: Literal["last", "mean"] = "last"
    weight: float = 1.0


def fgm(epsilon: float = 0.5) -> AdversarialConfig:
    """Give the fast gradient method's config: one step of length `epsilon`."""
    return AdversarialConfig(epsilon=epsilon)


def pgd(epsilon: float = 0.5, *, steps: int = 3) -> AdversarialConfig:
    """Give projected gradient descent's config: steps of .4 epsilon, learning from the last."""
    return AdversarialConfig(epsilon=epsilon, steps=steps, step_share=0.4)


def free(epsilon: float = 0.5, *, steps: int = 3) -> AdversarialConfig:
    """Give FreeLB's config: as `pgd`, but learning from all steps."""
    return AdversarialConfig(epsilon=epsilon, steps=steps, step_share=0.4, learn_from="mean")


Adversary = Literal["off", "fgm", "pgd", "freelb"]
ADVERSARIES: Mapping[Adversary, AdversarialConfig] = {
    "off": AdversarialConfig(),
    "fgm": fgm(),
    "pgd": pgd(),
    "freelb": free(),
}


def check_config(config: AdversarialConfig) -> None:
    """Check the numbers of a config.

    Raises:
        ValueError: one is out of its range.
    """
    for name in ("epsilon", "weight"):
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name} is {getattr(config, name)}: it must not be negative")
    if config.steps < 1:
        raise ValueError(f"steps is {config.steps}: it must be positive")
    if not config.step_share > 0:
        raise ValueError(f"step_share is {config.step_share}: it must be over 0")


def harden(
    encoder: Encoder,
    packed: Tensor,
    loss: Callable[[], Tensor],
    *,
    trained: Sequence[nn.Parameter],
    config: AdversarialConfig,
) -> None:
    """Add the gradients of a harder copy of a batch to those that a clean backward pass has left.

    The steps are these:

    1. take the gradient at the embeddings that the clean pass left;
    2. move the batch's rows along it, and back into the ball of radius epsilon;
    3. run a forward and a backward pass there; from 2 again for every further step;
    4. put back the rows bit by bit, whatever happened.

    Args:
        encoder: the one that is trained.
        packed: the batch, int64 [rows, 2, tokens].
        loss: gives its loss, a scalar, as the weights are at that moment.
        trained: parameters whose gradients grow.
        config: how far and how often; its numbers are checked.

    Raises:
        EncoderError: the embeddings get no gradient, because they are not trained.
    """
    if config.epsilon == 0:
        return
    table = encoder.word_embeddings
    if table.grad is None:
        raise EncoderError(
            f"the word embeddings of {encoder.name!r} get no gradient: adversarial "
            "training needs them trained"
        )
    rows = packed[:, IDS][packed[:, MASK] == 1].unique()  # type: ignore[no-untyped-call]
    clean = table.detach()[rows].clone()  # [batch vocabulary, hidden]
    slope, moved = table.grad[rows], torch.zeros_like(clean)
    try:
        for step in range(config.steps):
            if not 0 < (length := float(slope.norm())) < float("inf"):
                return  # no direction is worse than another
            moved += slope * (config.epsilon * config.step_share / length)
            moved *= config.epsilon / max(config.epsilon, float(moved.norm()))
            with torch.no_grad():
                table[rows] = clean + moved
            slope = _learn(loss, table, rows, trained, share=_share(config, step))
    finally:
        with torch.no_grad():
            table[rows] = clean


def _learn(
    loss: Callable[[], Tensor],
    table: nn.Parameter,
    rows: Tensor,
    trained: Sequence[nn.Parameter],
    *,
    share: float,
) -> Tensor:
    """Add a share of the gradients where the embeddings are now; give that of their rows."""
    wanted = list(trained) if share > 0 else [table]  # a step that only leads on is cheaper
    gradients: Sequence[Tensor | None] = torch.autograd.grad(loss(), wanted, allow_unused=True)
    slope = torch.zeros_like(table[rows])
    for parameter, gradient in zip(wanted, gradients, strict=True):
        if gradient is None:
            continue
        if parameter is table:
            slope = gradient[rows]
        if share > 0:
            _add(parameter, gradient * share)
    return slope


def _share(config: AdversarialConfig, step: int) -> float:
    """Give the factor of one step's gradients."""
    if config.learn_from == "mean":
        return config.weight / config.steps
    return config.weight if step == config.steps - 1 else 0.0


def _add(parameter: nn.Parameter, gradient: Tensor) -> None:
    if parameter.grad is None:
        parameter.grad = gradient
    else:
        parameter.grad += gradient


class AdversarialTraining(SupervisedPlugin):  # type: ignore[misc]  # Avalanche is untyped
    """Adds the gradients of a harder copy of each mini-batch.

    In the plugin list it belongs before whatever rewrites gradients after the backward pass
    (A-GEM); its place among the others is free. What plugins add to the loss acts in the clean pass
    only; the template's loss and output stay those of the clean pass.

    Args:
        encoder: the one that is trained.
        config: how far and how often.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(self, encoder: Encoder, config: AdversarialConfig) -> None:
        super().__init__()
        check_config(config)
        self.config = config
        self._encoder = encoder

    def after_backward(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Harden the mini-batch at hand; an `EncoderError` where the embeddings are not trained."""
        if self.config.epsilon == 0 or not strategy.loss.requires_grad:
            return
        harden(
            self._encoder,
            strategy.mb_x,
            lambda: _loss(strategy),
            trained=[p for p in strategy.model.parameters() if p.requires_grad],
            config=self.config,
        )


def _loss(strategy: StreamTemplate) -> Tensor:
    """Give the criterion's loss of the mini-batch as the model is now: a scalar."""
    output = strategy.mb_output
    try:
        strategy.mb_output = strategy.forward()
        loss: Tensor = strategy.criterion()
    finally:
        strategy.mb_output = output
    return loss
