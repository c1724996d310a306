"""Consolidation: the slow half of two speeds, a fine-tuning of a copy of the encoder.

Owns the training on all text that memory holds, step by step, so that whoever runs it may stop,
drop or take it up between any two steps; must not know memory, streams, gates or the head that
serves. The encoder that learns is a copy: the one in use stays as it is, and the fast head goes on
learning beside it. McClelland, McNaughton & O'Reilly (1995) say why; never on a few exemplars a
label, which forgets.

Before that the copy may be adapted to texts without labels (`learners.data.adaptation`), and every
batch may be learned again where it is locally worst (`learners.data.adversarial`).

All chance comes from one seed, dropout is off where labels are learned: the same rows and seed give
the same encoder on the same machine, also when the work was interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from learners.batch import collate
from learners.data.adaptation import Adaptation, AdaptationConfig, ObjectiveName
from learners.data.adversarial import AdversarialConfig, check_config, harden
from learners.heads.linear import LinearHead, SolvedLinear
from learners.model import Encoder
from learners.moments import moments, take_up_moments
from learners.tasks.base import TaskKind
from learners.tuning import TuningConfig, merged, tune
from schemas.errors import CheckpointError
from schemas.fields import Label

VIRTUAL_PREFIX = "virtual."
BLENDS = (0.85, 0.7, 1.0)
USUAL_BLEND = 0.9  # near which it is best, whatever the task
BLEND_PULL = 32.0  # nats a squared share, to that: a normal law of deviation an eighth
Blend = float | Literal["auto"]
SORTED_BATCHES = 32  # batches that are cut from one run of rows sorted by length


@dataclass(frozen=True, slots=True)
class ConsolidationConfig:
    """How a consolidation trains.

    Attributes:
        epochs: passes over all rows, 1 or more.
        batch_rows: rows of a step.
        learning_rate: of the encoder, at its highest; it rises over the first tenth of the steps
            and falls to nothing, both linearly.
        head_learning_rate: of the linear head that is trained along, and listened to afterwards.
        weight_decay: of AdamW.
        adversarial: how far and how often a batch is made harder; by default not at all.
        adapt_epochs: passes over all texts, labelled or not, before labels are learned.
        adapt: what those passes learn.
        tuning: how much of the encoder trains; its steps are those of the consolidation. After an
            adaptation, which trains all of it, `full` alone.
        blend: how far from the pretrained weights to the trained ones the encoder goes that is
            given, over 0 to 1: an encoder in between is often as good on what it was trained on and
            better on what comes next (Wortsman et al., "Robust Fine-Tuning of Zero-Shot Models",
            CVPR 2022). Adapters are blended as merged; virtual tokens are taken as trained.
            `auto`: whichever of `BLENDS` does best on held-out rows; the fewer they are, the nearer
            to `USUAL_BLEND`.
        seed: of the order of rows, and of chance in adaptation.
    """

    epochs: int = 4
    batch_rows: int = 32
    learning_rate: float = 5e-5
    head_learning_rate: float = 2e-3
    weight_decay: float = 0.01
    adversarial: AdversarialConfig = AdversarialConfig()
    adapt_epochs: int = 0
    adapt: ObjectiveName = "auto"
    tuning: TuningConfig = TuningConfig()
    blend: Blend = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.blend != "auto" and not 0.0 < self.blend <= 1.0:
            raise ValueError(f"blend {self.blend}: auto, or over 0 to 1 was expected")
        if self.tuning.method == "frozen":
            raise ValueError("tuning 'frozen': a consolidation would train nothing")
        if self.adapt_epochs and self.tuning.method != "full":
            raise ValueError(
                f"tuning {self.tuning.method!r}: an adaptation trains the full encoder"
            )


class Consolidation:
    """One fine-tuning of a copy of an encoder.

    Args:
        encoder: is copied, and stays as it is.
        kind: of the task: gives targets and loss.
        texts: all that memory holds.
        labels: canonical, one a text.
        config: how it trains.
        unlabelled: further texts that the encoder is adapted to, where it is.

    Attributes:
        steps: in all, those of adaptation first.
        done: of them.

    Raises:
        ValueError: there are no texts, not one label a text, or a number is out of its range.
    """

    def __init__(
        self,
        encoder: Encoder,
        kind: TaskKind,
        texts: Sequence[str],
        labels: Sequence[Label],
        *,
        config: ConsolidationConfig,
        unlabelled: Sequence[str] = (),
    ) -> None:
        if not texts or len(texts) != len(labels):
            raise ValueError(
                f"{len(texts)} texts and {len(labels)} labels: at least one, and as many, needed"
            )
        check_config(config.adversarial)
        self.config = config
        self.kind = kind
        self._source = encoder
        self._copy = encoder.with_weights(encoder.weights())
        self._module = self._copy.module
        per_epoch = -(-len(texts) // config.batch_rows)
        self._tuned = tune(
            self._module,
            replace(config.tuning, steps=per_epoch * config.epochs, seed=config.seed),
            max_tokens=encoder.max_tokens,
        )
        self._tokens = encoder.tokenize(texts)
        self._labels = list(labels)
        self._head = LinearHead(encoder.width, seed=config.seed).to(encoder.device)
        self._head.grow(text for label in labels for text in kind.label_texts(label))
        self._optimizer = torch.optim.AdamW(
            [
                self._tuned.group(config.learning_rate),
                {"params": list(self._head.parameters()), "lr": config.head_learning_rate},
            ],
            weight_decay=config.weight_decay,
        )
        self._rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        self._adaptation = self._adapting([*texts, *unlabelled])
        self._first = self._adaptation.config.steps if self._adaptation else 0  # that learns labels
        self.steps = self._first + per_epoch * config.epochs
        self.done = 0
        self._per_epoch = per_epoch
        self._order: tuple[int, list[list[int]]] = (-1, [])

    def _adapting(self, texts: Sequence[str]) -> Adaptation | None:
        """Give what adapts the copy to texts, where that is wanted."""
        config = AdaptationConfig(objective=self.config.adapt)
        steps = -(-len({*texts}) // config.batch_rows) * self.config.adapt_epochs
        if not steps:
            return None
        return Adaptation(
            self._copy, texts, config=replace(config, steps=steps), seed=self.config.seed
        )

    def step(self) -> float:
        """Take one step.

        Returns:
            The loss of its batch.

        Raises:
            ValueError: all steps are done.
        """
        if self.done >= self.steps:
            raise ValueError(f"all {self.steps} steps are done")
        if self.done < self._first and self._adaptation is not None:
            loss = self._adaptation.step()
        else:
            self._adaptation = None  # its optimizer is as large as the encoder, twice
            loss = self._learn()
        self.done += 1
        return loss

    def _learn(self) -> float:
        """Learn one batch of labels."""
        rows = self._batch()
        packed = collate([self._tokens[row] for row in rows]).to(self._source.device)
        index = {text: row for row, text in enumerate(self._head.labels)}
        targets = self.kind.targets([self._labels[row] for row in rows], index=index)
        rate = self._rate()
        for group, most in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * most
        targets = targets.to(packed.device)
        trained = [p for group in self._optimizer.param_groups for p in group["params"]]
        self._module.eval()  # dropout off

        def loss_now() -> Tensor:
            loss = self.kind.loss(self._head(self._module(packed)), targets)
            penalty = self._tuned.penalty()
            return loss if penalty is None else loss + penalty

        loss = loss_now()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        harden(self._copy, packed, loss_now, trained=trained, config=self.config.adversarial)
        nn.utils.clip_grad_norm_(trained, 1.0)
        self._optimizer.step()
        self._tuned.stepped()
        return float(loss.detach())

    def _rate(self) -> float:
        """Give the share of the highest learning rate for the step at hand, 0 to 1."""
        steps, done = self.steps - self._first, self.done - self._first
        warm = max(1, steps // 10)
        if done < warm:
            return (done + 1) / warm
        return max(0.0, (steps - done) / max(1, steps - warm))

    def _batch(self) -> list[int]:
        """Give the rows of the step at hand: shuffled by epoch, of like length in a batch."""
        epoch, place = divmod(self.done - self._first, self._per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, self._batches(epoch))
        return self._order[1][place]

    def _batches(self, epoch: int) -> list[list[int]]:
        random = np.random.Generator(np.random.PCG64([self.config.seed, epoch]))
        order = random.permutation(len(self._tokens)).tolist()
        rows, batches = self.config.batch_rows, []
        for start in range(0, len(order), rows * SORTED_BATCHES):
            run = sorted(
                order[start : start + rows * SORTED_BATCHES], key=lambda row: len(self._tokens[row])
            )
            batches += [run[n : n + rows] for n in range(0, len(run), rows)]
        random.shuffle(batches)
        return batches

    @property
    def labels(self) -> list[str]:
        """The labels of the head that is trained along: columns of `scores`."""
        return list(self._head.labels)

    @property
    def blends(self) -> tuple[float, ...]:
        """How far `encoder` may go, by the config: the first where nothing tells which is best."""
        return BLENDS if self.config.blend == "auto" else (self.config.blend,)

    def classifier(self) -> SolvedLinear:
        """Give the head that is trained along, as it is now."""
        return self._head.solved()

    def scores(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Answer by that head, as a fine-tuned classifier would.

        Returns:
            float32 [rows, labels], logits.
        """
        encoder = self._source.with_weights(merged(self._module))
        features = torch.from_numpy(encoder.encode(texts)).to(self._source.device)
        with torch.inference_mode():
            logits: NDArray[np.float32] = self._head(features).float().cpu().numpy()
        return logits

    def encoder(self, blend: float | None = None) -> Encoder:
        """Give an encoder of the weights as they are now; later steps do not change it.

        Args:
            blend: how far it goes, over 0 to 1; by default the first of `blends`.
        """
        share = self.blends[0] if blend is None else blend
        trained, start = merged(self._module), merged(self._source.module)
        blended = {
            name: torch.lerp(start[name], tensor, share)
            if name in start and tensor.is_floating_point() and not name.startswith(VIRTUAL_PREFIX)
            else tensor
            for name, tensor in trained.items()
        }
        return self._source.with_weights(blended)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Give everything that later steps depend on, except texts and labels."""
        tuned, tuning = self._tuned.state()
        arrays = {f"module.{n}": t.detach().cpu() for n, t in tuned.items()}
        arrays |= {f"head.{n}": t.detach().cpu() for n, t in self._head.state_dict().items()}
        arrays |= {f"optimizer.{n}": t for n, t in moments(self._optimizer).items()}
        if self._adaptation is not None:
            arrays |= {f"adaptation.{n}": t for n, t in self._adaptation.state().items()}
        return arrays, {
            "done": self.done,
            "steps": self.steps,
            "space_id": self._source.space_id,
            "tuning": tuning,
        }

    def restore(self, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up the work of another consolidation of the same encoder, rows and config.

        Raises:
            CheckpointError: it is of another encoder, or of other rows.
        """
        if (meta["steps"], meta["space_id"]) != (self.steps, self._source.space_id):
            raise CheckpointError(
                f"a consolidation of {meta['steps']} steps from encoder {meta['space_id'][:12]!r} "
                f"cannot go on as one of {self.steps} from {self._source.space_id[:12]!r}: start "
                "it again"
            )
        self._tuned.restore(_under(arrays, "module."), meta["tuning"])
        self._head.load_state_dict(_under(arrays, "head."))
        take_up_moments(self._optimizer, _under(arrays, "optimizer."))
        if self._adaptation is not None and meta["done"] < self._first:
            self._adaptation.restore(_under(arrays, "adaptation."), done=int(meta["done"]))
        self.done = int(meta["done"])


def _under(arrays: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in arrays.items() if n.startswith(prefix)}
