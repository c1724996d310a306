"""A released head from its blobs, whatever kind it is.

Owns the table of kinds; must not know how any of them is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from learners.heads.base import ServedHead, unpack
from learners.heads.linear import SolvedLinear
from learners.heads.solved import SolvedAdditive
from schemas.errors import ReleaseError

READERS: dict[str, Callable[[Mapping[str, bytes]], ServedHead]] = {
    "linear": SolvedLinear.from_blobs,
    "additive": SolvedAdditive.from_blobs,
}


def load_judged_head(blobs: Mapping[str, bytes], served: ServedHead) -> ServedHead:
    """Read the head that may be judged on held-out rows, beside the one that serves.

    An additive head learns the held-out rows too before it serves, where there was time. What it
    was before that is in the blob `judged`, as far as it differs.

    Args:
        blobs: of the release.
        served: what `load_served_head` gave for them.

    Raises:
        ReleaseError: the blob is damaged.
    """
    if "judged" not in blobs or not isinstance(served, SolvedAdditive):
        return served
    try:
        return served.judged(blobs["judged"])
    except KeyError as error:
        raise ReleaseError(f"the blob 'judged' lacks {error.args[0]!r}") from error


def load_served_head(blobs: Mapping[str, bytes]) -> ServedHead:
    """Read a head; other names in the mapping are ignored.

    Raises:
        ReleaseError: a blob is missing or damaged, or of a kind this build does not know.
    """
    try:
        _, meta = unpack(blobs["head"])
        kind = meta.get("type")
        if kind not in READERS:
            raise ReleaseError(f"head type {kind!r}: one of {', '.join(READERS)} was expected")
        return READERS[kind](blobs)
    except KeyError as error:
        raise ReleaseError(f"the release lacks {error.args[0]!r}, which its head needs") from error
