"""Avalanche plugins as a user may write them: good ones, and ones that cannot run on a stream."""

from __future__ import annotations

import random
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin


class Centroids(SupervisedPlugin):  # type: ignore[misc]  # Avalanche is untyped
    """Holds features near a running centre of the last experience's inputs."""

    def __init__(self, weight: float = 0.1) -> None:
        super().__init__()
        self.weight = weight
        self.centre: torch.Tensor | None = None
        self.seen: dict[str, int] = {}

    def before_backward(self, strategy: Any, **_: Any) -> None:
        self.seen["iterations"] = self.seen.get("iterations", 0) + 1
        if self.centre is not None:
            strategy.loss += self.weight * (strategy.model.features - self.centre).square().mean()

    def after_training_exp(self, strategy: Any, **_: Any) -> None:
        with torch.no_grad():
            inputs = torch.stack([row[0] for row in strategy.experience.dataset])
            strategy.model(inputs)
            self.centre = strategy.model.features.mean(dim=0)


class NeedsBenchmark(SupervisedPlugin):  # type: ignore[misc]
    """Asks for what only a benchmark has."""

    def before_training_exp(self, strategy: Any, **_: Any) -> None:
        self.classes = strategy.experience.classes_in_this_experience


class KeepsGenerator(SupervisedPlugin):  # type: ignore[misc]
    """Keeps something that no checkpoint can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.random = random.Random(0)


class MakesNaN(SupervisedPlugin):  # type: ignore[misc]
    """Divides by zero."""

    def before_backward(self, strategy: Any, **_: Any) -> None:
        strategy.loss += strategy.loss / 0.0


class NoPlugin:
    """Is something else."""
