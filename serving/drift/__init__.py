"""Drift detectors: one a file, all with the same two verbs and two figures.

A good detector is silent on a stream that stays as it is (its false-alarm budget is a setting) and
soon says so when the stream gets worse. All of them look one way only: errors that rise, confidence
that falls. A model that learns changes its own error rate all the time, and getting better is no
alarm.

::

    base.py          the interface
    adwin.py         adaptive window, for errors (0 or 1)
    page_hinkley.py  cumulated sum, for confidence (0 to 1)
    no_drift.py      never says anything

To add one: write the file, give it the interface of `base.Detector`, name it in `DETECTORS`; the
contract tests run it through every check.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from serving.drift.adwin import Adwin
from serving.drift.base import Detector, Level
from serving.drift.no_drift import NoDrift
from serving.drift.page_hinkley import PageHinkley

__all__ = ["DETECTORS", "Adwin", "Detector", "Level", "NoDrift", "PageHinkley", "make_detector"]

DETECTORS: Mapping[str, Callable[..., Detector]] = {
    "adwin": Adwin,
    "page-hinkley": PageHinkley,
    "none": NoDrift,
}


def make_detector(name: str, **options: Any) -> Detector:  # noqa: ANN401
    """Build a detector by its name.

    Args:
        name: a key of `DETECTORS`.
        **options: its settings, as its class names them.

    Returns:
        A fresh detector.

    Raises:
        ValueError: there is no such detector; names those there are.
    """
    if name not in DETECTORS:
        raise ValueError(f"detector {name!r}: there are {', '.join(DETECTORS)}")
    return DETECTORS[name](**options)
