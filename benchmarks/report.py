"""Results for people: a table, pictures, and one page that carries them.

Owns how results look; must not know how they came about.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev

from matplotlib.figure import Figure
from rich.table import Table

from benchmarks.results import Result

Key = tuple[str, str]  # scenario and strategy

COLUMNS: tuple[tuple[str, Callable[[Result], float | None], str], ...] = (
    ("final %", lambda r: 100 * r.final, ".2f"),
    ("average %", lambda r: 100 * r.average, ".2f"),
    ("forgetting, points", lambda r: _times(r.forgetting, 100), ".2f"),
    ("prequential %", lambda r: 100 * r.prequential, ".2f"),
    ("rows to 80 %", lambda r: r.rows_to_80, ".1f"),
    ("ECE %", lambda r: 100 * r.calibration_error, ".2f"),
    ("unknown AUROC %", lambda r: _times(r.unknown_auroc, 100), ".2f"),
    ("strategy ms/row", lambda r: r.strategy_ms, ".2f"),
    ("features ms/text", lambda r: r.features_ms, ".2f"),
    ("memory growth MB", lambda r: r.memory_growth_mb, ".0f"),
)

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>mindstream: learning benchmark</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
td, th {{ border-bottom: 1px solid #ccc; padding: .3rem .6rem; text-align: right }}
td:nth-child(-n+3), th:nth-child(-n+3) {{ text-align: left }}
img {{ max-width: 100% }} code {{ background: #eee; padding: .1rem .3rem }}
</style></head><body><h1>Learning benchmark</h1>
<p>{about}</p><p><code>{command}</code></p>
{table}
<p>Mean over seeds, ± standard deviation where there are several. Features: only texts that this run
computed; kept features cost nothing. Probes: ten test rows a class.</p>
{pictures}
</body></html>
"""


def grouped(results: Sequence[Result]) -> dict[Key, list[Result]]:
    """Put the seeds of a scenario and strategy together, in order of appearance."""
    groups: dict[Key, list[Result]] = {}
    for result in results:
        groups.setdefault((result.setup.scenario, result.setup.strategy), []).append(result)
    return groups


def cells(results: Sequence[Result]) -> list[str]:
    """Write the columns of one scenario and strategy: the mean, ± the deviation over seeds."""
    written = []
    for _, value_of, form in COLUMNS:
        values = [value for value in map(value_of, results) if value is not None]
        if not values:
            written.append("-")
            continue
        spread = f" ± {stdev(values):{form}}" if len(values) > 1 else ""
        written.append(f"{fmean(values):{form}}{spread}")
    return written


def rows_of(results: Sequence[Result]) -> list[list[str]]:
    """Write the table: a row for each scenario and strategy."""
    return [
        [scenario, strategy, ", ".join(str(r.setup.seed) for r in mine), *cells(mine)]
        for (scenario, strategy), mine in grouped(results).items()
    ]


HEADINGS = ["scenario", "strategy", "seeds", *(name for name, _, _ in COLUMNS)]


def table(results: Sequence[Result]) -> Table:
    """Give the table for a terminal."""
    drawn = Table(title="Learning", title_justify="left")
    for name in HEADINGS:
        drawn.add_column(name, justify="left" if name in HEADINGS[:3] else "right")
    for row in rows_of(results):
        drawn.add_row(*row)
    return drawn


def markdown(results: Sequence[Result]) -> str:
    """Give the table for a Markdown file."""
    lines = [HEADINGS, ["---"] * len(HEADINGS), *rows_of(results)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def group_table(results: Sequence[Result]) -> list[str]:
    """Write the accuracy of every group after every task, one line a result."""
    lines = []
    for r in results:
        for n, group in enumerate(r.groups):
            column = [row[n] for row in r.matrix]
            values = " ".join("  -  " if v is None else f"{100 * v:5.1f}" for v in column)
            lines.append(f"{r.setup.scenario} {r.setup.strategy} {r.setup.seed} {group}: {values}")
    return lines


def curves(results: Sequence[Result]) -> dict[str, Figure]:
    """Draw accuracy after each task, a picture a scenario; one line a strategy, mean of seeds."""
    pictures: dict[str, Figure] = {}
    for (scenario, strategy), mine in grouped(results).items():
        figure = pictures.setdefault(scenario, Figure(figsize=(8, 4.5), layout="constrained"))
        axes = figure.axes[0] if figure.axes else figure.add_subplot()
        means = [100 * fmean(values) for values in zip(*(r.curve for r in mine), strict=True)]
        axes.plot(range(1, len(means) + 1), means, marker="o", label=strategy)
        axes.set_title(f"{scenario}: accuracy on all that is tested")
        axes.set_xlabel("after task")
        axes.set_ylabel("accuracy, %")
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
    return pictures


def heat_map(result: Result) -> Figure:
    """Draw the accuracy of every group after every task."""
    matrix = [[float("nan") if v is None else 100 * v for v in row] for row in result.matrix]
    figure = Figure(
        figsize=(3 + 0.6 * len(result.groups), 2 + 0.4 * len(matrix)), layout="constrained"
    )
    axes = figure.add_subplot()
    image = axes.imshow(matrix, vmin=0, vmax=100, cmap="viridis", aspect="auto")
    for y, row in enumerate(matrix):
        for x, value in enumerate(row):
            if value == value:  # not NaN
                colour = "white" if value < 60 else "black"
                axes.text(x, y, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(result.groups)), result.groups, rotation=45, ha="right")
    axes.set_yticks(range(len(matrix)), result.tasks)
    axes.set_title(f"{result.setup.scenario}, {result.setup.strategy}, seed {result.setup.seed}")
    axes.set_ylabel("after")
    figure.colorbar(image, label="accuracy, %")
    return figure


def write(results: Sequence[Result], folder: Path, *, about: str, command: str) -> Path:
    """Write every picture as PNG, and the page that carries them all.

    Args:
        results: at least one.
        folder: made when needed.
        about: one line on the machine.
        command: that gave the results.

    Returns:
        The page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = {f"curve-{name}": figure for name, figure in curves(results).items()}
    for (scenario, strategy), mine in grouped(results).items():
        figures[f"heat-{scenario}-{strategy}"] = heat_map(mine[0])
    pictures = []
    for name, figure in figures.items():
        data = _png(figure)
        (folder / f"{name.replace(' ', '-')}.png").write_bytes(data)
        coded = base64.b64encode(data).decode()
        pictures.append(
            f'<p><img alt="{html.escape(name)}" src="data:image/png;base64,{coded}"></p>'
        )
    page = folder / "report.html"
    text = _PAGE.format(
        about=html.escape(about),
        command=html.escape(command),
        table=_html_table(results),
        pictures="\n".join(pictures),
    )
    page.write_text(text, encoding="utf-8")
    return page


def _html_table(results: Sequence[Result]) -> str:
    lines = ["<tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in HEADINGS) + "</tr>"]
    for row in rows_of(results):
        lines.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>")
    return "<table>" + "\n".join(lines) + "</table>"


def _png(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value
