"""The command line that the benchmarks of serving share: what is read, and the line that is last.

Must not know what is measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.data import DEFAULT_FOLDER
from benchmarks.results import machine, revision


def parser_of(
    name: str, description: str | None, *, quick: str, kafka: bool = True
) -> argparse.ArgumentParser:
    """Give a parser of what all of them take.

    Args:
        name: of the benchmark.
        description: its module's docstring.
        quick: what is left of it with `--quick`.
        kafka: whether it may run on a real cluster.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--quick", action="store_true", help=quick)
    if kafka:
        parser.add_argument("--kafka", default="", metavar="HOST:PORT", help="a real cluster")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the roles, such as model.precision=fp32",
    )
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="folder of data sets")
    return parser


def changes_of(args: argparse.Namespace) -> dict[str, object]:
    """Give the settings that were named, by dotted name."""
    changes: dict[str, object] = dict(pair.split("=", 1) for pair in args.set)
    if getattr(args, "kafka", ""):
        changes["kafka.servers"] = args.kafka
    return changes


def print_last(name: str, **figures: Any) -> None:  # noqa: ANN401 - whatever JSON takes
    """Print one JSON object: what ran, where, and its figures."""
    known = {"benchmark": name, "machine": machine(), "revision": revision()}
    sys.stdout.write(json.dumps({**known, **figures}) + "\n")
