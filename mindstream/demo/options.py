"""What the demo's flags say, and the stream they ask for.

Owns the choice between the simulated desk and a file; must not know how a stream is sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mindstream.demo.dataset import DataFile, read_data
from mindstream.demo.orders import RATE, StreamOrder, plan_data
from mindstream.demo.plan import Plan
from mindstream.demo.simulator import DESK_RATE, DESK_S, Desk, simulate
from schemas.errors import SettingsError


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the command's flags say.

    Attributes:
        data: a file of labelled texts; None for the simulated support desk.
        order: file, shuffled, class-incremental or time.
        drop_labels: rows with one of these labels are left out.
        seed: of the stream.
        limit: interactions that are streamed, at most.
        rate: interactions a second, at most; None: 46 simulated, 150 from a file.
        duration_s: length of the simulated stream, seconds; None: 75.
        json: the last line of stdout is one JSON object.
        plain: lines instead of the live view.
    """

    data: Path | None = None
    text_column: str = "text"
    label_column: str = "label"
    order: str = "file"
    drop_labels: tuple[str, ...] = ()
    limit: int | None = None
    seed: int = 0
    rate: float | None = None
    duration_s: float | None = None
    json: bool = False
    plain: bool = False


def make_plan(options: DemoOptions) -> Plan:
    """Plan the stream that the options ask for.

    Raises:
        SettingsError: the options or the file cannot be used.
    """
    for name, value in (
        ("limit", options.limit),
        ("rate", options.rate),
        ("duration", options.duration_s),
    ):
        if value is not None and value <= 0:
            raise SettingsError([f"--{name} {value}: must be more than 0"])
    if options.data is None:
        return simulate(
            Desk(
                seed=options.seed,
                rate=options.rate if options.rate is not None else DESK_RATE,
                duration_s=options.duration_s if options.duration_s is not None else DESK_S,
                limit=options.limit,
            )
        )
    data = read_data(
        DataFile(
            options.data,
            text_column=options.text_column,
            label_column=options.label_column,
            drop_labels=options.drop_labels,
            limit=options.limit,
        )
    )
    rate = options.rate
    if rate is None:
        rate = RATE if options.duration_s is None else len(data.stream) / options.duration_s
    return plan_data(data, StreamOrder(options.order, seed=options.seed, rate=rate))
