"""The engine that computes now, and how another takes its place.

Owns which engine an encoder has and why; must not know tokenizers, files of an encoder or heads.
One reference says what computes. Whoever reads it goes on with that engine to the end of the call,
so that it may be exchanged while other threads compute.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from learners.engines.base import (
    CALIBRATED,
    REFERENCE,
    STAND_INS,
    Candidate,
    Engine,
    EngineChoice,
    Floats,
    Pair,
    features,
)
from learners.engines.calibrating import NICE
from learners.engines.checks import Labelled, Probes, check, make_probes
from learners.engines.choosing import fastest, time_engines
from learners.engines.making import EngineOptions, KeptEngines, Maker, wanted
from schemas.errors import EncoderError

CALIBRATION_TEXTS = 300  # more change nothing that was measured
PROBE_TEXTS = 256
MIN_TEXTS = 64  # fewer different ones describe no stream
TIMED_TEXTS = 64

Tokens = Sequence[Sequence[int]]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """The encoder, as far as engines need it.

    Attributes:
        module: fp32, on its device; it may be trained.
        device: where it is.
        width: of a feature row.
        plain: gives the module as a release has it, adapters merged; the same or a copy.
        probes: gives token ids of texts of any sort.
        space_id: gives what a calibrated engine is kept by.
    """

    module: nn.Module
    device: torch.device
    width: int
    plain: Callable[[], nn.Module]
    probes: Callable[[], Tokens]
    space_id: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Running:
    """What computes.

    Attributes:
        engine: it.
        choice: why.
        stamp: of the weights that it was made of; None where it reads the module itself.
    """

    engine: Engine
    choice: EngineChoice
    stamp: int | None


class EngineSwitch:
    """Computes features by the engine that was chosen.

    Args:
        source: the encoder.
        options: what may compute.
    """

    def __init__(self, source: Source, options: EngineOptions) -> None:
        self._source = source
        self._options = options
        self._lock = threading.Lock()  # of what computes: one change at a time
        self._one_calibration = threading.Lock()
        self._tried: int | None = None  # stamp of the weights that calibration was tried on
        self._calibrating = False
        # Where any engine may compute, nobody exchanges weights: they could only change in place.
        self._fixed = None if options.engine == "torch" else tuple(source.module.parameters())
        self._makers: dict[int, Maker] = {}  # the last one, by the stamp of the weights
        self._running = self._choose()

    @property
    def choice(self) -> EngineChoice:
        """What computes, and why."""
        return self._running.choice

    @property
    def wants_calibration(self) -> bool:
        """Whether texts of the stream could still bring a faster engine."""
        done = self._running.engine.pair in CALIBRATED or self._tried == self.stamp()
        return bool(self._calibratable()) and self._source.device.type == "cpu" and not done

    def stamp(self) -> int:
        """Tell weights apart."""
        return weights_stamp(self._source.module if self._fixed is None else self._fixed)

    @property
    def settled(self) -> bool:
        """Whether no other engine will take this one's place."""
        return not (self._calibrating or self.wants_calibration)

    def features(self, token_ids: Tokens) -> Floats:
        """Compute features of token ids, float32 [rows, width], in the order given."""
        running = self._running
        if running.stamp is not None and running.stamp != self.stamp():
            running = self._renew()
        return features(running.engine, token_ids, width=self._source.width)

    def calibrate(self, token_ids: Tokens, labelled: Labelled | None = None) -> EngineChoice:
        """Make calibrated engines of texts, and let one compute if it is good and fast enough.

        Takes processor time of a process of low priority, some ten seconds; what computes now goes
        on until the end. The engine that computes now is judged on the same texts: if it fails
        there, the next takes its place.

        Args:
            token_ids: of recent texts, `MIN_TEXTS` different ones at least; a third, `PROBE_TEXTS`
                at most, judge, and `CALIBRATION_TEXTS` of the rest calibrate.
            labelled: texts whose answer is known, other ones; None where there are none.

        Returns:
            The choice, changed or not.

        Raises:
            EncoderError: there are too few texts.
        """
        different = [list(ids) for ids in dict.fromkeys(tuple(ids) for ids in token_ids if ids)]
        if len(different) < MIN_TEXTS:
            raise EncoderError(
                f"{len(different)} different texts: calibration needs {MIN_TEXTS} at least"
            )
        with self._one_calibration:
            if not self.wants_calibration:
                return self.choice
            self._calibrating, self._tried = True, self.stamp()
            random.Random(0).shuffle(different)
            held = min(PROBE_TEXTS, len(different) // 3)
            try:
                with (
                    tempfile.TemporaryDirectory() as folder,
                    ThreadPoolExecutor(1, "calibrate", initializer=lower_priority) as thread,
                ):
                    judging, calibrating = different[:held], different[held:]
                    thread.submit(
                        self._calibrate, judging, calibrating, labelled, Path(folder)
                    ).result()
            finally:
                self._calibrating = False
            return self.choice

    def _calibrate(
        self, judging: Tokens, calibrating: Tokens, labelled: Labelled | None, folder: Path
    ) -> None:
        before = self._tried
        maker = self._maker()
        self._makers.clear()  # what it converted is not needed any more
        made = {REFERENCE: maker.make(REFERENCE)}
        now = self._running.engine
        made.setdefault(now.pair, now)
        failed: list[Candidate] = []
        for pair in self._calibratable():
            built = folder / pair[0]
            built.mkdir()
            try:
                made[pair] = maker.calibrate(pair, calibrating[:CALIBRATION_TEXTS], folder=built)
            except EncoderError as error:
                failed.append(Candidate(*pair, rejected=str(error)))
        probes = make_probes(made[REFERENCE], judging, width=self._source.width, labelled=labelled)
        running = self._compete(made, probes, failed)
        choice = self._running.choice.joined_with(running.choice)
        with self._lock:
            if self.stamp() != before:
                return  # trained meanwhile: what was made is of weights that are gone
            self._running = replace(running, choice=choice)
        self._keep(choice, folder)

    def _keep(self, choice: EngineChoice, folder: Path) -> None:
        """Keep the best calibrated engine of a choice, where there is one that may serve."""
        made = [choice.of(pair) for pair in self._calibratable()]
        sound = [one for one in made if one is not None and not one.rejected]
        if self._options.folder is None or not sound:
            return
        chosen = [one for one in sound if one == choice.chosen]
        best = chosen[0] if chosen else max(sound, key=lambda one: one.texts_per_s or 0.0)
        try:
            KeptEngines(self._options.folder).keep(
                self._source.space_id(), folder / best.engine, best
            )
        except OSError as error:  # it computes all the same, and is made again at a start
            log.warning("the calibrated engine cannot be kept: %s", error)

    def _calibratable(self) -> list[Pair]:
        """Give the pairs that the settings allow and texts can make."""
        pairs = wanted(self._options, device=self._source.device)
        return [pair for pair in CALIBRATED if pair in pairs]

    def _choose(self) -> Running:
        """Choose among what needs no texts, and what was calibrated at an earlier start."""
        pairs = wanted(self._options, device=self._source.device)
        maker = self._maker()
        if len(pairs) == 1 and pairs[0][0] == "torch":
            self._makers.clear()
            return self._given(maker, pairs[0])
        made = {REFERENCE: maker.make(REFERENCE)}
        failed: list[Candidate] = []
        kept = self._kept() if self._calibratable() else None
        if kept is not None:
            made[kept[0].pair] = kept[0]
            pairs = tuple(pair for pair in pairs if pair[0] == "torch")
        for pair in self._data_free(pairs):
            try:
                made[pair] = made.get(pair) or maker.make(pair)
            except EncoderError as error:
                failed.append(Candidate(*pair, rejected=str(error)))
        probes = make_probes(made[REFERENCE], self._source.probes(), width=self._source.width)
        return self._compete(made, probes, failed, known=kept and kept[1])

    def _data_free(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Give what is tried without texts; for calibrated engines alone, their stand-ins."""
        free = [pair for pair in pairs if pair not in CALIBRATED]
        return free or [STAND_INS[pair] for pair in pairs]

    def _given(self, maker: Maker, pair: Pair) -> Running:
        engine = maker.make(pair)
        choice = EngineChoice(str(self._source.device), *pair)
        return Running(engine, choice, self._stamp_of(engine))

    def _compete(
        self,
        made: dict[Pair, Engine],
        probes: Probes,
        failed: Sequence[Candidate],
        known: Candidate | None = None,
    ) -> Running:
        """Check and time engines, and give the one that should compute.

        Args:
            made: engines by pair, torch in fp32 first.
            probes: to check them on.
            failed: those that could not be made.
            known: what was found of a calibrated one on texts of the stream, at an earlier start.
        """
        bound = self._options.max_accuracy_loss
        found = {
            pair: known
            if known is not None and pair == (known.engine, known.precision)
            else check(engine, probes, max_accuracy_loss=bound)
            for pair, engine in made.items()
        }
        sound = [engine for pair, engine in made.items() if not found[pair].rejected]
        speeds = time_engines(
            sound,
            probes.token_ids[:TIMED_TEXTS],
            width=self._source.width,
            device=self._source.device,
        )
        candidates = [
            replace(candidate, texts_per_s=speeds.get(pair)) for pair, candidate in found.items()
        ]
        allowed = set(wanted(self._options, device=self._source.device))
        free = {pair: speed for pair, speed in speeds.items() if pair in allowed}
        if self._calibratable() and not free:  # they alone were asked for: else stand-ins
            free = {pair: speed for pair, speed in speeds.items() if pair != REFERENCE}
        pair = fastest(free)
        choice = EngineChoice(
            str(self._source.device),
            *pair,
            (*candidates, *failed),
            "" if free else "nothing that the settings allow may serve",
        )
        return Running(made[pair], choice, self._stamp_of(made[pair]))

    def _kept(self) -> tuple[Engine, Candidate] | None:
        if self._options.folder is None:
            return None
        kept = KeptEngines(self._options.folder).find(self._source.space_id())
        return kept if kept is not None and kept[0].pair in self._calibratable() else None

    def _maker(self) -> Maker:
        """Give the maker for the weights as they are; what it converted is kept for calibration."""
        now = self.stamp()
        if now not in self._makers:
            source = self._source
            maker = Maker(source.module, plain=source.plain, device=source.device)
            self._makers = {now: maker}
        return self._makers[now]

    def _stamp_of(self, engine: Engine) -> int | None:
        return None if engine.pair == REFERENCE else self.stamp()

    def _renew(self) -> Running:
        """Follow weights that changed: torch can at once, another engine gives way to it."""
        with self._lock:
            running = self._running
            if running.stamp is None or running.stamp == self.stamp():
                return running  # another thread was here before
            same = running.engine.name == "torch"
            pair: Pair = running.engine.pair if same else REFERENCE
            renewed = self._given(self._maker(), pair)
            self._makers.clear()
            why = "the weights changed since another engine was made"
            choice = running.choice if same else replace(renewed.choice, reason=why)
            self._running = replace(renewed, choice=choice)
            return self._running


def lower_priority() -> None:
    """Let every other thread go before the calling one, where threads have priorities."""
    if sys.platform == "linux":  # elsewhere it would be the whole process
        nice = max(NICE, os.getpriority(os.PRIO_PROCESS, 0))
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


def weights_stamp(of: nn.Module | Sequence[nn.Parameter]) -> int:
    """Tell weights apart: they change in place (optimizer steps, loaded states) or as such."""
    weights = of.parameters() if isinstance(of, nn.Module) else of
    return hash(tuple((id(p), p._version) for p in weights))
