"""The live view of a demo: one screen, drawn from plain state; and one line for logs.

Owns layout and words; must not know where the state comes from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mindstream.demo.tally import FATES, Moment
from mindstream.supervisor import RoleState

BLOCKS = "▁▂▃▄▅▆▇█"
HISTORY = 48  # columns of the accuracy curve
RELEASES = 5
DRIFTS = 3


@dataclass(frozen=True, slots=True)
class Frame:
    """What one drawing shows.

    Attributes:
        title: what is streamed.
        phase: what is being done now.
        share: of the stream that is sent, 0 to 1.
        elapsed_s: since the stream's start, seconds.
        rate: interactions a second, lately.
        moment: the counts.
        staleness: p50 and p95 of label to serving, seconds.
        roles: how the processes do.
        history: recent accuracy over time, 0 to 1.
        notes: what was said lately.
    """

    title: str
    phase: str
    share: float
    elapsed_s: float
    rate: float
    moment: Moment
    staleness: tuple[float | None, float | None]
    roles: Sequence[RoleState]
    history: Sequence[float]
    notes: Sequence[str]


class History:
    """Keeps the accuracy curve: a point each so many seconds, the oldest thinned out.

    Args:
        points: at most.
    """

    def __init__(self, points: int = HISTORY) -> None:
        self._points = points
        self._values: list[float] = []
        self._every = 1
        self._skipped = 0

    def add(self, value: float | None) -> None:
        """Add a point; None is left out."""
        if value is None:
            return
        self._skipped += 1
        if self._skipped < self._every:
            return
        self._skipped = 0
        self._values.append(value)
        if len(self._values) > self._points:
            self._values = self._values[::2]
            self._every *= 2

    @property
    def values(self) -> tuple[float, ...]:
        """The curve so far."""
        return tuple(self._values)


class Rate:
    """Events a second over the last seconds.

    Args:
        window_s: how far back it looks, seconds.
    """

    def __init__(self, window_s: float = 5.0) -> None:
        self._window_s = window_s
        self._seen: deque[tuple[float, int]] = deque()

    def at(self, now_s: float, count: int) -> float:
        """Note a count and give the rate.

        Examples:
            >>> rate = Rate()
            >>> rate.at(0.0, 0), rate.at(2.0, 100)
            (0.0, 50.0)
        """
        self._seen.append((now_s, count))
        while now_s - self._seen[0][0] > self._window_s:
            self._seen.popleft()
        then_s, then = self._seen[0]
        return (count - then) / (now_s - then_s) if now_s > then_s else 0.0


def render(frame: Frame) -> RenderableType:
    """Draw one frame; it fits 100 by 30, and gets taller on narrow terminals."""
    left = Group(_traffic(frame), _memory(frame))
    right = Group(_quality(frame), _releases(frame))
    return Panel(
        Group(
            _head(frame),
            Columns([left, right], padding=(0, 3), expand=False),
            _drift(frame),
            _roles(frame),
            *[Text(note, "dim", no_wrap=True, overflow="ellipsis") for note in frame.notes[-2:]],
        ),
        title="mindstream demo",
        border_style="cyan",
    )


def _head(frame: Frame) -> RenderableType:
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_row(Text(frame.title, "bold"), f"{frame.elapsed_s:,.0f} s")
    grid.add_row(ProgressBar(total=1.0, completed=frame.share), Text(frame.phase, "cyan"))
    return grid


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(justify="right")
    return grid


def _traffic(frame: Frame) -> Table:
    moment = frame.moment
    grid = _grid()
    grid.add_row(Text("traffic", "bold cyan"), f"{frame.rate:,.0f} events/s")
    grid.add_row("sent", f"{moment.sent:,}")
    grid.add_row("answered", f"{moment.answered:,}")
    for name in FATES:
        grid.add_row(name, f"{moment.fates.get(name, 0):,}")
    behind = " ".join(f"{name} {count:,}" for name, count in moment.behind.items())
    grid.add_row("unread", behind)
    return grid


def _memory(frame: Frame) -> Table:
    rows, held_out, size_bytes = frame.moment.memory
    grid = _grid()
    grid.add_row(Text("memory", "bold cyan"), f"{size_bytes / 1e6:,.2f} MB")
    grid.add_row("replay / held out", f"{rows:,} / {held_out:,}")
    median_s, high_s = frame.staleness
    grid.add_row("label to serving", f"{_seconds(median_s)} (95 %: {_seconds(high_s)})")
    return grid


def _quality(frame: Frame) -> Table:
    moment = frame.moment
    grid = _grid()
    grid.add_column()
    grid.add_row(Text("accuracy as served", "bold cyan"), _share(moment.accuracy), "so far")
    grid.add_row("newest 200", _share(moment.recent), Text(curve(frame.history), "green"))
    reached = [wave for wave in moment.waves if wave.sent]
    for wave in reached[-5:]:
        grid.add_row(wave.name, _share(wave.accuracy), bar(wave.accuracy))
    return grid


def _releases(frame: Frame) -> Table:
    moment = frame.moment
    grid = Table.grid(padding=(0, 2))
    grid.add_row(
        Text("releases", "bold cyan"),
        f"{len(moment.releases):,}",
        Text(f"{moment.rejected:,} candidates refused", "dim"),
    )
    for release in moment.releases[-RELEASES:][::-1]:
        gate = release.gate
        before = "first" if gate.champion is None else f"{gate.champion:.3f}"
        grid.add_row(
            Text(release.version, "green"),
            f"{release.labels} labels",
            f"gate {before} → {gate.challenger:.3f} on {gate.rows}",
        )
    return grid


def _drift(frame: Frame) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    signals = frame.moment.drift
    if not signals:
        grid.add_row(Text("drift", "bold cyan"), Text("none noticed", "dim"))
    for place, signal in enumerate(signals[-DRIFTS:][::-1]):
        style = "bold yellow" if signal.level == "drift" else "yellow"
        grid.add_row(
            Text("drift" if place == 0 else "", "bold cyan"),
            Text(signal.level, style),
            f"{signal.detector} on {signal.signal}: {signal.statistic:.3f} after {signal.rows:,}",
        )
    return grid


def _roles(frame: Frame) -> RenderableType:
    words = Text()
    words.append("roles  ", "bold cyan")
    for role in frame.roles:
        words.append(f"{role.name} ", "green" if role.alive else "bold red")
        if role.restarts:
            words.append(f"({role.restarts} restarts) ", "yellow")
    return words


def curve(values: Sequence[float]) -> str:
    """Draw shares as blocks.

    Examples:
        >>> curve([0.0, 0.5, 1.0])
        '▁▄█'
    """
    top = len(BLOCKS) - 1
    return "".join(BLOCKS[min(top, max(0, int(value * top + 0.25)))] for value in values)


def bar(share: float | None, *, width: int = 16) -> Text:
    """Draw a share as a bar."""
    full = 0 if share is None else round(share * width)
    text = Text("█" * full, "green")
    text.append("░" * (width - full), "dim")
    return text


def progress_line(frame: Frame) -> str:
    """Give one plain line for logs."""
    moment = frame.moment
    if not moment.sent or not frame.roles:  # nothing streams yet, or no more
        return frame.phase
    newest = moment.releases[-1].version if moment.releases else "none"
    return (
        f"{frame.elapsed_s:5.0f} s  {frame.phase}: {moment.sent:,} sent "
        f"({100 * frame.share:.0f} %), {frame.rate:,.0f}/s, answered {moment.answered:,}, joined "
        f"{moment.fates.get('joined', 0):,}, learned {moment.learned:,}, accuracy "
        f"{_share(moment.accuracy)} (newest {_share(moment.recent)}), release {newest} "
        f"({moment.rejected} refused), drift {len(moment.drift)}"
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"
