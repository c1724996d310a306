"""Self-supervised adaptation: let an encoder read a domain's texts before or without labels.

Owns the two objectives and the training loop; must not know heads, labels, replay or the stream.
It is a job of its own, not a step of the stream: it changes the encoder's space, so every head over
it must be rebuilt, and only the gate can say whether the change was one for the better.

Masked language modelling (Devlin et al., NAACL 2019; continued on a domain: Gururangan et al.,
"Don't Stop Pretraining", ACL 2020) where the backbone's weights carry the head for it. Where they
carry none, as those of sentence encoders do, unsupervised SimCSE (Gao, Yao & Chen, EMNLP 2021,
section 3): a text must recognise itself, encoded twice under different dropout, among the others of
its batch. Ours differs: features are the pooled ones that heads see, without the extra layer of the
paper; and a text comes at most once in a batch, so that no copy counts as another text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from learners import backbones
from learners.batch import IDS, MASK, collate
from learners.model import Encoder
from schemas.errors import EncoderError

ObjectiveName = Literal["auto", "masked", "contrastive"]
_MASK_TOKENS = ("[MASK]", "<mask>")


@dataclass(frozen=True, slots=True)
class AdaptationConfig:
    """How long and how fast; by default not at all.

    Attributes:
        steps: optimizer steps; one of 64 rows costs about as much as encoding 400 texts, and a pass
            over all weights.
        batch_rows: texts a step, at least 2.
        learning_rate: of the first step; it falls to zero in a straight line.
        objective: `masked`, `contrastive`, or `auto`: masked where the weights carry a head for it.
        temperature: of the contrastive softmax, over 0.
        masked_share: of a text's tokens that are to be guessed, over 0 to 1.
    """

    steps: int = 0
    batch_rows: int = 64
    learning_rate: float = 3e-5
    objective: ObjectiveName = "auto"
    temperature: float = 0.05
    masked_share: float = 0.15


@dataclass(frozen=True, slots=True)
class AdaptationReport:
    """What an adaptation did.

    Attributes:
        objective: `masked` or `contrastive`.
        texts: different texts there were.
        losses: of every step, in order; those of two objectives do not compare.
    """

    objective: str
    texts: int
    losses: tuple[float, ...]


class Objective(Protocol):
    """A loss that needs no labels."""

    name: str

    def parameters(self) -> list[nn.Parameter]:
        """Give what is trained, the encoder's parameters among it."""
        ...

    def loss(self, token_ids: Sequence[Sequence[int]], *, generator: torch.Generator) -> Tensor:
        """Give the mean loss of a batch, a float32 scalar with a gradient."""
        ...


class Contrastive:
    """SimCSE's unsupervised loss.

    Args:
        encoder: must have dropout, for it makes the two encodings of a text differ.
        temperature: of the softmax.
    """

    name = "contrastive"

    def __init__(self, encoder: Encoder, *, temperature: float) -> None:
        self._encoder = encoder
        self._temperature = temperature

    def parameters(self) -> list[nn.Parameter]:
        """Give the encoder's parameters."""
        return list(self._encoder.module.parameters())

    def loss(self, token_ids: Sequence[Sequence[int]], *, generator: torch.Generator) -> Tensor:
        """Give the cross-entropy of finding each text's other encoding among all of the batch."""
        del generator  # dropout draws from torch's own
        packed = collate([*token_ids, *token_ids]).to(self._encoder.device)
        features: Tensor = self._encoder.module(packed)  # [2 x rows, width], unit rows
        one, other = features.chunk(2)
        targets = torch.arange(len(one), device=features.device)
        return nn.functional.cross_entropy(one @ other.T / self._temperature, targets)


class MaskedLanguage:
    """BERT's loss: guess hidden tokens.

    Args:
        encoder: whose backbone `model` is built on.
        model: as `learners.backbones.with_masked_language_head` gives it.
        masked_share: of a text's tokens, special ones left out.

    Raises:
        EncoderError: the vocabulary has no mask token.
    """

    name = "masked"

    def __init__(self, encoder: Encoder, model: nn.Module, *, masked_share: float) -> None:
        vocabulary = encoder.vocabulary()
        masks = [vocabulary[token] for token in _MASK_TOKENS if token in vocabulary]
        if not masks:
            raise EncoderError(f"the vocabulary of {encoder.name!r} has no mask token")
        self._mask_id = masks[0]
        self._tokens = len(vocabulary)
        self._special = torch.tensor(sorted({0, *encoder.tokenize([""])[0]}))
        self._model = model.to(encoder.device).train()
        self._device = encoder.device
        self._share = masked_share

    def parameters(self) -> list[nn.Parameter]:
        """Give the parameters of backbone and head; the head is not kept."""
        return list(self._model.parameters())

    def loss(self, token_ids: Sequence[Sequence[int]], *, generator: torch.Generator) -> Tensor:
        """Give the cross-entropy of the hidden tokens, one at least.

        Of these, 80 % are shown as the mask token, 10 % as a random one, 10 % as they are.
        """
        packed = collate(token_ids)
        ids, mask = packed[:, IDS], packed[:, MASK]  # [rows, tokens] each
        open_to_guess = (mask == 1) & ~torch.isin(ids, self._special)
        chance = torch.rand(ids.shape, generator=generator).masked_fill(~open_to_guess, 2.0)
        hidden = chance <= max(self._share, float(chance.min()))  # also where all draws are high
        hidden &= open_to_guess
        kind = torch.rand(ids.shape, generator=generator)
        random = torch.randint(self._tokens, ids.shape, generator=generator)
        shown = torch.where(hidden & (kind < 0.8), self._mask_id, ids)
        shown = torch.where(hidden & (kind >= 0.9), random, shown)
        answer = self._model(
            input_ids=shown.to(self._device),
            attention_mask=mask.to(self._device),
            labels=ids.masked_fill(~hidden, -100).to(self._device),
        )
        loss: Tensor = answer.loss
        return loss


