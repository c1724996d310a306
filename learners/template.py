"""Avalanche's supervised template, fed by micro-batches straight from the stream.

Owns what an endless stream needs changed in the template of avalanche-lib 0.6.0: no data set and no
data loader (a micro-batch is one tensor of ids and mask), the optimizer left as it was given, no
backward pass where nothing can learn from it, and no evaluator that remembers every iteration.
Strategies are Avalanche plugins over this loop. Must not know Kafka, Redis or checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from avalanche.logging import BaseLogger
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn

from schemas.fields import Label


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """A few examples on their way into the model.

    Attributes:
        packed: int64 [rows, 2, tokens]: token ids and mask.
        labels: truth of each row.
        previous: the label that each row's label corrects, or None.
        held_out: True for rows that must never train.
        ids: interaction ids.
    """

    packed: Tensor
    labels: tuple[Label, ...]
    previous: tuple[Label | None, ...]
    held_out: tuple[bool, ...]
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StreamExperience:
    """One micro-batch in the shape that Avalanche calls an experience.

    Attributes:
        batch: the micro-batch.
        targets: what the criterion compares with; its first dimension is rows.
        current_experience: counts micro-batches.
    """

    batch: MicroBatch
    targets: Tensor
    current_experience: int

    def logging(self) -> StreamExperience:
        """Give what Avalanche's loggers may see: all of it."""
        return self


class StreamTemplate(SupervisedTemplate):  # type: ignore[misc]  # Avalanche is untyped
    """The training loop: Avalanche's, over one micro-batch at a time.

    Args:
        model: int64 [rows, 2, tokens] to outputs.
        optimizer: kept as it is; parameters are neither added nor reset.
        criterion: outputs and targets to a scalar loss.
        device: where the model lives.
        plugins: the strategy.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        criterion: Callable[[Tensor, Tensor], Tensor],
        device: torch.device,
        plugins: Sequence[SupervisedPlugin],
    ) -> None:
        super().__init__(
            model=model,
            optimizer=optimizer,
            criterion=criterion,
            device=device,
            plugins=list(plugins),
            evaluator=EvaluationPlugin(loggers=[BaseLogger()]),  # a logger that says nothing
            eval_every=-1,
        )
        self.batches = 0

    def learn(self, batch: MicroBatch, targets: Tensor) -> float:
        """Run one training iteration.

        Args:
            batch: the micro-batch.
            targets: for the criterion; first dimension rows.

        Returns:
            The loss; 0.0 where nothing is trained by gradient.
        """
        self.train(StreamExperience(batch, targets, self.batches), eval_streams=[])
        self.batches += 1
        return self.last_loss

    def training_epoch(self, **kwargs: Any) -> None:  # noqa: ANN401
        """Run the template's own epoch and keep the loss, which its clean-up clears."""
        super().training_epoch(**kwargs)
        self.last_loss = float(self.loss.detach())

    def train_dataset_adaptation(self, **_: Any) -> None:  # noqa: ANN401
        """Nothing to adapt: there is no data set."""

    def make_train_dataloader(self, **_: Any) -> None:  # noqa: ANN401
        """Hand over the micro-batch itself."""
        experience = self.experience
        tasks = torch.zeros(len(experience.batch.ids), dtype=torch.long)
        self.dataloader = [[experience.batch.packed, experience.targets, tasks]]

    def check_model_and_optimizer(self, **_: Any) -> None:  # noqa: ANN401
        """Leave model and optimizer alone: heads grow in the strategy, by label text."""

    def backward(self) -> None:
        """Run the backward pass where something can learn from it."""
        if self.loss.requires_grad:
            super().backward()

    def optimizer_step(self) -> None:
        """Step where a backward pass ran."""
        if self.loss.requires_grad:
            super().optimizer_step()
