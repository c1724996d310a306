"""Deployment files agree with the code: ports, settings, metrics, and each other."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from mindstream.settings import Settings
from serving.metrics import PREFIX, TABLE
from tests.deploy.scraping import need

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
ROLES = ("ingest", "learn", "serve", "watch")
OVERVIEW = json.loads((DEPLOY / "grafana/dashboards/overview.json").read_text(encoding="utf-8"))
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
PROMETHEUS = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text(encoding="utf-8"))
RULES = yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text(encoding="utf-8"))
# Grafana shows a unit that it does not know as a word behind the number.
UNITS = {"bytes", "eps", "mps", "percentunit", "s", "short"}
DASHBOARD_EXPRESSIONS = [
    target["expr"] for panel in OVERVIEW["panels"] for target in panel.get("targets", ())
]
RULE_EXPRESSIONS = [rule["expr"] for group in RULES["groups"] for rule in group["rules"]]


def default_port(role: str) -> int:
    port: int = getattr(Settings.model_fields[role].default, "port")  # noqa: B009
    return port


def exposed_names() -> dict[str, tuple[str, ...]]:
    """Every series name that the roles expose, with its labels."""
    names: dict[str, tuple[str, ...]] = {}
    for row in TABLE:
        if row.kind == "histogram":
            for ending in ("_bucket", "_sum", "_count"):
                names[PREFIX + row.name + ending] = (*row.labels, "le")
        else:
            names[PREFIX + row.name] = row.labels
    return names


@pytest.mark.parametrize("expr", DASHBOARD_EXPRESSIONS + RULE_EXPRESSIONS)
def test_every_metric_and_label_of_a_query_exists(expr: str) -> None:
    known = exposed_names()
    used = re.findall(rf"({PREFIX}\w+)(?:\{{([^}}]*)\}})?", expr)
    for name, selector in used:
        assert name in known
        assert set(re.findall(r"(\w+)=", selector)) <= set(known[name])
    assert used or "up{" in expr


def test_the_dashboard_shows_every_metric_that_matters() -> None:
    shown = " ".join(DASHBOARD_EXPRESSIONS)
    # Both end in dead letters or no-release answers, which are shown.
    apart = {"predictions_unscored_total", "release_refusals_total"}
    missing = {row.name for row in TABLE if PREFIX + row.name not in shown} - apart
    assert missing == set()


def test_the_checked_in_dashboard_is_current() -> None:
    written = subprocess.run(
        [sys.executable, DEPLOY / "grafana/make_overview.py"], capture_output=True, check=True
    ).stdout
    assert json.loads(written) == OVERVIEW, "run deploy/grafana/make_overview.py, see its docstring"


def test_panels_have_names_units_and_words_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in OVERVIEW["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in OVERVIEW["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
            assert panel["description"].endswith(".")
            assert panel["targets"]
            assert all(target["legendFormat"] for target in panel["targets"])
    assert len(taken) == 24 * (1 + max(y for _, y in taken)), "the grid has a hole"


def test_prometheus_scrapes_every_replica_of_every_role_at_its_port() -> None:
    (job,) = PROMETHEUS["scrape_configs"]
    found = {row["names"][0]: row["port"] for row in job["dns_sd_configs"]}
    assert found == {role: default_port(role) for role in ROLES}
    assert all(row["type"] == "A" for row in job["dns_sd_configs"])
    assert job["relabel_configs"] == [
        {"source_labels": ["__meta_dns_name"], "target_label": "role"}
    ]


@pytest.mark.parametrize("role", ROLES)
def test_compose_runs_each_role_on_its_port_as_the_code_knows_it(role: str) -> None:
    service = COMPOSE["services"][role]
    port = default_port(role)
    assert service["command"] == [role]
    # Replicas cannot share a port of the machine; that of the learner keeps it alone.
    ports = [f"127.0.0.1:{port}:{port}"] if role in ("learn", "serve") else []
    assert service.get("ports", []) == ports
    assert "container_name" not in service
    assert service["healthcheck"]["test"][-1] == str(port)
    assert service["depends_on"]["topics"] == {"condition": "service_completed_successfully"}


def test_compose_settings_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = COMPOSE["services"]["serve"]["environment"]
    ours = {name: value for name, value in environment.items() if name.startswith("MINDSTREAM_")}
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    settings = Settings()  # type: ignore[call-arg]  # every field comes from the variables
    assert settings.kafka.servers == "kafka:19092"
    assert settings.redis.url == "redis://redis:6379/0"
    assert settings.store_url == "/data/releases"
    assert settings.web.host == "0.0.0.0"
    # A variable that no setting reads would be dropped in silence: each must be one.
    for name in ours:
        fields: Any = Settings
        for part in name.removeprefix("MINDSTREAM_").lower().split("__"):
            assert part in fields.model_fields, name
            fields = fields.model_fields[part].annotation


def test_every_long_running_service_restarts_and_is_checked_and_bounded() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["logging"]["options"]["max-size"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        if name == "topics":
            continue
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"], name
        assert service["mem_limit"], name


def test_nothing_is_reachable_from_other_machines() -> None:
    published = [
        port for service in COMPOSE["services"].values() for port in service.get("ports", ())
    ]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_one_service_builds_the_image_of_all_roles() -> None:
    services = COMPOSE["services"]
    assert [name for name, service in services.items() if "build" in service] == ["topics"]
    for name in (*ROLES, "topics"):
        assert services[name]["image"] == services["topics"]["image"]
        assert services[name]["pull_policy"] == "never"  # the name means nothing elsewhere


def test_compose_is_valid() -> None:
    compose = compose_command()
    if compose is None:
        pytest.skip("docker compose is not installed")
    done = subprocess.run(
        [*compose, "-f", DEPLOY / "compose.yaml", "config", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def compose_command() -> list[str] | None:
    for command in (["docker", "compose"], ["docker-compose"]):
        if (
            shutil.which(command[0])
            and subprocess.run([*command, "version"], capture_output=True, check=False).returncode
            == 0
        ):
            return command
    return None


def test_the_image_holds_every_package_and_does_not_run_as_root() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for package in ("schemas", "learners", "serving", "streams", "mindstream"):
        assert f"COPY {package} {package}" in dockerfile
        assert f"!{package}" in ignored
    assert re.findall(r"^USER (.*)$", dockerfile, re.M) == ["mindstream"]


def test_every_library_is_pinned_and_none_needs_a_compiler() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    pins = re.findall(r"^([a-z0-9.-]+)==", (ROOT / "constraints.txt").read_text(), re.M)
    assert {re.split(r"[<>=; ]", line)[0] for line in wanted} <= set(pins)
    # Through qpsolvers' extra avalanche-lib asks for ecos, which has no wheels from 3.13 on.
    assert project["tool"]["uv"]["override-dependencies"] == ["qpsolvers[quadprog]>=4.13"]
    assert "ecos" not in pins


@pytest.mark.parametrize(
    "arguments",
    [["config", "prometheus.yml"], ["rules", "rules.yml"]],
    ids=["scrape settings", "alert rules"],
)
def test_prometheus_accepts(arguments: list[str]) -> None:
    done = subprocess.run(
        [need("promtool"), "check", arguments[0], DEPLOY / "prometheus" / arguments[1]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
