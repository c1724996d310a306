"""Numbers that a strategy keeps for every weight, and the penalty made of them.

Owns copies by parameter name, their padding when the head grows, and the quadratic penalty. Must
not know how importances are found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from learners.strategies.base import Arrays
from learners.strategies.finetuning import only, under


class PerWeight:
    """A tensor of every trained parameter's shape, zero where nothing was written yet.

    A head that grows gets new rows at its end: what is kept for it is padded there with zeros.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def get(self, name: str, like: Tensor) -> Tensor:
        """Give the tensor kept for a parameter, of the parameter's present shape."""
        kept = self._kept.get(name)
        if kept is None or kept.shape != like.shape:
            padded = torch.zeros_like(like, requires_grad=False)
            if kept is not None:
                padded[: len(kept)] = kept
            kept = self._kept[name] = padded
        return kept

    def copy(self, model: nn.Module) -> None:
        """Keep the parameters themselves, as they are now."""
        for name, parameter in trained(model):
            self.get(name, parameter).copy_(parameter.detach())

    def zero(self) -> None:
        """Set everything to zero."""
        for kept in self._kept.values():
            kept.zero_()

    def largest(self) -> float:
        """Give the largest number kept; 0 when there is none."""
        return max((float(kept.max()) for kept in self._kept.values()), default=0.0)

    def state(self, prefix: str) -> Arrays:
        """Write all, names under a prefix."""
        return under(prefix, self._kept)

    def restore(self, arrays: Mapping[str, Tensor], prefix: str, model: nn.Module) -> None:
        """Take up what `state` wrote, onto the model's device."""
        device = next(model.parameters()).device
        self._kept = {n: t.clone().to(device) for n, t in only(arrays, prefix).items()}


def trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """List the parameters that train, by name.

    Yields:
        Name and parameter.
    """
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


class Penalty:
    """Half the sum of importance times squared distance from the anchor, times a strength.

    Args:
        strength: of the whole.

    Attributes:
        importance: of every weight, 0 or more.
        anchor: where every weight was at the last consolidation point.
    """

    def __init__(self, strength: float) -> None:
        self.strength = strength
        self.importance = PerWeight()
        self.anchor = PerWeight()

    def loss(self, model: nn.Module) -> Tensor:
        """Give the penalty, a float32 scalar with gradients."""
        terms = [
            (self.importance.get(name, p) * (p - self.anchor.get(name, p)).square()).sum()
            for name, p in trained(model)
        ]
        return 0.5 * self.strength * torch.stack(terms).sum()

    def task_gradient(self, name: str, parameter: Tensor) -> Tensor:
        """Give a parameter's gradient without the penalty's part."""
        if parameter.grad is None:
            return torch.zeros_like(parameter)
        away = parameter.detach() - self.anchor.get(name, parameter)
        return parameter.grad - self.strength * self.importance.get(name, parameter) * away

    def state(self) -> Arrays:
        """Importances and anchors."""
        return {**self.importance.state("importance."), **self.anchor.state("anchor.")}

    def restore(self, arrays: Mapping[str, Tensor], model: nn.Module) -> None:
        """Take up a state."""
        self.importance.restore(arrays, "importance.", model)
        self.anchor.restore(arrays, "anchor.", model)
