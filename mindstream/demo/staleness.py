"""How long a label takes to be served from, and which release was current when a wave ended.

Owns the comparison of Kafka positions; must not know what is in an example. A release covers an
example when its position in that partition lies behind the example's offset.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

WAVE_END_SHARE = 0.95  # a release with so much of a wave's examples stands at the wave's end


@dataclass(frozen=True, slots=True)
class Covered:
    """An example as far as positions go.

    Attributes:
        partition: `topic/partition`.
        wave: of its interaction; None when it is not of the plan.
    """

    partition: str
    offset: int
    labelled_at: datetime
    wave: int | None


@dataclass(slots=True)
class Coverage:
    """Training examples, releases and first answers, as they are seen."""

    _examples: list[Covered] = field(default_factory=list)
    _releases: dict[str, Mapping[str, int]] = field(default_factory=dict)
    _first_answers: dict[str, datetime] = field(default_factory=dict)

    def example(self, example: Covered) -> None:
        """Note an example that trains."""
        self._examples.append(example)

    def release(self, version: str, positions: Mapping[str, int]) -> None:
        """Note a release; releases come in order."""
        self._releases[version] = dict(positions)

    def answered(self, version: str | None, time: datetime) -> None:
        """Note an answer."""
        if version is None:
            return
        known = self._first_answers.get(version)
        if known is None or time < known:
            self._first_answers[version] = time

    def staleness_s(self) -> list[float]:
        """Give seconds from label to first answer, for every example that was served from.

        Examples that no answering release covers have no staleness yet and are left out.
        """
        serving = sorted(
            (time, version)
            for version, time in self._first_answers.items()
            if version in self._releases
        )
        reached: dict[str, list[int]] = {}  # by partition: position of each serving release
        for place, (_, version) in enumerate(serving):
            for partition, position in self._releases[version].items():
                column = reached.setdefault(partition, [0] * len(serving))
                column[place] = position
        for column in reached.values():
            for place in range(1, len(column)):
                column[place] = max(column[place], column[place - 1])
        found = []
        for example in self._examples:
            column = reached.get(example.partition, [])
            place = bisect_right(column, example.offset)
            if place < len(column):
                found.append(max(0.0, (serving[place][0] - example.labelled_at).total_seconds()))
        return found

    def wave_end(self, wave: int) -> str | None:
        """Give the first release that has learned nearly all of a wave; None when there is none."""
        mine = [example for example in self._examples if example.wave == wave]
        for version, positions in self._releases.items():
            covered = sum(positions.get(e.partition, 0) > e.offset for e in mine)
            if mine and covered >= WAVE_END_SHARE * len(mine):
                return version
        return None

    def covers_all(self) -> bool:
        """Say whether the newest release has learned every example seen."""
        if not self._releases:
            return not self._examples
        newest = self._releases[next(reversed(self._releases))]
        return all(newest.get(e.partition, 0) > e.offset for e in self._examples)


def percentile(values: list[float], share: float) -> float | None:
    """Give the value that a share of values do not exceed; None of no values.

    Examples:
        >>> percentile([3.0, 1.0, 2.0], 0.5)
        2.0
    """
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
