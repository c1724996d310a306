"""What rules and panels say about made-up histories, as Prometheus itself evaluates them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.scraping import RULES, need

ROOT = Path(__file__).parents[2]
OVERVIEW = json.loads((ROOT / "deploy/grafana/dashboards/overview.json").read_text("utf-8"))
UP = [
    {"series": f'up{{job="mindstream", role="{role}"}}', "values": "1x60"}
    for role in ("ingest", "learn", "serve", "watch")
]


@pytest.fixture
def promtool() -> str:
    return need("promtool")


def evaluate(promtool: str, folder: Path, case: dict[str, Any]) -> str:
    """Run one case of `promtool test rules`; empty when it holds."""
    path = folder / "case.yml"
    path.write_text(
        yaml.safe_dump(
            {
                "rule_files": [str(RULES)],
                "evaluation_interval": "15s",
                "tests": [{"interval": "15s", **case}],
            }
        )
    )
    done = subprocess.run(
        [promtool, "test", "rules", path], capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    inside = ", ".join(f'{key}="{value}"' for key, value in labels.items())
    return {"series": f"mindstream_{name}{{{inside}}}", "values": values}


def expression(title: str, number: int = 0) -> str:
    """Give a panel's query as Grafana would send it."""
    (panel,) = [p for p in OVERVIEW["panels"] if p["title"] == title and p["type"] != "row"]
    expr: str = panel["targets"][number]["expr"]
    for name, value in (("$__rate_interval", "1m"), ("$__range", "15m"), ("$task", ".*")):
        expr = expr.replace(name, value)
    return expr


def workers(count: int, name: str, values: str, **labels: str) -> list[dict[str, str]]:
    return [series(name, values, instance=f"worker-{n}", **labels) for n in range(count)]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    ("title", "rows", "labels", "value"),
    [
        (
            "Interactions by outcome",
            [
                ("interactions_total", "0+30x60", {"task": "intents", "outcome": "joined"}),
                ("interactions_total", "0+15x60", {"task": "topics", "outcome": "joined"}),
            ],
            '{outcome="joined"}',
            3,
        ),
        (
            "Feedback by outcome",
            [("feedback_total", "0+30x60", {"task": "intents", "outcome": "joined"})],
            '{outcome="joined"}',
            2,
        ),
        (
            "Waiting for a label",
            [("interactions_waiting", "7x60", {"task": "intents"})],
            '{task="intents"}',
            7,
        ),
        (
            "Replay memory, rows",
            [("replay_rows", "9x60", {"task": "intents", "part": "train"})],
            '{part="train", task="intents"}',
            9,
        ),
        (
            "Replay memory, bytes",
            [("replay_bytes", "99x60", {"task": "intents"})],
            '{task="intents"}',
            99,
        ),
        (
            "Lag",
            [("consumer_lag_messages", "5x60", {"role": "ingest", "topic": "t", "partition": "0"})],
            '{role="ingest", topic="t"}',
            5,
        ),
    ],
    ids=["interactions", "feedback", "waiting", "replay rows", "replay bytes", "lag"],
)
def test_what_every_worker_exports_alike_counts_once(
    promtool: str,
    tmp_path: Path,
    title: str,
    rows: list[tuple[str, str, dict[str, str]]],
    labels: str,
    value: float,
    count: int,
) -> None:
    found = evaluate(
        promtool,
        tmp_path,
        {
            "input_series": [
                line for name, values, tags in rows for line in workers(count, name, values, **tags)
            ],
            "promql_expr_test": [
                {
                    "expr": expression(title),
                    "eval_time": "10m",
                    "exp_samples": [{"labels": labels, "value": value}],
                }
            ],
        },
    )
    assert not found


