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

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from learners import backbones
from learners.batch import IDS, MASK, collate
from learners.model import Encoder
from learners.moments import moments, take_up_moments
from schemas.errors import EncoderError

ObjectiveName = Literal["auto", "masked", "contrastive"]
_STRIDE = 1_000_003  # parts the seeds of steps of one run from those of another
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
        self._model = model.to(encoder.device)  # trains when its backbone does: no head has dropout
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


class Adaptation:
    """One adaptation of an encoder, a step at a time.

    The same encoder, texts and seed give the same weights on the same machine, also when it was
    interrupted; torch's global random state stays as it was. After every step the module is in
    evaluation mode as before, with the same parameters trainable as before and no gradients.

    Args:
        encoder: changed in place by every step; its `space_id` changes with it.
        texts: any number; repeats and blank texts are left out.
        config: how long and how fast.
        seed: of batches, masks and dropout.

    Attributes:
        config: as given.
        name: of the objective: `masked` or `contrastive`.
        texts: different texts there are.
        done: steps that were taken.

    Raises:
        ValueError: a number is out of its range, or fewer than two different texts.
    """

    def __init__(
        self, encoder: Encoder, texts: Sequence[str], *, config: AdaptationConfig, seed: int
    ) -> None:
        _check(config)
        self._unique = list(dict.fromkeys(text for text in texts if text.strip()))
        if len(self._unique) < 2:
            raise ValueError(f"{len(self._unique)} different texts: at least 2 are needed")
        self.config = config
        self.texts = len(self._unique)
        self.done = 0
        self._encoder = encoder
        self._seed = seed
        self._objective = choose_objective(encoder, config)
        self.name = self._objective.name
        self._optimizer = torch.optim.AdamW(
            self._objective.parameters(), lr=config.learning_rate, weight_decay=0.0, fused=True
        )
        self._batches = self._from_the_first()

    def _from_the_first(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self._seed)
        return _batches(self.texts, self.config.batch_rows, generator)

    def step(self) -> float:
        """Take one step.

        Returns:
            The loss of its batch.

        Raises:
            ValueError: all steps are done.
            EncoderError: the loss is no longer finite; the weights are those of the last good step.
        """
        if self.done >= self.config.steps:
            raise ValueError(f"all {self.config.steps} steps are done")
        token_ids = self._encoder.tokenize([self._unique[row] for row in next(self._batches)])
        generator = torch.Generator().manual_seed((self._seed + 1) * _STRIDE % 2**62 + self.done)
        with _training(self._encoder, generator):
            for group in self._optimizer.param_groups:
                group["lr"] = self.config.learning_rate * (1 - self.done / self.config.steps)
            loss = self._objective.loss(token_ids, generator=generator)
            if not torch.isfinite(loss):
                raise EncoderError(
                    f"the loss of step {self.done + 1} is {float(loss.detach())}: training stopped"
                )
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self._objective.parameters(), 1.0)
            self._optimizer.step()
        self.done += 1
        return float(loss.detach())

    def state(self) -> dict[str, Tensor]:
        """Give what later steps depend on, except the encoder's own weights and `done`."""
        arrays = {f"head.{n}": p.detach().cpu().clone() for n, p in self._own_parameters()}
        return arrays | {f"optimizer.{n}": t for n, t in moments(self._optimizer).items()}

    def restore(self, arrays: Mapping[str, Tensor], *, done: int) -> None:
        """Take up a state of the same encoder, texts, config and seed; weights are given before."""
        with torch.no_grad():
            for name, parameter in self._own_parameters():
                parameter.copy_(arrays[f"head.{name}"])
        prefix = "optimizer."
        mine = {n.removeprefix(prefix): t for n, t in arrays.items() if n.startswith(prefix)}
        take_up_moments(self._optimizer, mine)
        self._batches = self._from_the_first()
        for _ in range(done):
            next(self._batches)
        self.done = done

    def _own_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Number the objective's parameters, and give those that are none of the encoder's.

        Yields:
            Number and parameter.
        """
        theirs = {id(parameter) for parameter in self._encoder.module.parameters()}
        for number, parameter in enumerate(self._objective.parameters()):
            if id(parameter) not in theirs:
                yield str(number), parameter


def adapt(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    config: AdaptationConfig,
    generator: torch.Generator,
    progress: Callable[[int, float], None] | None = None,
) -> AdaptationReport:
    """Train `encoder.module` in place on texts without labels: all steps of an `Adaptation`.

    Args:
        encoder: changed in place; its `space_id` changes with it.
        texts: any number; repeats and blank texts are left out.
        config: how long and how fast.
        generator: on the CPU; gives the seed.
        progress: told the steps done and the last loss after every step.

    Returns:
        What was done. Numbers out of range and fewer than two texts are a `ValueError`; an
        objective that does not fit the encoder, and a loss that is no longer finite, are an
        `EncoderError`: then the weights are those of the last good step.
    """
    seed = int(torch.randint(2**31, (), generator=generator))
    work = Adaptation(encoder, texts, config=config, seed=seed)
    losses: list[float] = []
    while work.done < config.steps:
        losses.append(work.step())
        if progress is not None:
            progress(work.done, losses[-1])
    return AdaptationReport(work.name, work.texts, tuple(losses))


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
