"""Runs every query of the dashboard against a Prometheus and names those without data.

::

    python deploy/prometheus/check_dashboard.py http://localhost:9090 --window 15m

Exits with 1 when a query has no data in the window, or is refused.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

OVERVIEW = Path(__file__).parents[1] / "grafana" / "dashboards" / "overview.json"
_SECONDS = {"s": 1, "m": 60, "h": 3_600}
_POINTS = 200


@dataclass(frozen=True, slots=True)
class DashboardQuery:
    """One query of a dashboard, with the panel it belongs to."""

    panel: str
    expr: str


def queries(dashboard: Mapping[str, Any]) -> list[DashboardQuery]:
    """List every query of a dashboard, in the order of its panels."""
    return [
        DashboardQuery(panel["title"], target["expr"])
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]


def without_variables(expr: str, *, window: str, rate: str) -> str:
    """Put values where Grafana would: all tasks, the window shown, the rate's interval."""
    values = {"$task": ".*", "$__range": window, "$__rate_interval": rate}
    # Longest first: $__range is the start of no other name, but might become one.
    for name in sorted(values, key=len, reverse=True):
        expr = expr.replace(name, values[name])
    return expr


def problem(address: str, expr: str, *, window_s: float, now: datetime) -> str | None:
    """Say what is wrong with a query: refused, or without a number in the window."""
    step_s = max(1.0, window_s / _POINTS)
    parameters = urllib.parse.urlencode(
        {
            "query": expr,
            "start": now.timestamp() - window_s,
            "end": now.timestamp(),
            "step": step_s,
        }
    )
    try:
        with urllib.request.urlopen(
            f"{address.rstrip('/')}/api/v1/query_range?{parameters}", timeout=30
        ) as answer:
            series = json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        with error:
            return f"refused: {error.read().decode(errors='replace')[:300]}"
    numbers = (float(value) for line in series for _, value in line["values"])
    return None if any(map(math.isfinite, numbers)) else "no data"


def check(
    address: str, dashboard: Mapping[str, Any], *, window: str, rate: str, now: datetime
) -> list[str]:
    """Run every query.

    Args:
        address: base address of a Prometheus.
        dashboard: as Grafana reads it.
        window: how far back to look, such as `15m`.
        rate: interval of rates, at least four scrapes.
        now: end of the window.

    Returns:
        One line for each query that fails.
    """
    window_s = _seconds(window)
    failures = []
    for query in queries(dashboard):
        expr = without_variables(query.expr, window=window, rate=rate)
        wrong = problem(address, expr, window_s=window_s, now=now)
        if wrong is not None:
            failures.append(f"{query.panel}: {wrong}: {expr}")
    return failures


def _seconds(duration: str) -> float:
    match = re.fullmatch(r"(\d+)([smh])", duration)
    if match is None:
        raise argparse.ArgumentTypeError(f"{duration!r} is not a duration such as 90s, 15m or 1h")
    return float(int(match[1]) * _SECONDS[match[2]])


def main() -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("address", help="base address of Prometheus, such as http://localhost:9090")
    parser.add_argument("--dashboard", type=Path, default=OVERVIEW)
    parser.add_argument("--window", default="15m", help="how far back to look")
    parser.add_argument("--rate", default="30s", help="interval of rates: at least four scrapes")
    arguments = parser.parse_args()
    dashboard = json.loads(arguments.dashboard.read_text(encoding="utf-8"))
    failures = check(
        arguments.address,
        dashboard,
        window=arguments.window,
        rate=arguments.rate,
        now=datetime.now(UTC),
    )
    total = len(queries(dashboard))
    for line in failures:
        sys.stdout.write(line + "\n")
    sys.stdout.write(f"{total - len(failures)} of {total} queries have data\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
