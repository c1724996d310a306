"""From what the learner knows to a release, through the gate.

Owns the comparison on held-out memory and the publication; must not know Kafka or who serves.

A candidate is held against the release before it, and may lose a little. A strategy that forgets
slowly would pass every time, and lose everything in the end: the best release so far, the one that
none since was better than on the same held-out rows, is therefore asked too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
import numpy.typing as npt
from msgspec import structs

from learners.gate import GateRules, judge
from learners.heads.class_drift import WINDOW_ROWS
from learners.kept import FeatureSource, NothingKept, rows_of
from learners.loop import Learner
from learners.model import Encoder
from learners.registry import Registry
from learners.released import EncoderCache, ReleasedModel, decide_by
from learners.strategies.base import Refits, Renews, Rests
from learners.tasks import Decision
from schemas import Blob, GateReport, ModelRelease
from schemas.errors import NoReleaseError, ReleaseError
from schemas.fields import Label

PRUNE_EVERY = 10  # releases; a clean-up lists them, and reads the manifests of these
# Standard errors that chance explains beside the best: of the best of many, luck is a part.
LUCK = 3.0


class HeldOutRow(Protocol):
    """A held-out row, as the gate needs it."""

    @property
    def id(self) -> str:
        """Interaction id."""
        ...

    @property
    def text(self) -> str:
        """What the user wrote."""
        ...

    @property
    def label(self) -> Label:
        """The truth."""
        ...


class HeldOutSource(Protocol):
    """Where held-out rows come from."""

    def held_out(self, rows: int) -> Sequence[HeldOutRow]:
        """Give up to so many held-out rows."""
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a candidate.

    Attributes:
        report: the gate's figures.
        release: the new release, or None when the candidate was refused.
    """

    report: GateReport
    release: ModelRelease | None


@dataclass(frozen=True, slots=True)
class Rival:
    """A release that candidates are held against.

    Attributes:
        model: it.
        renewals: how often labels had changed their meaning before it was made; None where it was
            not made here.
    """

    model: ReleasedModel
    renewals: Mapping[str, int] | None = None


class FeatureCache:
    """What heads read of held-out rows, by encoder and id, newest kept.

    Args:
        rows: how many are kept at most.
        shared: where features may be that were computed elsewhere.
    """

    def __init__(self, rows: int, *, shared: FeatureSource) -> None:
        self.rows = rows
        self._shared = shared
        self._kept: OrderedDict[tuple[str, str], npt.NDArray[np.float32]] = OrderedDict()

    def features(self, encoder: Encoder, rows: Sequence[HeldOutRow]) -> npt.NDArray[np.float32]:
        """Give float32 [rows, row_width], encoding only what is not kept."""
        space = encoder.space_id  # asked once: it looks at every weight's version
        missing = [row for row in rows if (space, row.id) not in self._kept]
        if missing:
            encoded = rows_of(encoder, [row.text for row in missing], kept=self._shared)
            for row, features in zip(missing, encoded, strict=True):
                self._kept[space, row.id] = features
        found = np.stack([self._kept[space, row.id] for row in rows])
        for row in rows:
            self._kept.move_to_end((space, row.id))
        while len(self._kept) > self.rows:
            self._kept.popitem(last=False)
        return found


