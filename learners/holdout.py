"""Which examples are held out: a fixed share, by hash of the id, that never trains what is judged.

Owns the law; must not know memory, models or streams. Every role that asks gets the same answer
for ever.
"""

from __future__ import annotations

import hashlib


def is_held_out(example_id: str, *, share: float) -> bool:
    """Say whether an example is kept for the gate and never trained on.

    Args:
        example_id: the interaction's id.
        share: expected share of held-out examples, 0 to 1.

    Returns:
        The same answer for the same id and share in every process; growing the share only adds ids.

    Examples:
        >>> sum(is_held_out(str(n), share=0.05) for n in range(10_000))
        494
        >>> is_held_out("a", share=0.0), is_held_out("a", share=1.0)
        (False, True)
    """
    digest = hashlib.blake2b(example_id.encode(), digest_size=8, person=b"ms-holdout").digest()
    return int.from_bytes(digest, "big") < share * 2**64
