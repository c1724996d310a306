"""Features of a frozen encoder, computed once and kept.

Owns the files of kept features, by what decides a feature (`Encoder.space_id`, the precision) and
the hash of a text's token ids, and the time that computing took; must not know learners.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learners.batch import IDS, MASK
from learners.model import Encoder
from learners.pooling import EncoderModule
from learners.words import hashed_words, joined

Floats = NDArray[np.float32]
PIECE_ROWS = 512  # encoded between two calls of `progress`


class KeptFeatures:
    """Stands in for an encoder that nobody trains, and computes no feature twice.

    Args:
        encoder: does the work.
        folder: of the kept features; made when needed.
        module: whether its module answers with kept features too, for strategies that learn a head
            by gradient on an encoder that does not train.

    Attributes:
        seconds: of processor time spent on answering.
        computed: texts that went through the encoder.
        computing_s: seconds of processor time that took.
    """

    def __init__(self, encoder: Encoder, *, folder: Path, module: bool = False) -> None:
        self._encoder = encoder
        if module:
            self.module = KeptModule(self, encoder.module)
        self._folder = folder / f"{encoder.space_id[:16]}-{encoder.precision}"
        self._kept: dict[bytes, Floats] = {}
        self._new: list[bytes] = []
        self.seconds = 0.0
        self.computed = 0
        self.computing_s = 0.0
        for path in sorted(self._folder.glob("*.npz")):
            with np.load(path) as part:
                hashes, features = part["hashes"], part["features"]
            self._kept |= {h.tobytes(): row for h, row in zip(hashes, features, strict=True)}

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the encoder has
        """Give everything else as the encoder does."""
        return getattr(self._encoder, name)

    @property
    def stand_in(self) -> Encoder:
        """This object, as what it stands in for."""
        return cast("Encoder", self)

    def encode(self, texts: Sequence[str]) -> Floats:
        """Give features of texts, float32 [rows, width]."""
        return self.encode_tokens(self._encoder.tokenize(texts))

    def encode_tokens(self, token_ids: Sequence[Sequence[int]]) -> Floats:
        """Give features of token ids, float32 [rows, width]."""
        started = time.process_time()
        hashes = [_hash(ids) for ids in token_ids]
        missing = {h: ids for h, ids in zip(hashes, token_ids, strict=True) if h not in self._kept}
        if missing:
            began = time.process_time()
            features = self._encoder.encode_tokens(list(missing.values()))
            self.computing_s += time.process_time() - began
            self.computed += len(missing)
            self._kept |= dict(zip(missing, features, strict=True))
            self._new += missing
        found = np.stack([self._kept[h] for h in hashes])
        self.seconds += time.process_time() - started
        return found

    def read(self, texts: Sequence[str]) -> Floats:
        """Give what a head reads of texts, float32 [rows, row_width]."""
        return self.read_tokens(self._encoder.tokenize(texts))

    def read_tokens(self, token_ids: Sequence[Sequence[int]]) -> Floats:
        """Give what a head reads of token ids, float32 [rows, row_width]."""
        return joined(self.encode_tokens(token_ids), hashed_words(token_ids))

    def warm(self, texts: Sequence[str], *, progress: Callable[[int, int], None]) -> None:
        """Compute what is missing of these texts, and keep it."""
        for start in range(0, len(texts), PIECE_ROWS):
            self.encode(texts[start : start + PIECE_ROWS])
            progress(min(start + PIECE_ROWS, len(texts)), len(texts))
        self.keep()

    def keep(self) -> None:
        """Write what was computed since the last time."""
        if not self._new:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(b"".join(self._new)).hexdigest()[:16]
        temporary = self._folder / f"{digest}.tmp"
        with temporary.open("wb") as file:
            np.savez(
                file,
                hashes=np.stack([np.frombuffer(h, dtype=np.uint8) for h in self._new]),
                features=np.stack([self._kept[h] for h in self._new]),
            )
        temporary.replace(temporary.with_suffix(".npz"))
        self._new.clear()


class KeptModule(EncoderModule):
    """An encoder's module that looks features up.

    Args:
        kept: has them.
        module: of the encoder.
    """

    def __init__(self, kept: KeptFeatures, module: EncoderModule) -> None:
        super().__init__(module.backbone, pooling=module.pooling)
        self._kept = kept

    def forward(self, packed: Tensor) -> Tensor:
        """Give kept features of a packed batch, float32 [rows, width]."""
        lengths = packed[:, MASK].sum(dim=1).tolist()
        ids = [row[:n] for row, n in zip(packed[:, IDS].tolist(), lengths, strict=True)]
        return torch.from_numpy(self._kept.encode_tokens(ids))

    def __deepcopy__(self, memo: Any) -> KeptModule:  # noqa: ANN401
        """Give the module itself: nothing of it ever changes."""
        del memo
        return self


def _hash(token_ids: Sequence[int]) -> bytes:
    return hashlib.blake2b(np.array(token_ids, dtype=np.int32).tobytes(), digest_size=16).digest()
