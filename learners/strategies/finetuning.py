"""What the strategies that train by gradient share: encoder, growing head, AdamW and their state.

Owns one trainable model over the stream template. Dropout stays off: a step is then the same
wherever it is taken up again, and the score before learning is clean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn

from learners.batch import collate
from learners.heads.base import ServedHead
from learners.heads.linear import LinearHead
from learners.strategies.base import Arrays, Meta, StepOutcome, StrategyConfig
from learners.template import MicroBatch, StreamTemplate
from schemas.fields import Label


class TrainedClassifier(nn.Module):
    """Encoder and linear head, both trained.

    Args:
        encoder: int64 [rows, 2, tokens] to float32 [rows, width].
        head: float32 [rows, width] to float32 [rows, labels].
    """

    def __init__(self, encoder: nn.Module, head: LinearHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, packed: Tensor) -> Tensor:
        """Give logits, float32 [rows, labels]."""
        logits: Tensor = self.head(self.encoder(packed))
        return logits

    def train(self, mode: bool = True) -> TrainedClassifier:
        """Stay in evaluation mode: no dropout, whatever the template asks for."""
        del mode
        return super().train(False)


class KeepScores(SupervisedPlugin):  # type: ignore[misc]  # Avalanche is untyped
    """Keeps the logits of the live rows, computed before the step that learns them."""

    def __init__(self) -> None:
        super().__init__()
        self.logits: Tensor = torch.zeros(0, 0)

    def after_forward(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Remember the rows that came from the stream."""
        live = len(strategy.experience.batch.ids)
        self.logits = strategy.mb_output.detach()[:live]


class StreamPlugin(SupervisedPlugin):  # type: ignore[misc]  # Avalanche is untyped
    """What a gradient strategy adds to plain fine-tuning: an Avalanche plugin with a state."""

    replayed = 0

    def attach(self, owner: FineTuning) -> None:
        """Learn whose plugin this is, before the first step."""

    def state(self) -> Meta:
        """Everything the next step depends on."""
        return {}

    def restore(self, meta: Mapping[str, Any]) -> None:
        """Take up a state."""


class FineTuning:
    """Trains encoder and head on micro-batches.

    Args:
        config: shared by all strategies.
        name: of the strategy.
        plugin: what tells this strategy from plain fine-tuning.
    """

    batch_rows = 32
    trains_encoder = True

    def __init__(self, config: StrategyConfig, *, name: str, plugin: StreamPlugin) -> None:
        self.name = name
        self.encoder = config.encoder
        self.kind = config.kind
        self.encoder.module.requires_grad_(True)
        self._head = LinearHead(config.encoder.width, seed=config.seed)
        self._keep = KeepScores()
        self._plugin = plugin
        plugin.attach(self)
        model = TrainedClassifier(self.encoder.module, self._head)
        self._optimizer = torch.optim.AdamW(
            [
                {"params": list(self.encoder.module.parameters()), "lr": config.learning_rate},
                {"params": list(self._head.parameters()), "lr": config.head_learning_rate},
            ],
            weight_decay=0.01,
        )
        self._template = StreamTemplate(
            model=model,
            optimizer=self._optimizer,
            criterion=self.kind.loss,
            device=self.encoder.device,
            plugins=[plugin, self._keep],
        )

    @property
    def head(self) -> ServedHead:
        """The trained head, as it would serve."""
        return self._head

    def targets(self, labels: Sequence[Label]) -> Tensor:
        """Grow the head for what is new and give the targets; first dimension rows."""
        rows = len(self._head.weight)
        self._head.grow(text for label in labels for text in self.kind.label_texts(label))
        if len(self._head.weight) > rows:
            self._head.fit_optimizer(self._optimizer)
        index = {text: row for row, text in enumerate(self._head.labels)}
        return self.kind.targets(labels, index=index)

    def step(self, batch: MicroBatch) -> StepOutcome:
        """Score, then train, one micro-batch; held-out rows are left out."""
        known = tuple(self._head.labels)
        keep = [i for i, held_out in enumerate(batch.held_out) if not held_out]
        if not keep:
            return StepOutcome(scores=None, labels=known, loss=0.0, replayed=0)
        train = MicroBatch(
            packed=batch.packed[keep],
            labels=tuple(batch.labels[i] for i in keep),
            previous=tuple(batch.previous[i] for i in keep),
            held_out=(False,) * len(keep),
            ids=tuple(batch.ids[i] for i in keep),
        )
        targets = self.targets(train.labels)
        loss = self._template.learn(train, targets)
        return StepOutcome(
            scores=self._scores(len(batch.ids), keep, len(known)),
            labels=known,
            loss=loss,
            replayed=self._plugin.replayed,
        )

    def _scores(
        self, rows: int, keep: list[int], known: int
    ) -> np.ndarray[Any, np.dtype[np.float32]] | None:
        """Put the live scores into their rows; a held-out row keeps NaN, which is not scored."""
        if not known:
            return None
        scores = np.full((rows, known), np.nan, dtype=np.float32)
        scores[keep] = self._keep.logits[:, :known].float().cpu().numpy()
        return scores

    def settle(self) -> None:
        """Nothing waits: weights are current after every step."""

    def head_blobs(self) -> dict[str, bytes]:
        """Write the trained head."""
        return self._head.blobs()

    def state(self) -> tuple[Arrays, Meta]:
        """Weights of encoder and head, and the optimizer's moments."""
        arrays: Arrays = {
            f"encoder.{name}": tensor.detach().cpu()
            for name, tensor in self.encoder.module.state_dict().items()
        }
        arrays |= {f"head.{n}": t.detach().cpu() for n, t in self._head.state_dict().items()}
        for number, moments in self._optimizer.state_dict()["state"].items():
            arrays |= {f"optimizer.{number}.{n}": t.cpu() for n, t in moments.items()}
        return arrays, {
            "labels": list(self._head.labels),
            "batches": self._template.batches,
            "plugin": self._plugin.state(),
        }

    def restore(self, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up a state."""
        self._head.grow(meta["labels"])
        self.encoder.module.load_state_dict(_under(arrays, "encoder."))
        self._head.load_state_dict(_under(arrays, "head."))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under(arrays, "optimizer.").items():
            number, _, field = name.partition(".")
            moments.setdefault(int(number), {})[field] = tensor
        state = self._optimizer.state_dict()
        self._optimizer.load_state_dict({**state, "state": moments})
        self._template.batches = int(meta["batches"])
        self._plugin.restore(meta["plugin"])


def _under(arrays: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in arrays.items() if n.startswith(prefix)}


def pad_together(packed: Tensor, tokens: Sequence[Sequence[int]]) -> Tensor:
    """Append token lists to a packed batch, padding both to the longer one.

    Args:
        packed: int64 [rows, 2, tokens].
        tokens: token ids of further rows.

    Returns:
        int64 [rows + further, 2, longest].
    """
    more = collate(tokens)
    longest = max(packed.shape[2], more.shape[2])
    return torch.cat(
        [nn.functional.pad(part, (0, longest - part.shape[2])) for part in (packed, more)]
    )
