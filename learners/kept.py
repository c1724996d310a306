"""Features that were computed once, for whoever reads the same text next.

Owns how features are written, for how long they are kept and within which bound; must not know who
computes them or what for. They are a cache, never the truth: what is not there, or what a server
that is away does not say, is computed. Kept features carry no user and no text: they are found by a
hash of encoder and text, and are gone after a while, whatever is asked.

A number takes 16 bits, in the steps of 2^-14 in which the additive head sums features. So a head
learns the same of features that were kept as of those same features before, to the bit, which
IEEE's half precision would not give: it has another grid. The first features of a text stay for as
long as they are kept, so that whoever asks twice, to add and to take back, gets the same.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import redis
from numpy.typing import NDArray

from learners.heads.base import Floats
from learners.heads.projection import FIXED_BITS, fixed_point
from learners.scripts import Argument, Script, check_client, run_scripts
from learners.words import hashed_words, joined

if TYPE_CHECKING:
    from learners.model import Encoder

log = logging.getLogger(__name__)

FORMAT = 1  # of what is written: another one is another set of keys
PAUSE_S = 5.0  # after a server did not answer: until then nobody waits for it again

_PUT = Script("kept_put")


class FeatureSource(Protocol):
    """Where features come from that were computed before."""

    def get(self, space_id: str, texts: Sequence[str]) -> list[Floats | None]:
        """Give what is kept of texts, each float32 [width], or None."""
        ...

    def put(self, space_id: str, texts: Sequence[str], features: Floats) -> None:
        """Keep features, float32 [rows, width], of texts of which none are kept."""
        ...

    def as_kept(self, features: Floats) -> Floats:
        """Give features as `get` would once they were kept."""
        ...


class NothingKept:
    """Keeps nothing: every text is encoded."""

    def get(self, space_id: str, texts: Sequence[str]) -> list[Floats | None]:
        """Give nothing."""
        del space_id
        return [None] * len(texts)

    def put(self, space_id: str, texts: Sequence[str], features: Floats) -> None:
        """Keep nothing."""

    def as_kept(self, features: Floats) -> Floats:
        """Give them as they are."""
        return features


class KeptObserver(Protocol):
    """Who is told; metrics, in the roles."""

    def looked_up(self, *, found: int, missing: int) -> None:
        """So many texts were asked for."""
        ...

    def failed(self) -> None:
        """The server did not answer, or refused."""
        ...


class _Nobody:
    def looked_up(self, *, found: int, missing: int) -> None:
        pass

    def failed(self) -> None:
        pass


class KeptFeatures:
    """Features in Redis; any number of processes and threads may share them.

    A server that is away costs one wait of the connection's timeout every `PAUSE_S`, and a warning.

    Args:
        client: a connection that does not decode answers; give it short timeouts and no retries.
        namespace: start of every key.
        max_bytes: bound of all that is kept, bytes of names and features; the server's own
            structures come on top. 0 keeps nothing.
        life_s: how long features are kept, seconds.
        clock_s: monotonic seconds.
        observer: is told.

    Raises:
        ValueError: a bound is negative, a life is not positive, or the connection decodes answers.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        namespace: str,
        max_bytes: int,
        life_s: float,
        clock_s: Callable[[], float],
        observer: KeptObserver | None = None,
    ) -> None:
        check_client(client)
        if max_bytes < 0 or not life_s > 0:
            raise ValueError(
                f"max_bytes is {max_bytes} and life_s {life_s:g}: at least 0, and more than 0, "
                "were expected"
            )
        self.max_bytes = max_bytes
        self._life_ms = max(1, round(1000 * life_s))
        self._redis = client
        self._base = f"{namespace}:{{f}}:{FORMAT}:"
        self._clock_s = clock_s
        self._observer = observer or _Nobody()
        self._paused_until_s = float("-inf")

    def get(self, space_id: str, texts: Sequence[str]) -> list[Floats | None]:
        """Give what is kept of texts: one round trip.

        Args:
            space_id: of the encoder.
            texts: any number.

        Returns:
            For each text float32 [width], or None where nothing is kept, or nobody answers.
        """
        found: list[Floats | None] = [None] * len(texts)
        if texts and self.max_bytes and not self._is_paused:
            start = self._base.encode() + b"f"
            try:
                names = [start + name for name in _names(space_id, texts)]
                values = cast("list[bytes | None]", self._redis.mget(names))
            except redis.RedisError as error:
                self._failed("read", error)
            else:
                found = [None if value is None else _unpacked(value) for value in values]
        missing = sum(row is None for row in found)
        self._observer.looked_up(found=len(texts) - missing, missing=missing)
        return found

    def put(self, space_id: str, texts: Sequence[str], features: Floats) -> None:
        """Keep features: one round trip; of a text whose features are kept, those stay.

        Args:
            space_id: of the encoder.
            texts: one a row.
            features: float32 [rows, width], every magnitude under 1.

        Raises:
            ValueError: there is not one row of features a text.
        """
        if len(texts) != len(features):
            raise ValueError(f"{len(features)} rows of features for {len(texts)} texts")
        if not len(texts) or not self.max_bytes or self._is_paused:
            return
        names = _names(space_id, texts)
        rows = [row.tobytes() for row in fixed_point(features).numpy().astype("<i2")]
        arguments: list[Argument] = [self.max_bytes, self._life_ms, b"".join(names), *rows]
        try:
            run_scripts(self._redis, [(_PUT, self._base, arguments)])
        except redis.RedisError as error:
            self._failed("written", error)

    def as_kept(self, features: Floats) -> Floats:
        """Give features as `get` would once they were kept."""
        return _values(fixed_point(features).numpy())

    def bytes(self) -> int:
        """Count what is kept: names and features, bytes; those that have just expired included."""
        value = self._redis.get(f"{self._base}bytes")
        return 0 if value is None else int(value)

    @property
    def _is_paused(self) -> bool:
        return self._clock_s() < self._paused_until_s

    def _failed(self, what: str, error: redis.RedisError) -> None:
        self._paused_until_s = self._clock_s() + PAUSE_S
        self._observer.failed()
        log.warning(
            "kept features cannot be %s for now, texts are encoded again: %s: %s",
            what,
            type(error).__name__,
            error,
        )


