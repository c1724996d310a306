"""The command line: help that teaches, errors in words, settings written and read back."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mindstream import __version__
from mindstream.cli import app
from mindstream.settings import commented_file

runner = CliRunner()

COMMANDS = [
    "demo",
    "up",
    "ingest",
    "learn",
    "serve",
    "watch",
    "status",
    "send interaction",
    "send feedback",
    "topics list",
    "topics create",
    "releases list",
    "releases show",
    "releases rollback",
    "config init",
    "config check",
    "config show",
]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_of_more_than_its_name(command: str) -> None:
    result = runner.invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    body = result.output.partition("Usage:")[2]
    assert len(body.split()) > 15
    assert "--config" in body or command == "config init"


def test_the_top_help_names_every_command() -> None:
    text = runner.invoke(app, ["--help"]).output
    assert all(command.split()[0] in text for command in COMMANDS)


def test_the_version_is_printed() -> None:
    assert runner.invoke(app, ["--version"]).output.strip() == f"mindstream {__version__}"


def test_settings_are_written_checked_and_shown() -> None:
    assert runner.invoke(app, ["config", "init"]).exit_code == 0
    assert Path("mindstream.toml").read_text() == commented_file()
    tomllib.loads(Path("mindstream.toml").read_text())
    assert "right" in runner.invoke(app, ["config", "check"]).output
    shown = runner.invoke(app, ["config", "show", "--json", "-s", "learn.seed=7"])
    values = json.loads(shown.output)
    assert values["learn.seed"] == 7
    secret = runner.invoke(
        app, ["config", "show", "--json", "-s", "redis.url=redis://:hidden@127.0.0.1:1/0"]
    )
    assert "hidden" not in secret.output


def test_topics_are_listed_without_a_cluster() -> None:
    text = runner.invoke(app, ["topics", "list"]).output
    assert "mindstream.interactions" in text
    assert "mindstream.dead-letters" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["config", "check", "-s", "kafka.partitions=0"], "kafka.partitions = '0'"),
        (["config", "check", "-s", "nonsense"], "must be NAME=VALUE"),
        (["learn", "--strategy", "magic"], "two-speed"),
        (["releases", "show", "intents", "000001-00000000"], "000001-00000000"),
        (["demo", "--data", "absent.jsonl"], "absent.jsonl"),
        (["status"], "mindstream up"),
    ],
)
def test_what_is_wrong_is_said_in_words_and_exits_with_2(words: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mindstream", *words],
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "200", "HOME": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
