"""The encoder: a pretrained transformer that turns texts into features, and its tokenizer.

Owns loading, micro-batches and the encoder's blobs; must not know optimizers, heads, labels or
streams. The encoder is frozen unless a strategy trains `Encoder.module`. Whatever a tuning method
put into that, blobs hold plain weights, and virtual tokens where there are some.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from learners import backbones
from learners.batch import collate
from learners.engine import (
    PROBE_TEXTS,
    SHARES,
    EngineChoice,
    Precision,
    at_precision,
    choose_device,
    measure,
)
from learners.pooling import POOLING, EncoderModule, pooled
from learners.tuning import merged, split_virtual, unadapted
from schemas.errors import EncoderError

__all__ = ["DEFAULT_BACKBONE", "POOLING", "Encoder", "EncoderModule", "EngineChoice"]

DEFAULT_BACKBONE = backbones.DEFAULT_BACKBONE
BLOBS = ("encoder", "encoder_config", "tokenizer")

# A micro-batch is bounded by both: rows keep a CPU's caches warm, tokens bound memory when texts
# are long.
MAX_ROWS = {"cpu": 64, "cuda": 512}
MAX_TOKENS = {"cpu": 8_192, "cuda": 65_536}


class Encoder:
    """Texts to features, on the device and at the precision that were measured to be best here.

    `module` always holds the fp32 weights; at bf16, `encode` uses a copy that is made again after
    `module` changed.

    Attributes:
        name: the name or folder it was loaded from.
        pooling: `mean-last-N`.
        width: length of a feature row.
        max_tokens: texts are cut to this many tokens, special ones included.
        choice: what was measured at load.
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
        if precision not in ("auto", "fp32", "bf16"):
            raise EncoderError(f"precision {precision!r}: one of auto, fp32, bf16 was expected")
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
        self.width = module.layers * int(config.hidden_size)
        self.device = choose_device(device)
        self.module = module.to(self.device).eval()
        self._tokenizer = tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=max_tokens)
        if precision == "auto":
            probes = self.tokenize(backbones.probe_texts(tokenizer, count=PROBE_TEXTS))
            self.choice = measure(
                self.module,
                lambda engine, share: self._forward(engine, probes[share::SHARES]),
                device=self.device,
            )
        else:
            given: Precision = "bf16" if precision == "bf16" else "fp32"
            self.choice = EngineChoice(str(self.device), given)
        self._renew_engine()
        self._space: tuple[int, str] | None = None

    @property
    def precision(self) -> Precision:
        """The arithmetic of `encode`."""
        return self.choice.precision

    def use_precision(self, precision: Precision) -> None:
        """Go on at a precision that was chosen before, so that features stay the same."""
        if precision != self.choice.precision:
            self.choice = EngineChoice(str(self.device), precision)
            self._renew_engine()

    @property
    def space_id(self) -> str:
        """SHA-256 over all that decides a feature but the precision.

        That is weights, architecture, pooling and tokenizer.

        Features of two encoders may be mixed in one head exactly when this is equal.
        """
        stamp = self._stamp()
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
        if self.precision != "fp32" and self._engine_stamp != self._stamp():
            self._renew_engine()
        return self._forward(self._engine, [list(ids) for ids in token_ids])

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
        """Give another encoder of the same architecture, tokenizer, device and precision.

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
            pooling: `mean-last-N`: of how many of the last hidden layers features are the means.

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

    def _stamp(self) -> int:
        """Tell weights apart: they change in place (optimizer steps, loaded states) or as such."""
        return hash(tuple((id(p), p._version) for p in self.module.parameters()))

    def _renew_engine(self) -> None:
        """Make what `encode` computes with; at bf16 it computes what a release would."""
        module = self.module
        if self.precision != "fp32":
            module = unadapted(module)
        self._engine = at_precision(module, precision=self.precision)
        self._engine_stamp = self._stamp()

    def _forward(self, engine: nn.Module, token_ids: list[list[int]]) -> NDArray[np.float32]:
        """Run token ids through an engine in micro-batches: float32 [rows, width], input order."""
        features = np.zeros((len(token_ids), self.width), dtype=np.float32)
        training = engine.training
        engine.eval()
        try:
            with torch.inference_mode():
                for rows in _micro_batches([len(ids) for ids in token_ids], kind=self.device.type):
                    packed = collate([token_ids[row] for row in rows]).to(self.device)
                    features[rows] = engine(packed).float().cpu().numpy()
        finally:
            engine.train(training)
        return features


def _micro_batches(lengths: Sequence[int], *, kind: str) -> Iterator[list[int]]:
    """Split rows, shortest first, into batches bounded by rows and by padded tokens.

    Yields:
        Row numbers of one batch.
    """
    max_rows = MAX_ROWS.get(kind, MAX_ROWS["cpu"])
    max_tokens = MAX_TOKENS.get(kind, MAX_TOKENS["cpu"])
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) == max_rows or (len(batch) + 1) * lengths[row] > max_tokens):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
