"""The encoder: a pretrained transformer that turns texts into features, and its tokenizer.

Owns loading, micro-batches and the encoder's blobs; must not know optimizers, heads, labels or
streams. The encoder is frozen unless a strategy trains `Encoder.module`. Whatever a tuning method
put into that, blobs hold plain weights, and virtual tokens where there are some.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from learners import backbones
from learners.engines import (
    EngineChoice,
    EngineOptions,
    EngineSwitch,
    Labelled,
    Precision,
    Source,
    choose_device,
)
from learners.pooling import POOLING, EncoderModule, pooled
from learners.tuning import merged, split_virtual, unadapted
from learners.words import SLOTS, hashed_words, joined
from schemas.errors import EncoderError

__all__ = [
    "DEFAULT_BACKBONE",
    "POOLING",
    "Encoder",
    "EncoderModule",
    "EngineChoice",
    "EngineOptions",
]

DEFAULT_BACKBONE = backbones.DEFAULT_BACKBONE
BLOBS = ("encoder", "encoder_config", "tokenizer")

PROBE_TEXTS = 64


class Scorer(Protocol):
    """A head, as far as accuracy needs it; `learners.heads.base.ServedHead` is one."""

    @property
    def labels(self) -> Sequence[str]:
        """Of every column of the scores."""
        ...

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score float32 [rows, width]: float32 [rows, labels]."""
        ...


