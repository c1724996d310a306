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
        seed: kept for heads with random first values; rows of this one start at zero.

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
        self._outgrown: list[tuple[nn.Parameter, str]] = []
        self.weight = nn.Parameter(torch.zeros(FIRST_ROWS, width))
        self.bias = nn.Parameter(torch.zeros(FIRST_ROWS))

    def row_of(self, label: str) -> int:
        """Give the row of a label, a new one when it was never seen."""
        if label not in self._index:
            self._index[label] = len(self.labels)
            self.labels.append(label)
            if len(self.labels) > len(self.weight):
                self._make_room()
        return self._index[label]

    def grow(self, labels: Iterable[str]) -> None:
        """Give every label a row."""
        for label in labels:
            self.row_of(label)

    def _make_room(self) -> None:
        """Double the rows.

        New parameters, not resized ones: graphs of the old may still be alive.
        """
        for name in ("weight", "bias"):
            old: nn.Parameter = getattr(self, name)
            self._outgrown.append((old, name))
            setattr(self, name, nn.Parameter(torch.cat([old.detach(), torch.zeros_like(old)])))

    def fit_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Give the optimizer the parameters of a head that has grown, moments padded with zeros.

        To be called after labels were added and before the next step; without growth it does
        nothing.
        """
        for old, name in self._outgrown:
            new: nn.Parameter = getattr(self, name)
            for group in optimizer.param_groups:
                group["params"] = [new if p is old else p for p in group["params"]]
            moments = optimizer.state.pop(old, {})
            for key, value in moments.items():
                if isinstance(value, Tensor) and value.shape == old.shape:
                    padded = torch.zeros_like(new)
                    padded[: len(old)] = value
                    moments[key] = padded
            if moments:
                optimizer.state[new] = moments
        self._outgrown.clear()

    def forward(self, features: Tensor) -> Tensor:
        """Give logits: float32 [rows, width] to float32 [rows, labels].

        Raises:
            RuntimeError: the head has grown past what the optimizer knows: `fit_optimizer` is due.
        """
        if self._outgrown and torch.is_grad_enabled():
            raise RuntimeError("the head has grown: fit_optimizer must come before the next step")
        known = len(self.labels)
        return nn.functional.linear(
            FEATURE_SCALE * features, self.weight[:known], self.bias[:known]
        )

    def scores(self, features: Floats) -> Floats:
        """Give logits without gradients: float32 [rows, width] to float32 [rows, labels]."""
        with torch.no_grad():
            mine = np.ascontiguousarray(features[:, : self.weight.shape[1]])
            x = torch.from_numpy(mine).to(self.weight.device)
            scores: Floats = self.forward(x).float().cpu().numpy()
        return scores

    def correct(self, probabilities: Floats) -> Floats:
        """Leave probabilities as they are: training calibrates them."""
        return probabilities

    def unknown(self, features: Floats, scores: Floats) -> Floats | None:
        """Say nothing: a trained linear head has no means to compare with."""
        del features, scores
        return None

    def solved(self) -> SolvedLinear:
        """Give the head as it is now; later steps do not change it."""
        known = len(self.labels)
        return SolvedLinear(
            tuple(self.labels),
            self.scale,
            self.threshold,
            self.weight[:known].detach().cpu().numpy() * np.float32(FEATURE_SCALE),
            self.bias[:known].detach().cpu().numpy().copy(),
        )

    def blobs(self) -> dict[str, bytes]:
        """Write `head`: float32 weights [labels, width] and bias [labels]."""
        now = self.solved()
        meta = {
            "type": "linear",
            "labels": list(now.labels),
            "scale": now.scale,
            "threshold": now.threshold,
        }
        return {"head": pack({"weights": now.weights, "bias": now.bias}, meta)}


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
        x = torch.from_numpy(np.ascontiguousarray(features[:, : self.weights.shape[1]]))
        scores: Floats = torch.addmm(
            torch.from_numpy(self.bias), x, torch.from_numpy(self.weights).T
        ).numpy()
        return scores

    def correct(self, probabilities: Floats) -> Floats:
        """Leave probabilities as they are: training calibrated them."""
        return probabilities

    def unknown(self, features: Floats, scores: Floats) -> Floats | None:
        """Say nothing: a trained linear head has no means to compare with."""
        del features, scores
        return None

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
