"""A linear head that is trained by gradients and grows by label text.

Owns weights, rows and growth; must not know the optimizer's kind, encoders or tasks. Room for rows
is made in powers of two: rows without a label are zero, get no gradient and are never scored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from learners.heads.base import Floats, pack, unpack

FIRST_ROWS = 256
FEATURE_SCALE = 16.0  # features have length 1: scaled, logits reach confidence at small weights


class LinearHead(nn.Module):
    """logits = 16 x W' + b over the labels seen so far.

    Args:
        width: length of a feature row.
        seed: of the rows' first values: a row's depends on the seed and its number alone.

    Attributes:
        labels: in order of appearance, never re-indexed.
        scale: 1.0: logits are calibrated by training.
        threshold: probability from which a label is said.
    """

    def __init__(self, width: int, *, seed: int = 0) -> None:
        super().__init__()
        self.labels: list[str] = []
        self.scale = 1.0
        self.threshold = 0.5
        self._index: dict[str, int] = {}
        self._seed = seed
        self.weight = nn.Parameter(torch.zeros(FIRST_ROWS, width))
        self.bias = nn.Parameter(torch.zeros(FIRST_ROWS))

    def row_of(self, label: str) -> int:
        """Give the row of a label, a new one when it was never seen."""
        if label not in self._index:
            self._index[label] = len(self.labels)
            self.labels.append(label)
            if len(self.labels) > len(self.weight):
                more = len(self.weight)
                with torch.no_grad():
                    self.weight.data = nn.functional.pad(self.weight.data, (0, 0, 0, more))
                    self.bias.data = nn.functional.pad(self.bias.data, (0, more))
                self.weight.grad = self.bias.grad = None
        return self._index[label]

    def grow(self, labels: Iterable[str]) -> None:
        """Give every label a row."""
        for label in labels:
            self.row_of(label)

    def fit_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Pad the optimizer's moments of this head with zeros, after rows were added.

        The parameters stay the same objects when the head grows, so the optimizer keeps them.
        """
        for parameter in (self.weight, self.bias):
            for name, moment in optimizer.state.get(parameter, {}).items():
                if isinstance(moment, Tensor) and moment.dim() == parameter.dim():
                    missing = len(parameter) - len(moment)
                    padding = [0, 0] * (moment.dim() - 1) + [0, missing]
                    optimizer.state[parameter][name] = nn.functional.pad(moment, padding)

    def forward(self, features: Tensor) -> Tensor:
        """Give logits: float32 [rows, width] to float32 [rows, labels]."""
        known = len(self.labels)
        return nn.functional.linear(
            FEATURE_SCALE * features, self.weight[:known], self.bias[:known]
        )

    def scores(self, features: Floats) -> Floats:
        """Give logits without gradients: float32 [rows, width] to float32 [rows, labels]."""
        with torch.no_grad():
            x = torch.from_numpy(np.ascontiguousarray(features)).to(self.weight.device)
            scores: Floats = self.forward(x).float().cpu().numpy()
        return scores

    def blobs(self) -> dict[str, bytes]:
        """Write `head`: float32 weights [labels, width] and bias [labels]."""
        known = len(self.labels)
        arrays = {
            "weights": self.weight[:known].detach().cpu().numpy() * np.float32(FEATURE_SCALE),
            "bias": self.bias[:known].detach().cpu().numpy(),
        }
        meta = {
            "type": "linear",
            "labels": list(self.labels),
            "scale": self.scale,
            "threshold": self.threshold,
        }
        return {"head": pack(arrays, meta)}


@dataclass(frozen=True, slots=True)
class SolvedLinear:
    """A linear head as it was released.

    Attributes:
        labels: label of every row.
        scale: factor from scores to calibrated logits.
        threshold: probability from which a label is said.
        weights: float32 [labels, width].
        bias: float32 [labels].
    """

    labels: tuple[str, ...]
    scale: float
    threshold: float
    weights: Floats
    bias: Floats

    def scores(self, features: Floats) -> Floats:
        """Score float32 [rows, width]: float32 [rows, labels]."""
        x = torch.from_numpy(np.ascontiguousarray(features))
        scores: Floats = torch.addmm(
            torch.from_numpy(self.bias), x, torch.from_numpy(self.weights).T
        ).numpy()
        return scores

    @classmethod
    def from_blobs(cls, blobs: Mapping[str, bytes]) -> SolvedLinear:
        """Read what `LinearHead.blobs` wrote."""
        arrays, meta = unpack(blobs["head"])
        return cls(
            labels=tuple(meta["labels"]),
            scale=float(meta["scale"]),
            threshold=float(meta["threshold"]),
            weights=arrays["weights"],
            bias=arrays["bias"],
        )
