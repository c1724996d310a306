"""One loaded release: texts or features to decisions. Immutable.

Owns putting encoder, head and task kind together; must not know batching, swapping or topics.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from learners.engines import EngineOptions
from learners.heads.base import Floats, ServedHead
from learners.heads.served import load_judged_head, load_served_head
from learners.model import BLOBS as ENCODER_BLOBS
from learners.model import Encoder
from learners.registry import Registry
from learners.tasks import KINDS, Decision, TaskKind
from schemas.errors import ReleaseError
from schemas.models import Blob, ModelRelease

TOP = 5  # labels listed beside an answer

log = logging.getLogger(__name__)


class EncoderCache:
    """Encoders by the content of their blobs.

    A new head over the same encoder so loads in milliseconds.

    Args:
        device: as for `Encoder.load`.
        precision: as for `Encoder.load`.
        engines: what may compute in their place, as for `Encoder.choose_engine`; None for torch at
            that precision.
        encoders: kept at most, the least recently used is dropped first.
    """

    def __init__(
        self,
        *,
        device: str = "auto",
        precision: str = "auto",
        engines: EngineOptions | None = None,
        encoders: int = 2,
    ) -> None:
        self._device = device
        self._precision = precision if engines is None else "fp32"
        self._engines = engines
        self._bound = encoders
        self._encoders: OrderedDict[tuple[str, ...], Encoder] = OrderedDict()
        self._lock = threading.Lock()  # releases are loaded in threads beside the one that serves
        self._loading = threading.Lock()

    def get(self, release: ModelRelease, registry: Registry) -> Encoder:
        """Give the encoder of a release, loaded at the first request.

        Raises:
            ReleaseError: a blob is missing or damaged.
        """
        missing = [name for name in ENCODER_BLOBS if name not in release.blobs]
        if missing:
            raise ReleaseError(f"release {release.version} lacks the blobs {', '.join(missing)}")
        key = _key(release.blobs)
        found = self._found(key)
        if found is not None:
            return found
        with self._loading:  # others that are there do not wait for this one
            found = self._found(key)
            if found is None:
                found = self._load(release, registry)
                with self._lock:
                    self._encoders[key] = found
                    while len(self._encoders) > self._bound:
                        self._encoders.popitem(last=False)
        return found

    def _found(self, key: tuple[str, ...]) -> Encoder | None:
        with self._lock:
            if key in self._encoders:
                self._encoders.move_to_end(key)
            return self._encoders.get(key)

    def _load(self, release: ModelRelease, registry: Registry) -> Encoder:
        encoder = Encoder.from_blobs(
            {name: registry.read_blob(release.blobs[name]) for name in ENCODER_BLOBS},
            name=release.backbone,
            device=self._device,
            precision=self._precision,
        )
        if self._engines is not None:
            log.info("encoder of %s: %s", release.version, encoder.choose_engine(self._engines))
        return encoder

    def preload(self, encoder: Encoder) -> None:
        """Use a loaded backbone for the releases that are made of it, as most are."""
        digests = {name: hashlib.sha256(data) for name, data in encoder.blobs().items()}
        with self._lock:
            self._encoders[tuple(digests[name].hexdigest() for name in ENCODER_BLOBS)] = encoder

    def keep(self, blobs: Mapping[str, Blob], encoder: Encoder) -> None:
        """Use an encoder that is loaded already for releases with these blobs."""
        with self._lock:
            self._encoders[_key(blobs)] = encoder


def _key(blobs: Mapping[str, Blob]) -> tuple[str, ...]:
    return tuple(blobs[name].sha256 for name in ENCODER_BLOBS)


@dataclass(frozen=True, slots=True)
class ReleasedModel:
    """A release that can answer.

    Attributes:
        release: its manifest.
        kind: of its task.
        encoder: shared with every release that has the same one.
        head: its own.
        judged: the same without what it learned of held-out rows: on them, only this may be judged.
    """

    release: ModelRelease
    kind: TaskKind
    encoder: Encoder
    head: ServedHead
    judged: ServedHead

    def decide(self, features: Floats, *, top: int = TOP) -> list[Decision]:
        """Answer for features of this release's encoder: one decision a row.

        Args:
            features: float32 [rows, row_width], as `Encoder.read` gives them, or [rows, width].
            top: how many labels to list.
        """
        return decide_by(self.head, features, kind=self.kind, top=top)

    def predict(self, texts: Sequence[str], *, top: int = TOP) -> list[Decision]:
        """Answer for texts, one decision a text."""
        return self.decide(self.encoder.read(texts), top=top)

    @classmethod
    def load(
        cls, release: ModelRelease, registry: Registry, *, encoders: EncoderCache
    ) -> ReleasedModel:
        """Read a release's blobs, each verified by its hash.

        Raises:
            ReleaseError: a blob is missing or damaged, or this build does not know the task kind.
        """
        if release.kind not in KINDS:
            raise ReleaseError(
                f"release {release.version} is of kind {release.kind!r}, "
                f"and this build knows {', '.join(KINDS)}"
            )
        blobs = {
            name: registry.read_blob(blob)
            for name, blob in release.blobs.items()
            if name not in ENCODER_BLOBS
        }
        head = load_served_head(blobs)
        return cls(
            release=release,
            kind=KINDS[release.kind],
            encoder=encoders.get(release, registry),
            head=head,
            judged=load_judged_head(blobs, head),
        )


def decide_by(head: ServedHead, features: Floats, *, kind: TaskKind, top: int) -> list[Decision]:
    """Answer for features by a head: one decision a row.

    Args:
        head: released, or still learning.
        features: float32 [rows, row_width], as `Encoder.read` gives them, or [rows, width].
        kind: of the task.
        top: how many labels to list.
    """
    scores = head.scores(features)
    probabilities = head.correct(kind.probabilities(scores, scale=head.scale))
    decisions = kind.decide(probabilities, labels=head.labels, threshold=head.threshold, top=top)
    unknown = head.unknown(features, scores)
    if unknown is None:
        return decisions
    return [
        replace(decision, unknown=float(share))
        for decision, share in zip(decisions, unknown, strict=True)
    ]
