"""Avalanche's supervised template, fed by micro-batches straight from the stream.

Owns what an endless stream needs changed in the template of avalanche-lib 0.6.0: no data set and no
data loader (a micro-batch is one tensor of ids and mask), the optimizer left as it was given, no
backward pass where nothing can learn from it, no evaluator that remembers every iteration, and
experiences that end when `consolidate` says so. Strategies are Avalanche plugins over this loop.
Must not know Kafka, Redis or checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from avalanche.logging import BaseLogger
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from schemas.fields import Label

PASS_ROWS = 8  # of a plugin's own passes over an experience's data set
CLOCK = (
    "train_iterations",
    "train_exp_counter",
    "train_exp_epochs",
    "train_exp_iterations",
    "total_iterations",
)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """A few examples on their way into the model.

    Attributes:
        packed: int64 [rows, 2, tokens]: token ids and mask.
        labels: truth of each row.
        previous: the label that each row's label corrects, or None.
        held_out: True for rows that must never train.
        ids: interaction ids.
        texts: what was tokenised, one a row; none where nobody needs them.
    """

    packed: Tensor
    labels: tuple[Label, ...]
    previous: tuple[Label | None, ...]
    held_out: tuple[bool, ...]
    ids: tuple[str, ...]
    texts: tuple[str, ...] = ()


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


@dataclass(frozen=True, slots=True)
class FinishedExperience:
    """The examples between two consolidation points, as plugins see them at the second.

    Attributes:
        dataset: a bounded sample of them: rows of (int64 [2, tokens], target, task 0).
        current_experience: counts micro-batches.
    """

    dataset: TensorDataset
    current_experience: int

    def logging(self) -> FinishedExperience:
        """Give what Avalanche's loggers may see: all of it."""
        return self


class StreamTemplate(SupervisedTemplate):  # type: ignore[misc]  # Avalanche is untyped
    """The training loop: Avalanche's, over one micro-batch at a time.

    To a plugin, `train` is the stretch between two consolidation points: its hooks around training
    and around an experience are called there, and `clock.train_exp_counter` counts them. Around a
    micro-batch come the hooks of an epoch of one iteration.

    Args:
        model: int64 [rows, 2, tokens] to outputs.
        optimizer: kept as it is; parameters are neither added nor reset.
        criterion: outputs and targets to a scalar loss.
        device: where the model lives.
        plugins: the strategy.

    Attributes:
        experience: a `StreamExperience`; while `consolidate` runs, a `FinishedExperience`.
    """

    experience: Any

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
            train_mb_size=PASS_ROWS,
            device=device,
            plugins=list(plugins),
            evaluator=EvaluationPlugin(loggers=[BaseLogger()]),  # a logger that says nothing
            eval_every=-1,
        )
        self.batches = 0
        self._opened = False  # whether plugins were told of the experience that goes on

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

    def consolidate(self, dataset: TensorDataset) -> None:
        """End the experience: plugins take what is known now as what must not be forgotten.

        Args:
            dataset: see `FinishedExperience`.
        """
        self.experience = FinishedExperience(dataset, self.batches)
        self.is_training = True
        super()._after_training_exp()
        super()._after_training()
        self._train_cleanup()
        self._opened = False

    def state(self) -> dict[str, Any]:
        """Where the counts stand, as JSON."""
        clock = {name: getattr(self.clock, name) for name in CLOCK}
        return {"batches": self.batches, "opened": self._opened, "clock": clock}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the counts."""
        self.batches = int(state["batches"])
        self._opened = bool(state["opened"])
        for name in CLOCK:
            setattr(self.clock, name, int(state["clock"][name]))

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

    def _before_training(self, **kwargs: Any) -> None:  # noqa: ANN401
        if not self._opened:
            super()._before_training(**kwargs)

    def _before_training_exp(self, **kwargs: Any) -> None:  # noqa: ANN401
        if self._opened:
            self.make_train_dataloader()
            return
        super()._before_training_exp(**kwargs)
        self._opened = True

    def _after_training_exp(self, **_: Any) -> None:  # noqa: ANN401
        """Wait for `consolidate`: an experience goes on past its micro-batches."""

    def _after_training(self, **_: Any) -> None:  # noqa: ANN401
        """Wait for `consolidate`."""