def test_what_each_worker_does_itself_is_summed(promtool: str, tmp_path: Path) -> None:
    rows = workers(2, "predictions_total", "0+30x60", task="intents", status="ok")
    test = {
        "expr": expression("Predictions by status"),
        "eval_time": "10m",
        "exp_samples": [{"labels": '{status="ok", task="intents"}', "value": 4}],
    }
    assert not evaluate(promtool, tmp_path, {"input_series": rows, "promql_expr_test": [test]})


@pytest.mark.parametrize(
    ("title", "name", "tags"),
    [
        (
            "Drifts",
            "drift_signals_total",
            {"task": "intents", "signal": "error", "detector": "adwin", "level": "drift"},
        ),
        ("Dead letters", "dead_letters_total", {"topic": "interactions"}),
    ],
    ids=["drifts", "dead letters"],
)
def test_the_event_that_makes_a_series_is_counted(
    promtool: str, tmp_path: Path, title: str, name: str, tags: dict[str, str]
) -> None:
    rows = [series(name, "_x20 1x40", **tags)]
    test = {"expr": expression(title), "eval_time": "10m"}
    first = {**test, "exp_samples": [{"labels": "{}", "value": 1}]}
    assert not evaluate(promtool, tmp_path, {"input_series": rows, "promql_expr_test": [first]})
    none = {**test, "exp_samples": [{"labels": "{}", "value": 0}]}
    assert not evaluate(promtool, tmp_path, {"input_series": [], "promql_expr_test": [none]})


def alert(name: str, at: str, *firing: tuple[dict[str, str], str]) -> dict[str, Any]:
    return {
        "alertname": name,
        "eval_time": at,
        "exp_alerts": [
            {"exp_labels": labels, "exp_annotations": {"summary": said}} for labels, said in firing
        ],
    }


def test_a_first_drift_is_told_and_passes(promtool: str, tmp_path: Path) -> None:
    rows = [
        series("drift_signals_total", "_x20 1x80", task="intents", signal="error", level="drift")
    ]
    told = ({"severity": "info", "task": "intents", "signal": "error"}, "error of intents drifted")
    tests = [alert("Drift", "4m"), alert("Drift", "7m", told), alert("Drift", "20m")]
    assert not evaluate(promtool, tmp_path, {"input_series": rows, "alert_rule_test": tests})


def test_a_role_that_is_gone_or_silent_is_told(promtool: str, tmp_path: Path) -> None:
    gone = {"severity": "critical", "job": "mindstream", "role": "learn"}
    found = evaluate(
        promtool,
        tmp_path,
        {
            "input_series": [row for row in UP if "learn" not in row["series"]],
            "alert_rule_test": [alert("RoleGone", "5m", (gone, "no learn runs"))],
        },
    )
    assert not found
    down = {"severity": "critical", "job": "mindstream", "role": "learn", "instance": "a:1"}
    silent = {"series": 'up{job="mindstream", role="learn", instance="a:1"}', "values": "0x60"}
    found = evaluate(
        promtool,
        tmp_path,
        {
            "input_series": [*UP, silent],
            "alert_rule_test": [
                alert("RoleGone", "5m"),
                alert("RoleDown", "5m", (down, "learn at a:1 is not answering")),
            ],
        },
    )
    assert not found


def test_all_is_quiet_when_all_is_well(promtool: str, tmp_path: Path) -> None:
    names = [
        rule["alert"]
        for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"]
        for rule in group["rules"]
    ]
    rows = [
        *UP,
        series("consumer_lag_messages", "40x60", role="ingest", topic="t", partition="0"),
        series("predictions_total", "0+30x60", task="intents", status="ok"),
        series("prequential_accuracy", "0.9x60", task="intents"),
        series("prequential_accuracy_lifetime", "0.9x60", task="intents"),
        series("checkpoint_timestamp_seconds", "0+15x60"),
        series("release_timestamp_seconds", "0+15x60", task="intents"),
        series("examples_learned_total", "0+30x60", task="intents"),
    ]
    tests = [alert(name, "14m") for name in names]
    assert not evaluate(promtool, tmp_path, {"input_series": rows, "alert_rule_test": tests})
