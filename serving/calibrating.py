"""Has encoders calibrated on the texts that come: a faster engine takes over while serving goes on.

Owns the texts that were seen, in main memory and no longer than needed, and the background thread;
must not know engines, topics or where labelled rows are kept.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from learners.model import Encoder
    from learners.released import ReleasedModel

log = logging.getLogger(__name__)

ENOUGH_TEXTS = 600  # what a calibration uses, and some that turn out to be the same tokens
FEWEST_TEXTS = 96
PATIENCE_S = 300.0  # then fewer are enough

Labelled = Callable[[str], Sequence[tuple[str, str]]]


class Calibrator:
    """Watches the texts of each encoder, and has it calibrated once there are enough.

    Args:
        labelled: gives texts with labels of a task that its model has not learned, to bound what an
            engine costs; may fail.
        monotonic_s: the clock of durations, seconds.
    """

    def __init__(
        self, labelled: Labelled, *, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._labelled = labelled
        self._monotonic_s = monotonic_s
        # Encoder to its first time and its texts, in order; None once that is over.
        self._seen: weakref.WeakKeyDictionary[Encoder, tuple[float, dict[str, None]] | None] = (
            weakref.WeakKeyDictionary()
        )
        self._thread: threading.Thread | None = None

    def saw(self, model: ReleasedModel, texts: Sequence[str]) -> None:
        """Take note of texts that a model has answered; returns at once.

        Args:
            model: whose encoder it is about.
            texts: any; those whose users do not consent to learning must be left out.
        """
        encoder = model.encoder
        if encoder not in self._seen:
            begun = (self._monotonic_s(), dict[str, None]())
            self._seen[encoder] = begun if encoder.wants_calibration else None
        entry = self._seen[encoder]
        if entry is None:
            return
        since_s, kept = entry
        kept.update(dict.fromkeys(texts))
        patient = self._monotonic_s() - since_s < PATIENCE_S
        if len(kept) < (ENOUGH_TEXTS if patient else FEWEST_TEXTS):
            return
        if self._thread is not None and self._thread.is_alive():  # one encoder after the other
            return
        self._seen[encoder] = None
        self._thread = threading.Thread(
            target=self._calibrate, args=(model, list(kept)), name="calibrate", daemon=True
        )
        self._thread.start()

    def wait(self, timeout_s: float) -> None:
        """Wait for a calibration that runs, at most so long."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _calibrate(self, model: ReleasedModel, texts: list[str]) -> None:
        task = model.release.task
        log.info("calibrating the encoder of task %s on %d of its texts", task, len(texts))
        try:
            choice = model.encoder.calibrate(
                texts, head=model.judged, labelled=self._held_out(task)
            )
        # Whatever goes wrong, the engine that computes now goes on.
        except Exception:
            log.exception("calibrating the encoder of task %s failed", task)
            return
        log.info("encoder of task %s: %s", task, choice)

    def _held_out(self, task: str) -> Sequence[tuple[str, str]]:
        try:
            return self._labelled(task)
        except Exception as error:  # noqa: BLE001 - without labels, answers are compared
            log.warning("no labelled texts to judge an engine on: %s", error)
            return ()
