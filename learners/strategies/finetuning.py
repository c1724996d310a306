"""What the strategies that train by gradient share: encoder, growing head, AdamW and their state.

Owns one trainable model over the stream template, and when it consolidates. What of the encoder is
trained, `learners.tuning` says; the head always is. Dropout stays off: a
step is then the same wherever it is taken up again, and the score before learning is clean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from learners.batch import collate
from learners.heads.base import ServedHead
from learners.heads.class_drift import ClassDrift
from learners.heads.linear import LinearHead
from learners.strategies.base import Arrays, Meta, StepOutcome, StrategyConfig
from learners.strategies.rows import Sampled, rows_of
from learners.template import MicroBatch, StreamTemplate
from learners.tuning import Tuned, TuningConfig, tune
from schemas.errors import CheckpointError
from schemas.fields import Label

DRIFT_SHARE = 0.1  # of `consolidate_every`: drift consolidates no more often than that
NO_FEATURES = np.zeros(1, dtype=np.float32)  # nothing starts again from newest rows here


class TrainedClassifier(nn.Module):
    """Encoder and linear head, both trained.

    Args:
        encoder: int64 [rows, 2, tokens] to float32 [rows, width].
        head: float32 [rows, width] to float32 [rows, labels].

    Attributes:
        features: float32 [rows, width] of the last forward pass, where Avalanche's plugins look.
    """

    def __init__(self, encoder: nn.Module, head: LinearHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.features: Tensor | None = None

    def forward(self, packed: Tensor) -> Tensor:
        """Give logits, float32 [rows, labels]."""
        self.features = self.encoder(packed)
        logits: Tensor = self.head(self.features)
        return logits

    def __getstate__(self) -> dict[str, Any]:
        """Leave the features out of copies: a graph may hang on them, which none can take along."""
        return {**self.__dict__, "features": None}

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


class FollowTuning(SupervisedPlugin):  # type: ignore[misc]  # Avalanche is untyped
    """Does at every step what the encoder's tuning method asks for.

    Args:
        tuned: the method, on the encoder that is trained.
    """

    def __init__(self, tuned: Tuned) -> None:
        super().__init__()
        self._tuned = tuned

    def before_backward(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Add the method's own part of the loss."""
        penalty = self._tuned.penalty()
        if penalty is not None:
            strategy.loss += penalty

    def after_update(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Let the method follow the step; gradients are still there."""
        del strategy
        self._tuned.stepped()


class StreamPlugin(SupervisedPlugin):  # type: ignore[misc]  # Avalanche is untyped
    """What a gradient strategy adds to plain fine-tuning: an Avalanche plugin with a state.

    Attributes:
        replayed: rows from memory in the last micro-batch.
        sampled_rows: how many rows of an experience it wants to see again when that ends.
        holds: whether it holds something in place from a consolidation point on.
    """

    replayed = 0
    sampled_rows = 0
    holds = False

    @property
    def callbacks(self) -> SupervisedPlugin:
        """What the template calls."""
        return self

    def attach(self, owner: FineTuning) -> None:
        """Learn whose plugin this is, before the first step."""

    def grown(self, model: TrainedClassifier) -> None:
        """Learn that the head has new parameters, longer than the old ones."""

    def state(self) -> tuple[Arrays, Meta]:
        """Everything the next step depends on."""
        return {}, {}

    def restore(self, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up a state."""


class FineTuning:
    """Trains encoder, as far as its tuning goes, and head on micro-batches.

    Args:
        config: shared by all strategies.
        name: of the strategy.
        plugin: what tells this strategy from plain fine-tuning.

    Attributes:
        trains_encoder: False where the encoder is frozen.
        tuned: what of the encoder is trained.
    """

    batch_rows = 32

    def __init__(self, config: StrategyConfig, *, name: str, plugin: StreamPlugin) -> None:
        self.name = name
        self.encoder = config.encoder
        self.kind = config.kind
        self.trains_encoder = config.tuning != "frozen"
        self._started_from = "" if config.tuning == "full" else self.encoder.space_id
        self.tuned = tune(
            self.encoder.module,
            TuningConfig(
                method=config.tuning,
                rank=config.tuning_rank,
                virtual_tokens=config.virtual_tokens,
                seed=config.seed,
            ),
            max_tokens=self.encoder.max_tokens,
        )
        self._head = LinearHead(config.encoder.width, seed=config.seed)
        self.model = TrainedClassifier(self.encoder.module, self._head)
        self._keep = KeepScores()
        self._plugin = plugin
        self._seen = Sampled(plugin.sampled_rows, seed=config.seed)
        self._consolidate_every = config.consolidate_every
        self._drift = ClassDrift(len(NO_FEATURES))
        self._holds = plugin.holds
        self._watches_drift = self._holds and self.kind.head_solver == "class-balanced"
        self._drifted = False  # since the last consolidation point
        plugin.attach(self)
        self._optimizer = torch.optim.AdamW(
            [
                self.tuned.group(config.learning_rate),
                {"params": list(self._head.parameters()), "lr": config.head_learning_rate},
            ],
            weight_decay=0.01,
        )
        self._template = StreamTemplate(
            model=self.model,
            optimizer=self._optimizer,
            criterion=self.kind.loss,
            device=self.encoder.device,
            plugins=[plugin.callbacks, FollowTuning(self.tuned), self._keep],
        )

    @property
    def head(self) -> ServedHead:
        """The trained head, as it would serve."""
        return self._head

    @property
    def labels(self) -> Sequence[str]:
        """The label of every row of the head."""
        return self._head.labels

    def grow(self, labels: Sequence[Label]) -> None:
        """Give every label a row in the head, and the optimizer the head's parameters."""
        rows = len(self._head.weight)
        self._head.grow(text for label in labels for text in self.kind.label_texts(label))
        if len(self._head.weight) > rows:
            self._head.fit_optimizer(self._optimizer)
            self._plugin.grown(self.model)

    def targets(self, labels: Sequence[Label]) -> Tensor:
        """Grow the head for what is new and give the targets; first dimension rows."""
        self.grow(labels)
        index = {text: row for row, text in enumerate(self._head.labels)}
        return self.kind.targets(labels, index=index).to(self.encoder.device)

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
        self._seen.offer(rows_of(train))
        self._watch(train, known)
        share = DRIFT_SHARE if self._drifted else 1.0
        if self._seen.offered >= share * self._consolidate_every:
            self.consolidate()
        return StepOutcome(
            scores=self._scores(len(batch.ids), keep, len(known)),
            labels=known,
            loss=loss,
            replayed=self._plugin.replayed,
        )

    def _scores(self, rows: int, keep: list[int], known: int) -> npt.NDArray[np.float32] | None:
        """Put the live scores into their rows; a held-out row keeps NaN, which is not scored."""
        if not known:
            return None
        scores = np.full((rows, known), np.nan, dtype=np.float32)
        scores[keep] = self._keep.logits[:, :known].float().cpu().numpy()
        return scores

    def _watch(self, train: MicroBatch, known: Sequence[str]) -> None:
        """Notice labels whose meaning changed, from what was said before the step."""
        if not self._watches_drift or not known:
            return
        said = self._keep.logits[:, : len(known)].argmax(dim=1).tolist()
        rows = {text: row for row, text in enumerate(known)}
        for answer, label, previous in zip(said, train.labels, train.previous, strict=True):
            if previous is None and isinstance(label, str) and label in rows:
                hit = answer == rows[label]
                if self._drift.observe(rows[label], NO_FEATURES, hit=hit) is not None:
                    self._drifted = True

    def consolidate(self) -> None:
        """End the experience: what is known now is what must not be forgotten.

        Comes by itself every `consolidate_every` examples, and sooner when a label is found to
        mean something else or `note_drift` was called; without examples since the last it does
        nothing.
        """
        if not self._seen.offered:
            return
        rows = self._seen.rows
        packed = collate([row.tokens for row in rows])
        targets = self.targets([row.label for row in rows])
        tasks = torch.zeros(len(rows), dtype=torch.long)
        self._template.consolidate(TensorDataset(packed, targets.cpu(), tasks))
        self._seen.clear()
        self._drifted = False

    def note_drift(self) -> None:
        """Bring the next consolidation point forward, where the strategy holds something there."""
        self._drifted = self._drifted or self._holds

    def reset(self, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Start again: a state of `tuned`, a head of zeros with all labels, no moments."""
        self.tuned.restore(arrays, meta)
        with torch.no_grad():
            for parameter in self._head.parameters():
                parameter.zero_()
        self._optimizer.state.clear()

    def settle(self) -> None:
        """Nothing waits: weights are current after every step."""

    def head_blobs(self) -> dict[str, bytes]:
        """Write the trained head."""
        return self._head.blobs()

    def state(self) -> tuple[Arrays, Meta]:
        """Trained weights of encoder and head, moments, the plugin's state and counts."""
        encoder, tuning = self.tuned.state()
        plugin, plugin_meta = self._plugin.state()
        seen, seen_meta = self._seen.state()
        windows, drift = self._drift.state()
        arrays: Arrays = {
            **under("encoder.", encoder),
            **under("head.", self._head.state_dict()),
            **under("plugin.", plugin),
            **under("seen.", seen),
            **{f"drift.{name}": torch.from_numpy(array) for name, array in windows.items()},
        }
        for number, moments in self._optimizer.state_dict()["state"].items():
            arrays |= under(f"optimizer.{number}.", moments)
        return arrays, {
            "labels": list(self._head.labels),
            "tuning": {**tuning, "started_from": self._started_from},
            "template": self._template.state(),
            "plugin": plugin_meta,
            "seen": seen_meta,
            "drift": {**drift, "drifted": self._drifted},
        }

    def restore(self, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up a state.

        Raises:
            CheckpointError: another encoder, or another part of it, was trained.
        """
        tuning = meta.get("tuning", {"method": "full", "steps": 0, "started_from": ""})
        if tuning["method"] == self.tuned.config.method != "full" and (
            tuning["started_from"] != self._started_from
        ):
            raise CheckpointError(
                "the checkpoint was made with another backbone: give this one its own data_dir, "
                "or delete the checkpoint to learn the examples again from Kafka"
            )
        self.tuned.restore(only(arrays, "encoder."), tuning)
        self.grow(meta["labels"])
        self._head.load_state_dict(only(arrays, "head."))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in only(arrays, "optimizer.").items():
            number, _, field = name.partition(".")
            moments.setdefault(int(number), {})[field] = tensor
        state = self._optimizer.state_dict()
        self._optimizer.load_state_dict({**state, "state": moments})
        self._template.restore(meta["template"])
        self._plugin.restore(only(arrays, "plugin."), meta["plugin"])
        self._seen.restore(only(arrays, "seen."), meta["seen"])
        windows = {name: array.numpy() for name, array in only(arrays, "drift.").items()}
        self._drift.restore(windows, meta["drift"])
        self._drifted = bool(meta["drift"]["drifted"])


def under(prefix: str, arrays: Mapping[str, Tensor]) -> Arrays:
    """Put a prefix before the name of every array, and the arrays into main memory."""
    return {prefix + name: tensor.detach().cpu() for name, tensor in arrays.items()}


def only(arrays: Mapping[str, Tensor], prefix: str) -> Arrays:
    """Take the arrays whose names have a prefix, without it."""
    return {n.removeprefix(prefix): t for n, t in arrays.items() if n.startswith(prefix)}


def pad_together(packed: Tensor, tokens: Sequence[Sequence[int]]) -> Tensor:
    """Append token lists to a packed batch, padding both to the longer one.

    Args:
        packed: int64 [rows, 2, tokens].
        tokens: token ids of further rows.

    Returns:
        int64 [rows + further, 2, longest], where `packed` is.
    """
    more = collate(tokens).to(packed.device)
    longest = max(packed.shape[2], more.shape[2])
    return torch.cat(
        [nn.functional.pad(part, (0, longest - part.shape[2])) for part in (packed, more)]
    )