def adapt(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    config: AdaptationConfig,
    generator: torch.Generator,
    progress: Callable[[int, float], None] | None = None,
) -> AdaptationReport:
    """Train `encoder.module` in place on texts without labels.

    The same encoder, texts and generator state give the same weights on the same machine; torch's
    global random state is left as it was. Afterwards the module is in evaluation mode as before,
    with the same parameters trainable as before and no gradients.

    Args:
        encoder: changed in place; its `space_id` changes with it.
        texts: any number; repeats and blank texts are left out.
        config: how long and how fast.
        generator: on the CPU; draws batches, masks and the seed of dropout.
        progress: told the steps done and the last loss after every step.

    Returns:
        What was done.

    Raises:
        ValueError: a number is out of its range, or fewer than two different texts.
        EncoderError: the objective does not fit the encoder, or the loss is no longer finite; then
            the weights are those of the last good step.
    """
    _check(config)
    unique = list(dict.fromkeys(text for text in texts if text.strip()))
    if len(unique) < 2:
        raise ValueError(f"{len(unique)} different texts: at least 2 are needed")
    losses: list[float] = []
    with _training(encoder, generator):
        objective = choose_objective(encoder, config)
        optimizer = torch.optim.AdamW(
            objective.parameters(), lr=config.learning_rate, weight_decay=0.0, fused=True
        )
        batches = _batches(len(unique), config.batch_rows, generator)
        for step in range(config.steps):
            token_ids = encoder.tokenize([unique[row] for row in next(batches)])
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * (1 - step / config.steps)
            loss = objective.loss(token_ids, generator=generator)
            losses.append(float(loss.detach()))
            if not torch.isfinite(loss):
                raise EncoderError(f"the loss of step {step + 1} is {losses[-1]}: training stopped")
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
            optimizer.step()
            if progress is not None:
                progress(step + 1, losses[-1])
    return AdaptationReport(objective.name, len(unique), tuple(losses))


def choose_objective(encoder: Encoder, config: AdaptationConfig) -> Objective:
    """Give the objective that a config names and the encoder's weights allow.

    Weights are looked for under the encoder's name, on this machine alone.

    Raises:
        EncoderError: the one that is named does not fit the encoder.
    """
    if config.objective != "contrastive":
        folder = backbones.find_local(encoder.name)
        model = folder and backbones.with_masked_language_head(encoder.module.backbone, folder)
        if model:
            return MaskedLanguage(encoder, model, masked_share=config.masked_share)
        if config.objective == "masked":
            raise EncoderError(f"the weights of {encoder.name!r} carry no masked-language head")
    if not any(isinstance(part, nn.Dropout) and part.p > 0 for part in encoder.module.modules()):
        raise EncoderError(f"{encoder.name!r} has no dropout: a text's encodings would not differ")
    return Contrastive(encoder, temperature=config.temperature)


def _check(config: AdaptationConfig) -> None:
    if config.steps < 0:
        raise ValueError(f"steps is {config.steps}: it must not be negative")
    if config.batch_rows < 2:
        raise ValueError(f"batch_rows is {config.batch_rows}: it must be at least 2")
    for name in ("learning_rate", "temperature", "masked_share"):
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} is {getattr(config, name)}: it must be over 0")


@contextmanager
def _training(encoder: Encoder, generator: torch.Generator) -> Iterator[None]:
    """Put the module in training mode with dropout seeded, and everything back at the end."""
    module, device = encoder.module, encoder.device
    trainable = [parameter.requires_grad for parameter in module.parameters()]
    training = module.training
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # noqa: TID251 - dropout takes no generator
        module.train().requires_grad_(True)
        try:
            yield
        finally:
            module.train(training)
            # The fused optimizer does not count its changes, and the encoder asks that count
            # whether its features are still those of its weights.
            torch.autograd.graph.increment_version(list(module.parameters()))
            for parameter, was in zip(module.parameters(), trainable, strict=True):
                parameter.requires_grad_(was)
                parameter.grad = None


def _batches(texts: int, rows: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Draw batches without end: every text once before any comes again, but for the last few.

    Yields:
        Row numbers, none twice; `rows` of them, or all where there are fewer.
    """
    size = min(rows, texts)
    while True:
        order = torch.randperm(texts, generator=generator).tolist()
        for start in range(0, texts - size + 1, size):
            yield order[start : start + size]