class Encoder:
    """Texts to features, on the device and at the precision that were measured to be best here.

    `module` always holds the fp32 weights. What computes features is torch, at bf16 on a copy that
    is made again after `module` changed; or, once `choose_engine` was called, as it is for serving,
    whatever is fastest here and near enough. `tokenize`, `encode` and `encode_tokens` may be called
    from several threads at once, also while `calibrate` runs.

    Attributes:
        name: the name or folder it was loaded from.
        pooling: as `learners.pooling.Pooling` reads it.
        width: number of a text's features.
        row_width: length of what a head reads of a text: features, and words behind them.
        max_tokens: texts are cut to this many tokens, special ones included.
        module: forward(int64 [rows, 2, tokens]) -> float32 [rows, width]; in eval mode.

    Args:
        backbone: a plain one, or already with its pooling and virtual tokens.
    """

    def __init__(
        self,
        backbone: nn.Module | EncoderModule,
        tokenizer: Tokenizer,
        *,
        name: str,
        max_tokens: int,
        device: str = "auto",
        precision: str = "auto",
        pooling: str = POOLING,
    ) -> None:
        module = backbone if isinstance(backbone, EncoderModule) else pooled(backbone, pooling)
        config: Any = module.backbone.config
        limit = getattr(config, "max_position_embeddings", None) or max_tokens
        limit -= module.prompt_tokens
        if not 8 <= max_tokens <= limit:
            raise EncoderError(
                f"max_tokens {max_tokens}: {name!r} takes 8 to {limit} tokens of a text"
            )
        self.name = name
        self.max_tokens = max_tokens
        self.pooling = pooling
        self.width = module.pooling.vectors * int(config.hidden_size)
        self.row_width = self.width + SLOTS
        self.device = choose_device(device)
        self.module = module.to(self.device).eval()
        self._tokenizer = tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=max_tokens)
        self._space: tuple[int, str] | None = None
        self._engines = self._switch(
            EngineOptions("torch", cast("Precision", precision))  # checked there
        )

    @property
    def choice(self) -> EngineChoice:
        """What computes features, and what was measured when it was chosen."""
        return self._engines.choice

    @property
    def precision(self) -> Precision:
        """The precision at which torch gives these features, or nearly: fp32 for other engines."""
        return self.choice.precision if self.choice.engine == "torch" else "fp32"

    def use_precision(self, precision: Precision) -> None:
        """Go on in torch at a precision chosen before, so that features stay the same."""
        if precision != self.precision:
            self._engines = self._switch(EngineOptions("torch", precision))

    def choose_engine(self, options: EngineOptions) -> EngineChoice:
        """Let the fastest of the allowed engines compute; for an encoder that nobody trains.

        Takes seconds: engines are made, compared with torch in fp32 on texts made of the
        vocabulary, and timed. Should the weights change later, torch takes over at once.

        Args:
            options: what is allowed.

        Returns:
            The choice, which `choice` gives from now on. An engine that is not installed, cannot
            compute here or is not near enough is passed over, and `choice` says why; an
            `EncoderError` says that the options ask for something that there is not.
        """
        self._engines = self._switch(options)
        return self.choice

    @property
    def wants_calibration(self) -> bool:
        """Whether texts of the stream could bring a faster engine: then call `calibrate`."""
        return self._engines.wants_calibration

    @property
    def engine_settled(self) -> bool:
        """Whether the engine that computes stays: nothing is being calibrated, or could be."""
        return self._engines.settled

    def calibrate(
        self,
        texts: Sequence[str],
        *,
        head: Scorer | None = None,
        labelled: Sequence[tuple[str, str]] = (),
    ) -> EngineChoice:
        """Make the engine that must see texts first, beside what computes now, and judge it.

        To be called from a thread in the background; most of it happens in a process of low
        priority. The new engine computes as soon as it is known to be good and faster.

        Args:
            texts: of the stream, recent ones; 64 different ones at least, 556 are used.
            head: tells whether answers stay the same; without it, means of groups of texts do.
            labelled: text and label, held out, that `head` has not learned; from 100 rows on, the
                accuracy that an engine loses on them is bounded. Labels that it does not know are
                left out.

        Returns:
            The choice, changed or not. An `EncoderError` says that there are too few texts.
        """
        return self._engines.calibrate(self.tokenize(texts), self._judge(head, labelled))

    def _judge(self, head: Scorer | None, labelled: Sequence[tuple[str, str]]) -> Labelled | None:
        if head is None or not head.labels:
            return None
        columns = {label: column for column, label in enumerate(head.labels)}
        known = [(text, columns[label]) for text, label in labelled if label in columns]
        return Labelled(
            head.scores,
            self.tokenize([text for text, _ in known]),
            np.array([column for _, column in known], dtype=np.int64),
        )

    def _switch(self, options: EngineOptions) -> EngineSwitch:
        def probes() -> list[list[int]]:
            return self.tokenize(backbones.probe_texts(self._tokenizer, count=PROBE_TEXTS))

        return EngineSwitch(
            Source(
                module=self.module,
                device=self.device,
                width=self.width,
                plain=lambda: unadapted(self.module),
                probes=probes,
                space_id=lambda: self.space_id,
            ),
            options,
        )

    @property
    def space_id(self) -> str:
        """SHA-256 over all that decides a feature but the precision.

        That is weights, architecture, pooling and tokenizer.

        Features of two encoders may be mixed in one head exactly when this is equal.
        """
        stamp = self._engines.stamp()
        if self._space is None or self._space[0] != stamp:
            digest = hashlib.sha256()
            for data in self.blobs().values():
                digest.update(hashlib.sha256(data).digest())
            self._space = (stamp, digest.hexdigest())
        return self._space[1]

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Turn texts into token ids with special tokens, cut to `max_tokens`, not padded."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]

    def vocabulary(self) -> dict[str, int]:
        """Give every token as the tokenizer writes it, special ones included, with its id."""
        return dict(self._tokenizer.get_vocab())

    @property
    def word_embeddings(self) -> nn.Parameter:
        """The table of input embeddings, float32 [tokens, hidden], as it is being trained."""
        backbone: Any = self.module.backbone
        table: nn.Parameter = backbone.get_input_embeddings().weight
        return table

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Turn texts into features.

        Texts are sorted by length into micro-batches; a text's features do not depend on its
        neighbours beyond floating-point noise.

        Args:
            texts: any number, of any length.

        Returns:
            float32 [rows, width] in the order of the texts, every row of length 1.
        """
        return self.encode_tokens(self.tokenize(texts))

    def encode_tokens(self, token_ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Turn token ids, as `tokenize` gives them, into features; else as `encode`.

        Args:
            token_ids: any number of rows.

        Returns:
            float32 [rows, width] in the order given.
        """
        return self._engines.features(token_ids)

    def read(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Turn texts, as for `encode`, into what a head reads: features, and words behind them.

        Returns:
            float32 [rows, row_width] in the order of the texts; see `learners.words`.
        """
        return self.read_tokens(self.tokenize(texts))

    def read_tokens(self, token_ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Turn token ids, as `tokenize` gives them, into what a head reads; else as `read`."""
        return joined(self.encode_tokens(token_ids), hashed_words(token_ids))

    def blobs(self) -> dict[str, bytes]:
        """Write the encoder as files: safetensors weights, a JSON config and the tokenizer.

        The same weights and settings always give the same bytes.
        """
        backbone: Any = self.module.backbone
        weights = self.weights()
        config = {
            "model": backbones.portable_config(backbone.config),
            "pooling": self.pooling,
            "max_tokens": self.max_tokens,
        }
        return {
            "encoder": safetensors.torch.save(
                {name: tensor.contiguous() for name, tensor in weights.items()}
            ),
            "encoder_config": json.dumps(config, sort_keys=True).encode(),
            "tokenizer": self._tokenizer.to_str().encode(),
        }

    def weights(self) -> dict[str, Tensor]:
        """Give all that was or may be trained, in main memory, fp32, as `with_weights` takes it.

        That is a plain backbone's weights by name, adapters merged, and virtual tokens. They are
        not copied where nothing had to change.
        """
        return {
            name: tensor.to("cpu", torch.float32 if tensor.is_floating_point() else None)
            for name, tensor in merged(self.module).items()
        }

    def with_weights(self, weights: Mapping[str, Tensor]) -> Encoder:
        """Give another encoder of the same architecture, tokenizer and device, in torch.

        Args:
            weights: as `weights` or `learners.tuning.merged` give them; copied.
        """
        plain, virtual = split_virtual({name: t.clone() for name, t in weights.items()})
        module = unadapted(copy.deepcopy(self.module))
        module.backbone.load_state_dict(plain)
        return Encoder(
            pooled(module.backbone, self.pooling, virtual).requires_grad_(False),
            Tokenizer.from_str(self._tokenizer.to_str()),
            name=self.name,
            max_tokens=self.max_tokens,
            device=str(self.device),
            precision=self.precision,
            pooling=self.pooling,
        )

    @classmethod
    def load(
        cls,
        name_or_folder: str = DEFAULT_BACKBONE,
        *,
        max_tokens: int = 128,
        device: str = "auto",
        precision: str = "auto",
        pooling: str = POOLING,
    ) -> Encoder:
        """Load a pretrained encoder.

        Args:
            name_or_folder: the default's name, a local folder in Hugging Face's layout, or a name
                on the hub.
            max_tokens: texts are cut to this many tokens.
            device: `auto` or a torch device.
            precision: `auto` (measured), `fp32` or `bf16`.
            pooling: as `Pooling` reads it; `mean-last-N`: means of the last N hidden layers.

        Returns:
            The encoder. An `EncoderError` says that there is no such folder or name, that it is not
            an encoder, or that it cannot take a setting.
        """
        folder = backbones.find(name_or_folder)
        return cls(
            backbones.load_model(folder),
            backbones.read_tokenizer((folder / "tokenizer.json").read_bytes()),
            name=name_or_folder,
            max_tokens=max_tokens,
            device=device,
            precision=precision,
            pooling=pooling,
        )

    @classmethod
    def from_blobs(
        cls,
        blobs: Mapping[str, bytes],
        *,
        name: str = "release",
        device: str = "auto",
        precision: str = "auto",
    ) -> Encoder:
        """Load what `blobs` wrote; other names in the mapping are ignored.

        Raises:
            EncoderError: a blob is missing or damaged, or of another pooling.
        """
        missing = [blob for blob in BLOBS if blob not in blobs]
        if missing:
            raise EncoderError(f"the encoder's blobs lack {', '.join(missing)}")
        try:
            config = json.loads(blobs["encoder_config"])
            weights, virtual = split_virtual(safetensors.torch.load(blobs["encoder"]))
            pooling = str(config["pooling"])
            backbone = backbones.rebuild_model(config["model"], weights)
            tokenizer = backbones.read_tokenizer(blobs["tokenizer"])
            max_tokens = int(config["max_tokens"])
        except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise EncoderError(f"the encoder's blobs are damaged: {error}") from error
        return cls(
            pooled(backbone, pooling, virtual),
            tokenizer,
            name=name,
            max_tokens=max_tokens,
            device=device,
            precision=precision,
            pooling=pooling,
        )
