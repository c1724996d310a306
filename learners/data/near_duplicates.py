"""Near duplicates on an endless stream: which earlier text does this one repeat, nearly?

Owns the recent texts' signatures and their index, bounded by rows; must not know labels, models or
streams. It says what repeats; whether a repeat is dropped is for the caller to decide.

MinHash: Broder, "On the resemblance and containment of documents", 1997; the banded index:
Leskovec, Rajaraman & Ullman, "Mining of Massive Datasets", chapter 3. Both are datasketch's. Ours
differs in two ways: the index forgets, so that memory stays flat for ever, and every candidate is
checked by its estimated similarity, so that a collision in one band is not yet a repeat.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray
from torch import Tensor

# Bands that favour finding a repeat over sparing a check: of texts with a similarity .05 above the
# threshold 97 % are found; those far below it cost a comparison each.
_WEIGHTS = (0.1, 0.9)


@dataclass(frozen=True, slots=True)
class NearDuplicateConfig:
    """What counts as a repeat, and how much is remembered.

    Attributes:
        similarity: estimated Jaccard similarity of two texts' shingles from which one repeats the
            other, over 0 to 1.
        max_rows: texts remembered; each takes about 6 kB.
        permutations: hashes a signature; the estimate's standard error is at most
            .5 / sqrt(permutations).
        shingle_chars: length of the pieces that texts are compared by, characters.
        seed: of the hashes; states of different seeds do not mix.
    """

    similarity: float = 0.8
    max_rows: int = 10_000
    permutations: int = 128
    shingle_chars: int = 5
    seed: int = 1


class Repeat(NamedTuple):
    """What a text repeats.

    Attributes:
        id: of the most similar text in memory; of several the one remembered first.
        similarity: estimated Jaccard similarity, the config's threshold to 1.
    """

    id: str
    similarity: float


class _Row(NamedTuple):
    number: int  # counts the texts that came in; the index's key
    hashes: NDArray[np.uint32]  # [permutations]


class NearDuplicates:
    """The texts seen lately, as signatures.

    A new text is remembered; a repeat is not, but what it repeats counts as seen just now. When
    memory is full the text that was seen longest ago goes.

    Examples:
        >>> near = NearDuplicates(NearDuplicateConfig(similarity=0.6))
        >>> near.check("a", "My card has not arrived, where is it?")
        >>> near.check("b", "my card has not arrived... where is it?").id
        'a'
        >>> near.check("c", "I want my money back") is None, len(near)
        (True, 2)
    """

    def __init__(self, config: NearDuplicateConfig) -> None:
        """Make an empty memory.

        Args:
            config: what counts as a repeat, and the bound.

        Raises:
            ValueError: a number is out of its range.
        """
        if not 0 < config.similarity <= 1:
            raise ValueError(f"similarity is {config.similarity}: it must be over 0 and at most 1")
        for name in ("max_rows", "shingle_chars"):
            if getattr(config, name) < 1:
                raise ValueError(f"{name} is {getattr(config, name)}: it must be positive")
        if config.permutations < 16:
            raise ValueError(f"permutations is {config.permutations}: at least 16 are needed")
        self.config = config
        self._blank = MinHash(num_perm=config.permutations, seed=config.seed)
        self._forget_all()

    def check(self, id_: str, text: str) -> Repeat | None:
        """Look for an earlier text that this one repeats; remember this one if there is none.

        An id that comes again is not compared with itself, and its new text replaces the old one:
        the answer to a message that is delivered twice is the same while memory holds what it held.

        Args:
            id_: of the text.
            text: any; letters are compared without case, white space as one space.

        Returns:
            What it repeats, or None for a new text.
        """
        known = self._rows.pop(id_, None)
        if known is not None:
            self._drop(known)
        signature = self._signature(text)
        repeat = self._nearest(signature)
        if repeat is not None:
            self._rows.move_to_end(repeat.id)
            return repeat
        while len(self._rows) >= self.config.max_rows:
            _, oldest = self._rows.popitem(last=False)
            self._drop(oldest)
        number = self._next if known is None else known.number
        self._insert(id_, _Row(number, signature.hashvalues))
        self._next += known is None
        return None

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._rows

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything the next answer depends on.

        Returns:
            `hashes`, int32 [rows, permutations] (the bits of uint32), and JSON values.
        """
        hashes = np.zeros((len(self._rows), self.config.permutations), dtype=np.uint32)
        for row, entry in enumerate(self._rows.values()):
            hashes[row] = entry.hashes
        return {"hashes": torch.from_numpy(hashes.view(np.int32))}, {
            "ids": list(self._rows),
            "numbers": [row.number for row in self._rows.values()],
            "next": self._next,
            "law": self._law(),
        }

    def restore(self, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up a state in place of what is remembered.

        Raises:
            ValueError: the state's signatures were made by other settings.
        """
        if list(meta["law"]) != self._law():
            raise ValueError(
                f"permutations, shingle_chars, seed are {self._law()}, and the state's are "
                f"{list(meta['law'])}: their signatures cannot be compared"
            )
        self._forget_all()
        hashes = arrays["hashes"].cpu().numpy().view(np.uint32)
        rows = list(zip(meta["ids"], meta["numbers"], hashes, strict=True))
        for id_, number, values in rows[-self.config.max_rows :]:
            self._insert(id_, _Row(int(number), values.copy()))
        self._next = int(meta["next"])

    def _law(self) -> list[int]:
        return [self.config.permutations, self.config.shingle_chars, self.config.seed]

    def _forget_all(self) -> None:
        self._rows: OrderedDict[str, _Row] = OrderedDict()  # seen longest ago first
        self._ids: dict[int, str] = {}
        self._next = 0
        self._index = MinHashLSH(
            threshold=self.config.similarity,
            num_perm=self.config.permutations,
            weights=_WEIGHTS,
        )

    def _insert(self, id_: str, row: _Row) -> None:
        self._rows[id_] = row
        self._ids[row.number] = id_
        self._index.insert(row.number, self._minhash(row.hashes))

    def _drop(self, row: _Row) -> None:
        self._index.remove(row.number)
        del self._ids[row.number]

    def _nearest(self, signature: MinHash) -> Repeat | None:
        best = None
        least = self.config.similarity
        for number in sorted(self._index.query(signature)):  # in order, so that ties are settled
            id_ = self._ids[number]
            similarity = float(np.mean(signature.hashvalues == self._rows[id_].hashes))
            if similarity > least or (best is None and similarity == least):
                best, least = Repeat(id_, similarity), similarity
        return best

    def _signature(self, text: str) -> MinHash:
        plain = " ".join(text.casefold().split())
        size = self.config.shingle_chars
        starts = range(max(1, len(plain) - size + 1))
        # Half of a surrogate pair has no UTF-8, and must not stop the stream.
        shingles = {plain[at : at + size].encode("utf-8", "surrogatepass") for at in starts}
        signature = self._blank.copy()  # shares the permutations, which are slow to draw
        signature.update_batch(sorted(shingles))
        return signature

    def _minhash(self, hashes: NDArray[np.uint32]) -> MinHash:
        signature = self._blank.copy()
        signature.hashvalues = hashes
        return signature
