"""Laws of kept features: never over the bound, never another text's, the newest stay."""

from __future__ import annotations

import itertools
import time

import numpy as np
import redis as redis_client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from learners.kept import KeptFeatures

_run = itertools.count()
puts = st.lists(
    st.tuples(
        st.lists(st.text(max_size=3), min_size=1, max_size=6),
        st.integers(1, 12),  # width
        st.integers(0, 600),  # bound
    ),
    max_size=12,
)


def value_of(text: str, width: int) -> float:
    return (1 + hash((text, width)) % 1_000) / 2_048


@given(puts=puts)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_is_kept_is_bounded_newest_and_true(
    redis: redis_client.Redis, puts: list[tuple[list[str], int, int]]
) -> None:
    namespace = f"laws-{next(_run):06}"
    start = f"{namespace}:{{f}}:1:f"
    told: list[str] = []
    for texts, width, bound in puts:
        store = KeptFeatures(
            redis, namespace=namespace, max_bytes=bound, life_s=60.0, clock_s=time.monotonic
        )
        before = found_by(store, told)
        features = np.array([[value_of(text, width)] * width for text in texts], dtype=np.float32)
        store.put("space", texts, features)
        told += texts
        after = found_by(store, told)
        keys: list[bytes] = list(redis.scan_iter(f"{start}*"))
        if bound:
            assert sum(len(key) + redis.strlen(key) for key in keys) == store.bytes() <= bound
        for text, row in after.items():
            assert set(row.tolist()) == {value_of(text, len(row))}
            assert text in texts or np.array_equal(before[text], row)
        if texts[-1] not in before and len(start) + 16 + 2 * width <= bound:
            assert texts[-1] in after


def found_by(store: KeptFeatures, texts: list[str]) -> dict[str, NDArray[np.float32]]:
    found = zip(texts, store.get("space", texts), strict=True)
    return {text: row for text, row in found if row is not None}