class Releaser:
    """Makes candidates of one learner into releases.

    Args:
        learner: of one task.
        registry: where releases are kept.
        memory: where held-out rows come from.
        rules: of the gate.
        rows: held-out rows that decide.
        keep: releases of the task that stay in the registry; a few more, between two clean-ups.
        features: where features may be that were computed elsewhere.
    """

    def __init__(
        self,
        learner: Learner,
        *,
        registry: Registry,
        memory: HeldOutSource,
        rules: GateRules,
        rows: int,
        keep: int,
        features: FeatureSource | None = None,
    ) -> None:
        self.learner = learner
        self.registry = registry
        self.memory = memory
        self.rules = rules
        self.rows = rows
        self.keep = keep
        self._champion: Rival | None = None
        self._best: Rival | None = None
        self.considered = -1  # examples learned when a candidate was last considered
        self._features = FeatureCache(4 * rows, shared=features or NothingKept())
        self._encoders = EncoderCache(encoders=3)  # the learner's, the champion's and the best's
        self._encoder_blobs: dict[str, Blob] | None = None
        self._shared: Encoder | None = None
        self._until_prune = PRUNE_EVERY
        self._stirred = False

    @property
    def champion(self) -> ReleasedModel | None:
        """The release that serves."""
        return None if self._champion is None else self._champion.model

    @property
    def best(self) -> ReleasedModel | None:
        """The release that none since was better than, on held-out rows."""
        return None if self._best is None else self._best.model

    def resume(self) -> ModelRelease | None:
        """Take the newest release of the task as champion, when there is one."""
        try:
            release = self.registry.latest(self.learner.task)
        except NoReleaseError:
            return None
        self._follow_to(release)
        return release

    @property
    def has_news(self) -> bool:
        """Whether anything was learned, or solved anew, since the last candidate."""
        return self._stirred or self.learner.learned > max(0, self.considered)

    def stir(self) -> None:
        """Let what the learner knows be considered, though nothing more was learned."""
        self._stirred = True

    def rest(self) -> bool:
        """Let the strategy use idle time; say whether that made a new candidate."""
        strategy = self.learner.strategy
        if isinstance(strategy, Rests) and self.learner.learned and strategy.rest():
            self._stirred = True
        return self._stirred

    def consider(self, *, positions: Mapping[str, int], now: datetime) -> Verdict:
        """Put what the learner knows now before the gate, and publish it when it holds.

        Args:
            positions: `topic/partition` to next offset that the learner stands at.
            now: the wall clock.

        Returns:
            The verdict; its release is durable when this returns.
        """
        strategy = self.learner.strategy
        strategy.settle()
        self.considered = self.learner.learned
        self._stirred = False
        held = self._follow()
        report = held or self._judge()
        if not report.accepted:
            return Verdict(report, None)
        blobs = {**self._encoder(), **self.registry.put_blobs(strategy.head_blobs())}
        release = self.registry.publish(
            task=self.learner.task,
            kind=self.learner.kind.name,
            strategy=strategy.name,
            backbone=strategy.encoder.name,
            blobs=blobs,
            positions=dict(positions),
            learned=self.learner.learned,
            labels=len(self.learner.labels),
            gate=report,
            time=now,
        )
        renewals = strategy.renewals() if isinstance(strategy, Renews) else {}
        self._champion = Rival(self._load(release), renewals)
        if self._best is None or report.best is None:
            self._best = self._champion
        self._until_prune -= 1
        if not self._until_prune:
            spared = (self._best.model.release.version,)
            self.registry.prune(self.learner.task, self.keep, spared=spared)
            self._until_prune = PRUNE_EVERY
        return Verdict(report, release)

    def _load(self, release: ModelRelease) -> ReleasedModel:
        return ReleasedModel.load(release, self.registry, encoders=self._encoders)

    def _follow_to(self, release: ModelRelease) -> None:
        """Take a release that was not made here for champion, and what it names for the best."""
        self._share_encoder()
        self._champion = self._best = Rival(self._load(release))
        if release.gate.best is not None:
            try:
                best = self.registry.get(self.learner.task, release.gate.best)
                self._best = Rival(self._load(best))
            except ReleaseError:
                pass  # somebody cleaned up: the champion is the best that is known

    def _follow(self) -> GateReport | None:
        """Take as champion what others published; hold candidates back after a rollback."""
        try:
            latest = self.registry.latest(self.learner.task)
        except NoReleaseError:
            return None
        if self.champion is None or latest.version != self.champion.release.version:
            self._follow_to(latest)
        if latest.rolled_back_from is None:
            return None
        return GateReport(
            accepted=False,
            reason=(
                f"held: {latest.rolled_back_from} was rolled back; `mindstream releases resume "
                f"{self.learner.task}` lets candidates pass again"
            ),
            rows=0,
            challenger=0.0,
        )

    def _judge(self) -> GateReport:
        """Judge the candidate beside the champion, and beside the best so far.

        Beside the best only all rows together are judged. Of a label, or of the oldest rows, some
        loss is for good where newer labels take over their texts: that would stop every candidate.
        """
        rows = list(self.memory.held_out(self.rows))
        challenger = self._challenge(rows)
        report = beside = self._beside(self._champion, rows, challenger, rules=self.rules)
        best = self._best
        if best is None:
            return report
        if best is not self._champion:
            rules = GateRules(
                errors=max(LUCK, self.rules.errors),
                margin=self.rules.margin,
                label_loss=1.0,
                slice_loss=1.0,
                calibration_loss=1.0,
            )
            beside = self._beside(best, rows, challenger, rules=rules)
            changed, texts = self._changed(best), self.learner.kind.label_texts
            if not beside.left_out and any(
                text in changed for r in rows for text in texts(r.label)
            ):
                self._best = self._champion  # most of what the best knew has another meaning now
                return report
        if report.accepted and beside.challenger >= (beside.champion or 0.0):
            return report  # it is the best itself
        version = best.model.release.version
        report = structs.replace(report, best=version, best_score=beside.champion)
        if report.accepted and not beside.accepted:
            reason = f"beside {version}, the best release so far: {beside.reason}"
            report = structs.replace(report, accepted=False, reason=reason)
        return report

    def _beside(
        self,
        rival: Rival | None,
        rows: Sequence[HeldOutRow],
        challenger: Sequence[Decision | None],
        *,
        rules: GateRules,
    ) -> GateReport:
        """Judge what the candidate answers on held-out rows beside what a release does."""
        answers: Sequence[Decision] | None = None if rival is None else []
        if rows and rival is not None:
            model = rival.model
            features = self._features.features(model.encoder, rows)
            answers = decide_by(model.judged, features, kind=model.kind, top=1)
        return judge(
            truths=[row.label for row in rows],
            challenger=challenger,
            champion=answers,
            kind=self.learner.kind,
            labels=list(self.learner.strategy.head.labels),
            rules=rules,
            changed=self._changed(rival),
        )

    def _challenge(self, rows: Sequence[HeldOutRow]) -> Sequence[Decision | None]:
        strategy = self.learner.strategy
        if not rows or not strategy.head.labels:
            return [None] * len(rows)
        if strategy.trains_encoder:  # its features change with every step: nothing to keep
            features = strategy.encoder.read([row.text for row in rows])
        else:
            features = self._features.features(strategy.encoder, rows)
        head = strategy.judged_head if isinstance(strategy, Refits) else strategy.head
        return decide_by(head, features, kind=self.learner.kind, top=1)

    def _changed(self, rival: Rival | None) -> Collection[str]:
        """Name the labels whose meaning may have changed since a release was made.

        Of a release that was not made by this object, these are the labels that have no more rows
        since their change than were learned of all labels since the release.
        """
        strategy = self.learner.strategy
        if rival is None or not isinstance(strategy, Renews):
            return ()
        if rival.renewals is not None:
            before = rival.renewals
            return {text for text, n in strategy.renewals().items() if n > before.get(text, 0)}
        since = self.learner.learned - rival.model.release.learned + WINDOW_ROWS
        return {text for text, rows in strategy.renewed_rows().items() if rows <= since}

    def _encoder(self) -> dict[str, Blob]:
        """Store the encoder: once where it is frozen, anew where it is trained."""
        if self.learner.strategy.trains_encoder:
            return self.registry.put_blobs(self.learner.strategy.encoder.blobs())
        self._share_encoder()
        assert self._encoder_blobs is not None
        return self._encoder_blobs

    def _share_encoder(self) -> None:
        """Let released models use the learner's own encoder where it is frozen."""
        strategy = self.learner.strategy
        if strategy.trains_encoder or self._shared is strategy.encoder:
            return
        self._shared = strategy.encoder  # another one after a consolidation
        self._encoder_blobs = self.registry.put_blobs(strategy.encoder.blobs())
        self._encoders.keep(self._encoder_blobs, strategy.encoder)