class KeptLater:
    """Keeps features in a thread of its own, so that whoever computed them goes on at once.

    Args:
        kept: where to.
        waiting: batches that may wait, at most; when a server is so slow, further ones are dropped.
        observer: is told of those.
    """

    def __init__(
        self, kept: FeatureSource, *, waiting: int = 64, observer: KeptObserver | None = None
    ) -> None:
        self._kept = kept
        self._observer = observer or _Nobody()
        self._queue: queue.Queue[tuple[str, Sequence[str], Floats]] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._work, name="keeps-features", daemon=True)
        self._thread.start()

    def put(self, space_id: str, texts: Sequence[str], features: Floats) -> None:
        """Hand over features, as for `KeptFeatures.put`; they must not change from now on."""
        try:
            self._queue.put_nowait((space_id, texts, features))
        except queue.Full:
            self._observer.failed()

    def wait(self) -> None:
        """Wait until all that was handed over is kept or dropped."""
        self._queue.join()

    def _work(self) -> None:
        while True:
            space_id, texts, features = self._queue.get()
            try:
                self._kept.put(space_id, texts, features)
            finally:
                self._queue.task_done()


def rows_of(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    kept: FeatureSource,
    token_ids: Sequence[Sequence[int]] | None = None,
    keep: bool = False,
) -> Floats:
    """Give what a head reads of texts: features as `features_of` gives them, words behind them.

    Returns:
        float32 [rows, row_width] in the order of the texts.
    """
    if token_ids is None:
        token_ids = encoder.tokenize(texts)
    features = features_of(encoder, texts, kept=kept, token_ids=token_ids, keep=keep)
    return joined(features, hashed_words(token_ids))


def features_of(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    kept: FeatureSource,
    token_ids: Sequence[Sequence[int]] | None = None,
    keep: bool = False,
) -> Floats:
    """Give features of texts: those that are kept, and for the others one pass of the encoder.

    Args:
        encoder: whose features.
        texts: any number.
        kept: where features may be.
        token_ids: of the texts, where they are known.
        keep: whether features that had to be computed are kept from now on.

    Returns:
        float32 [rows, width] in the order of the texts.
    """
    space_id = encoder.space_id  # asked once: it looks at every weight's version
    found = kept.get(space_id, texts)
    features = np.empty((len(texts), encoder.width), dtype=np.float32)
    missing: list[int] = []
    for place, row in enumerate(found):
        if row is None or len(row) != encoder.width:
            missing.append(place)
        else:
            features[place] = row
    if not missing:
        return features
    some = [texts[place] for place in missing]
    if token_ids is None:
        encoded = encoder.encode(some)
    else:
        encoded = encoder.encode_tokens([token_ids[place] for place in missing])
    features[missing] = kept.as_kept(encoded)
    if keep:
        kept.put(space_id, some, encoded)
    return features


def _names(space_id: str, texts: Sequence[str]) -> list[bytes]:
    """Name what is kept of texts: 16 bytes of a hash over encoder and text."""
    start = hashlib.blake2b(space_id.encode(), digest_size=16, person=b"ms-kept")
    names = []
    for text in texts:
        digest = start.copy()
        digest.update(b"\0" + text.encode())
        names.append(digest.digest())
    return names


def _unpacked(value: bytes) -> Floats:
    return _values(np.frombuffer(value, dtype="<i2"))


def _values(steps: NDArray[np.int16]) -> Floats:
    return steps.astype(np.float32) * np.float32(2.0**-FIXED_BITS)
