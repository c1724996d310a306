"""Curation: which of memory's rows, and which others, a consolidation fine-tunes the encoder on.

Owns the order of the tools of `learners.data` and a count of what each did; must not know threads,
streams, gates or how the encoder trains. The numbered steps, each a rule that is off by default:

1. clean texts;
2. drop near duplicates of the same label;
3. drop rows whose label is suspicious, by the margin of a ridge that left the row out;
4. add texts without labels that two views give the same label, with confidence;
5. add other wordings of all that is left.

Only the encoder is fine-tuned on what comes out. The sums of the head are made of memory's own rows
as they are: a suspicious label stays in them, a wording or a pseudo-label never comes in. So a rule
that is wrong costs a worse encoder, which the gate may refuse, and no truth. What is served is not
cleaned either: texts are cleaned so that the encoder does not learn from markup.

Steps 3 and 4 are for tasks of one label a row; rows of several labels pass them as they are.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from random import Random
from typing import cast

import numpy as np
from numpy.typing import NDArray

from learners.data.augmentation import AugmentationConfig, Augmenter, Paraphraser
from learners.data.cleaning import Cleaner, CleaningConfig
from learners.data.label_noise import LabelNoiseConfig, suspicious_rows
from learners.data.left_out import LeftOutRidge
from learners.data.near_duplicates import NearDuplicateConfig, NearDuplicates
from learners.data.neighbours import EmbeddingNeighbours, NeighbourConfig
from learners.data.pseudo_labels import PseudoLabelConfig, PseudoLabels
from learners.model import Encoder
from learners.rehearsal import ReplayRow
from learners.strategies.two_speed import TwoSpeed
from learners.tasks import TaskKind
from schemas.errors import SettingsError
from schemas.fields import Label

PIECE_ROWS = 256  # encoded between two looks at whether the work was stopped
CLEANING = CleaningConfig(markup=True, control=True, normal_form=True, white_space=True)
# The ridge's own errors are below zero too, and mostly just below. With 30 % wrong labels in
# Banking77, this margin finds 98 % of them and takes 4 % of the right ones along; without wrong
# labels 5 % of all rows. A margin of 0 would take 11 % and 10 %.
NOISE = LabelNoiseConfig(quantile=0.4, most_margin=-0.1, least_rows=50)

Reword = Callable[[str], Iterable[str]]
"""What `back_translate` names: a text in, other wordings of it out."""


@dataclass(frozen=True, slots=True)
class DataRules:
    """Which rows the encoder is fine-tuned on; by default memory's own.

    Attributes:
        clean: whether markup, control characters and runs of white space go, and letters are in
            normal form.
        near_duplicates: whether only the first of nearly equal texts of one label is taken.
        label_noise: whether rows of a suspicious label are left out.
        pseudo_labels: whether texts without a label are taken with a sure one.
        augment: other wordings of a text by EDA's edits, at most; 0 or more.
        back_translate: a function that says a text in other words, such as by translating it there
            and back, as `package.module:function`; empty: none.
    """

    clean: bool = False
    near_duplicates: bool = False
    label_noise: bool = False
    pseudo_labels: bool = False
    augment: int = 0
    back_translate: str = ""


@dataclass(frozen=True, slots=True)
class CurationReport:
    """What the rules did, in rows.

    Attributes:
        rows: of memory.
        cleaned: whose text changed.
        repeats: dropped, nearly equal to another row.
        suspicious: dropped for their label.
        pseudo_labelled: added.
        wordings: added.
        trained: that the encoder is fine-tuned on.
    """

    rows: int
    cleaned: int = 0
    repeats: int = 0
    suspicious: int = 0
    pseudo_labelled: int = 0
    wordings: int = 0
    trained: int = 0

    def __str__(self) -> str:
        """Say it for people: rows read, what each rule did, rows trained on."""
        did = [
            f"{count} {name.replace('_', '-')}"
            for name, count in asdict(self).items()
            if count and name not in ("rows", "trained")
        ]
        return f"trained on {self.trained} of {self.rows} rows" + "".join(f", {one}" for one in did)


@dataclass(frozen=True, slots=True)
class Curated:
    """What the encoder is fine-tuned on.

    Attributes:
        texts: what is read.
        labels: canonical, one a text.
        report: how it came about.
    """

    texts: list[str]
    labels: list[Label]
    report: CurationReport


@dataclass(slots=True)
class Source:
    """What a curation may look at beside the rows.

    Attributes:
        champion: the fast half: its pretrained encoder judges labels, its head is the first view of
            texts without labels.
        kind: of the task.
        unlabelled: texts without labels.
        apart: held-out texts, which must not come back as pseudo-labelled ones.
        check: called now and then; raises where the work was stopped.
    """

    champion: TwoSpeed
    kind: TaskKind
    unlabelled: Sequence[str] = ()
    apart: Sequence[str] = ()
    check: Callable[[], None] = field(default=lambda: None)

    def read(self, encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float32]:
        """Read texts in pieces: float32 [texts, row_width]."""
        pieces = [np.zeros((0, encoder.row_width), dtype=np.float32)]
        for start in range(0, len(texts), PIECE_ROWS):
            self.check()
            pieces.append(encoder.read(texts[start : start + PIECE_ROWS]))
        return np.concatenate(pieces)


class Curation:
    """Applies the rules.

    Args:
        rules: which.
        seed: of wordings.

    Raises:
        ValueError: a number is out of its range.
        SettingsError: `back_translate` names no function.
    """

    def __init__(self, rules: DataRules, *, seed: int = 0) -> None:
        if rules.augment < 0:
            raise ValueError(f"augment is {rules.augment}: it must not be negative")
        self.rules = rules
        self._seed = seed
        self._paraphrasers: list[Paraphraser] = []
        if rules.back_translate:
            self._paraphrasers.append(_Reworder(named_function(rules.back_translate)))

    def curate(self, rows: Sequence[ReplayRow], source: Source) -> Curated:
        """Turn memory's rows into those that the encoder is fine-tuned on.

        Args:
            rows: that are in the sums, oldest first.
            source: what may be looked at beside them.
        """
        texts, labels = [row.text for row in rows], [row.label for row in rows]
        report = CurationReport(len(rows))
        if self.rules.clean:  # 1
            before, clean = texts, Cleaner(CLEANING)
            texts = [clean(text) or text for text in texts]  # what is all markup stays as it is
            changed = sum(one != other for one, other in zip(texts, before, strict=True))
            report = replace(report, cleaned=changed)
        if self.rules.near_duplicates:  # 2
            kept = _without_repeats(texts, labels, source)
            report = replace(report, repeats=len(texts) - len(kept))
            texts, labels = [texts[row] for row in kept], [labels[row] for row in kept]
        ridge = None
        if all(isinstance(label, str) for label in labels):
            ridge = self._judging(texts, labels, source)
        if self.rules.label_noise and ridge is not None:  # 3
            kept = ridge.unsuspicious()
            report = replace(report, suspicious=len(texts) - len(kept))
            texts, labels = [texts[row] for row in kept], [labels[row] for row in kept]
        if self.rules.pseudo_labels and ridge is not None:  # 4
            added = self._pseudo_labelled(ridge, rows, labels, source)
            report = replace(report, pseudo_labelled=len(added))
            texts, labels = texts + [t for t, _ in added], labels + [label for _, label in added]
        if self.rules.augment or self._paraphrasers:  # 5
            wordings = self._wordings(texts, labels, source)
            report = replace(report, wordings=len(wordings))
            texts, labels = texts + [t for t, _ in wordings], labels + [one for _, one in wordings]
        return Curated(texts, labels, replace(report, trained=len(texts)))

    def _judging(
        self, texts: Sequence[str], labels: Sequence[Label], source: Source
    ) -> _Judge | None:
        """Give what judges labels, where a rule needs it and there is something to judge."""
        if not texts or not (self.rules.label_noise or self.rules.pseudo_labels):
            return None
        return _Judge(source, texts, [str(label) for label in labels])

    def _pseudo_labelled(
        self,
        ridge: _Judge,
        rows: Sequence[ReplayRow],
        labels: Sequence[Label],
        source: Source,
    ) -> list[tuple[str, Label]]:
        """Give texts without a label, with the one that both views give them."""
        known = {row.text for row in rows} | set(source.apart)
        texts = [text for text in dict.fromkeys(source.unlabelled) if text not in known]
        head = source.champion.additive_head.solved()
        if not texts or not head.labels:
            return []
        scores = head.scores(source.read(source.champion.encoder, texts))
        probabilities = head.correct(source.kind.probabilities(scores, scale=head.scale))
        pseudo = PseudoLabels(PseudoLabelConfig())
        taken = pseudo.select(
            probabilities,
            ridge.view(texts, head.labels),
            labels=head.labels,
            labelled=Counter(str(label) for label in labels),
        )
        clean = Cleaner(CLEANING) if self.rules.clean else Cleaner(CleaningConfig())
        return [(clean(texts[one.row]) or texts[one.row], one.label) for one in taken]

    def _wordings(
        self, texts: Sequence[str], labels: Sequence[Label], source: Source
    ) -> list[tuple[str, Label]]:
        """Give other wordings of all rows, with their labels."""
        synonyms = None
        if self.rules.augment:
            synonyms = EmbeddingNeighbours(source.champion.pretrained, NeighbourConfig())
        augmenter = Augmenter(
            AugmentationConfig(wordings=self.rules.augment),
            synonyms=synonyms,
            paraphrasers=self._paraphrasers,
        )
        random, said = Random(self._seed), []
        for text, label in zip(texts, labels, strict=True):
            source.check()
            said += [(wording, label) for wording in augmenter.wordings(text, random=random)]
        return said


class _Judge:
    """The ridge over pretrained features: no consolidation has taught these any label."""

    def __init__(self, source: Source, texts: Sequence[str], labels: Sequence[str]) -> None:
        self._source = source
        self._names = list(dict.fromkeys(labels))
        places = {name: place for place, name in enumerate(self._names)}
        self._columns = [places[label] for label in labels]
        self._ridge = LeftOutRidge(self._features(texts), self._columns, labels=len(self._names))

    def _features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        encoder = self._source.champion.pretrained
        return self._source.read(encoder, texts)[:, : encoder.width]

    def unsuspicious(self) -> list[int]:
        """List the rows whose label holds."""
        suspicious = suspicious_rows(self._ridge.left_out, self._columns, NOISE)
        return np.flatnonzero(~suspicious).tolist()

    def view(self, texts: Sequence[str], labels: Sequence[str]) -> NDArray[np.float32]:
        """Score texts: float32 [texts, labels]; a label without rows is never the best."""
        mine = self._ridge.scores(self._features(texts))
        scores = np.full((len(texts), len(labels)), -np.inf, dtype=np.float32)
        places = {label: place for place, label in enumerate(labels)}
        for column, name in enumerate(self._names):
            if name in places:
                scores[:, places[name]] = mine[:, column]
        return scores


class _Reworder:
    """A function as a paraphraser."""

    def __init__(self, reword: Reword) -> None:
        self._reword = reword

    def paraphrase(self, text: str, *, random: Random) -> Sequence[str]:
        """Say a text in other words; chance is the function's own."""
        del random
        return list(self._reword(text))


def named_function(path: str) -> Reword:
    """Import a function by `package.module:function`.

    Raises:
        SettingsError: there is none.
    """
    module, _, name = path.partition(":")
    wrong = f"data.back_translate = {path}: "
    if not (module and name):
        raise SettingsError([wrong + "package.module:function was expected"])
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SettingsError([wrong + f"it cannot be imported: {error}"]) from error
    if not callable(found):
        raise SettingsError([wrong + "it is no function"])
    return cast("Reword", found)


def _without_repeats(texts: Sequence[str], labels: Sequence[Label], source: Source) -> list[int]:
    """List the rows that repeat none of their label; a repeat of another label stays."""
    near, kept = NearDuplicates(NearDuplicateConfig()), []
    for row, text in enumerate(texts):
        source.check()
        repeat = near.check(str(row), text)
        if repeat is None or labels[int(repeat.id)] != labels[row]:
            kept.append(row)
    return kept
