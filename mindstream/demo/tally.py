"""What a demo has sent and seen: the plain state that view, producer and summary read.

Owns every count of the demo, each from its own source: the producer's sends, the topics' records,
the join's counters in Redis. Must not know Kafka, Redis or terminals. Safe to use from several
threads: each method takes the lock once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from learners.holdout import is_held_out
from learners.tasks.base import TaskKind
from mindstream.demo.plan import Event, Plan
from mindstream.demo.staleness import Coverage, Covered
from schemas import DeadLetter, DriftSignal, Example, ModelRelease, Prediction

RECENT = 200  # predictions in the recent accuracy
FATES = ("joined", "waiting", "expired", "refused", "dead", "repeated")


@dataclass(slots=True)
class WaveScore:
    """How well one wave's interactions were answered.

    Attributes:
        sent: distinct interactions sent.
        answered: answered by a release.
        silent: answered before the first release.
        agreement: sum of the answers' scores, each 0 to 1.
    """

    name: str
    sent: int = 0
    answered: int = 0
    silent: int = 0
    agreement: float = 0.0

    @property
    def accuracy(self) -> float | None:
        """Mean score of what was answered; None when nothing was."""
        return self.agreement / self.answered if self.answered else None


@dataclass(frozen=True, slots=True)
class Moment:
    """The demo at one moment: copies, safe to keep.

    Attributes:
        sent: interactions sent, repeats and malformed ones too.
        feedback_sent: feedback sent.
        fates: what became of interactions, by the join's counters.
        feedback_fates: what became of feedback, by the join's counters.
        dead_feedback: dead letters that came from the feedback topic.
        answered: distinct interactions that have an answer.
        answers: predictions in all, repeats too.
        expected: distinct interactions that must get an answer.
        silent: first answers that came before any release.
        duplicates: records that should not be: an example's revision twice, an answer too many.
        examples: examples seen.
        to_learn: of those, the ones that train.
        learned: examples that the learner says it has learned.
        accuracy: of first answers, 0 to 1; None before the first.
        recent: the same of the newest ones.
        waves: by wave.
        releases: in order.
        drift: in order.
        rejected: candidates that the gate refused.
        memory: replay rows, held-out rows, bytes.
    """

    sent: int
    feedback_sent: int
    fates: Mapping[str, int]
    feedback_fates: Mapping[str, int]
    dead_feedback: int
    answered: int
    answers: int
    expected: int
    silent: int
    duplicates: int
    examples: int
    to_learn: int
    learned: int
    accuracy: float | None
    recent: float | None
    waves: tuple[WaveScore, ...]
    releases: tuple[ModelRelease, ...]
    drift: tuple[DriftSignal, ...]
    rejected: int
    memory: tuple[int, int, int]

    @property
    def accounted(self) -> int:
        """Interactions of which the join knows what became."""
        return sum(self.fates.get(name, 0) for name in FATES)

    @property
    def unaccounted(self) -> int:
        """Interactions sent of which nobody knows what became."""
        return self.sent - self.accounted

    @property
    def feedback_accounted(self) -> int:
        """Feedback of which it is known what became."""
        return self.feedback_fates.get("feedback", 0) + self.dead_feedback

    @property
    def unread(self) -> int:
        """Messages that the role furthest behind has not read."""
        return max(
            self.unaccounted,
            self.feedback_sent - self.feedback_accounted,
            self.expected - self.answered,
            self.to_learn - self.learned,
        )

    @property
    def behind(self) -> dict[str, int]:
        """How far each role is behind, messages."""
        return {
            "ingest": max(self.unaccounted, self.feedback_sent - self.feedback_accounted),
            "serve": self.expected - self.answered,
            "learn": self.to_learn - self.learned,
        }


@dataclass(slots=True)
class _Seen:
    """What was seen of one interaction."""

    sends: int = 0
    answers: int = 0


@dataclass(slots=True)
class Tally:
    """Counts everything, from every thread.

    Attributes:
        plan: what is streamed.
        kind: scores answers.
        held_out_share: of examples that never train.
        feedback_topic: full name, to tell dead letters apart.
    """

    plan: Plan
    kind: TaskKind
    held_out_share: float
    feedback_topic: str
    coverage: Coverage = field(default_factory=Coverage)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ids: dict[str, _Seen] = field(default_factory=dict)
    _revisions: set[tuple[str, int]] = field(default_factory=set)
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    _waves: list[WaveScore] = field(default_factory=list)
    _releases: list[ModelRelease] = field(default_factory=list)
    _drift: list[DriftSignal] = field(default_factory=list)
    _fates: dict[str, int] = field(default_factory=dict)
    _feedback_fates: dict[str, int] = field(default_factory=dict)
    _sent: int = 0
    _feedback_sent: int = 0
    _dead_feedback: int = 0
    _answers: int = 0
    _answered: int = 0
    _extra: int = 0
    _to_learn: int = 0
    _learned: int = 0
    _learned_last: int = 0
    _rejected: int = 0
    _memory: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        """Open a score for every wave."""
        self._waves = [WaveScore(name) for name in self.plan.waves]

    def sending(self, event: Event) -> None:
        """Count a message that is about to be sent: before any role can have read it."""
        with self._lock:
            if event.topic == "feedback":
                self._feedback_sent += 1
                return
            self._sent += 1
            name: str = getattr(event.message, "id", "")
            if name in self.plan.truths:
                seen = self._ids.setdefault(name, _Seen())
                seen.sends += 1
                if seen.sends == 1:
                    self._waves[self.plan.truths[name].wave].sent += 1

    def predicted(self, prediction: Prediction) -> None:
        """Score the first answer to an interaction; count the others."""
        with self._lock:
            self._answers += 1
            self.coverage.answered(prediction.release, prediction.time)
            seen = self._ids.get(prediction.interaction)
            if seen is None:  # a malformed interaction that can be answered all the same
                return
            seen.answers += 1
            if seen.answers > 1:
                self._extra += seen.answers > seen.sends
                return
            self._answered += 1
            truth = self.plan.truths[prediction.interaction]
            wave = self._waves[truth.wave]
            if prediction.status != "ok":
                wave.silent += 1
                return
            score = self.kind.agreement(truth.label, prediction.label)
            wave.answered += 1
            wave.agreement += score
            self._recent.append(score)

    def joined(self, example: Example, *, position: tuple[str, int]) -> None:
        """Count an example.

        Args:
            example: as read.
            position: `topic/partition` and offset.
        """
        with self._lock:
            key = (example.id, example.revision)
            if key in self._revisions:
                self._extra += 1
                return
            self._revisions.add(key)
            if is_held_out(example.id, share=self.held_out_share):
                return
            self._to_learn += 1
            truth = self.plan.truths.get(example.id)
            wave = None if truth is None else truth.wave
            self.coverage.example(Covered(*position, example.labelled_at, wave))

    def released(self, release: ModelRelease) -> None:
        """Note a release, once."""
        with self._lock:
            if all(release.version != known.version for known in self._releases):
                self._releases.append(release)
                self.coverage.release(release.version, release.positions)

    def drifted(self, signal: DriftSignal) -> None:
        """Note a drift signal."""
        with self._lock:
            self._drift.append(signal)

    def died(self, letter: DeadLetter) -> None:
        """Note a dead letter; those of interactions are in the join's counters."""
        with self._lock:
            self._dead_feedback += letter.topic == self.feedback_topic

    def counted(self, counters: Mapping[str, Mapping[str, int]]) -> None:
        """Take over the join's counters, summed over tasks."""
        fates: dict[str, int] = {}
        feedback: dict[str, int] = {}
        for counts in counters.values():
            for name, count in counts.items():
                group = feedback if name.startswith("feedback") else fates
                group[name] = group.get(name, 0) + count
        with self._lock:
            self._fates, self._feedback_fates = fates, feedback

    def learner_said(self, *, learned: int, rejected: int) -> None:
        """Take over the learner's own counts; a restarted learner counts from 0 again."""
        with self._lock:
            gained = learned - self._learned_last
            self._learned += gained if gained >= 0 else learned
            self._learned_last = learned
            self._rejected = max(self._rejected, rejected)

    def remembered(self, *, rows: int, held_out: int, size_bytes: int) -> None:
        """Take over the size of replay memory."""
        with self._lock:
            self._memory = (rows, held_out, size_bytes)

    def staleness_s(self) -> list[float]:
        """Give seconds from each label to the first answer that had learned it."""
        with self._lock:
            return self.coverage.staleness_s()

    def wave_ends(self) -> list[str | None]:
        """Give the version of the release that was current at the end of each wave."""
        with self._lock:
            return [self.coverage.wave_end(wave) for wave in range(len(self._waves))]

    def covers_all(self) -> bool:
        """Say whether the newest release has learned every example seen."""
        with self._lock:
            return self.coverage.covers_all()

    def moment(self) -> Moment:
        """Copy the state."""
        with self._lock:
            answered = sum(wave.answered for wave in self._waves)
            agreement = sum(wave.agreement for wave in self._waves)
            return Moment(
                sent=self._sent,
                feedback_sent=self._feedback_sent,
                fates=dict(self._fates),
                feedback_fates=dict(self._feedback_fates),
                dead_feedback=self._dead_feedback,
                answered=self._answered,
                answers=self._answers,
                expected=len(self._ids),
                silent=sum(wave.silent for wave in self._waves),
                duplicates=self._extra,
                examples=len(self._revisions),
                to_learn=self._to_learn,
                learned=self._learned,
                accuracy=agreement / answered if answered else None,
                recent=sum(self._recent) / len(self._recent) if self._recent else None,
                waves=tuple(
                    WaveScore(w.name, w.sent, w.answered, w.silent, w.agreement)
                    for w in self._waves
                ),
                releases=tuple(self._releases),
                drift=tuple(self._drift),
                rejected=self._rejected,
                memory=self._memory,
            )
