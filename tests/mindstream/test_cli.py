"""The command line: help that teaches, errors in words, settings written and read back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mindstream import __version__
from mindstream.cli import app, settings_of
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


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mindstream", *words],
        cwd=folder,
        env={
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "COLUMNS": "200",
            "HOME": "/nowhere",
            "PATH": os.defpath,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


NOBODY = "127.0.0.1:1"  # a port that nobody may listen on


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["config", "check", "-s", "kafka.partitions=0"], 2, "kafka.partitions = '0'"),
        (["config", "check", "-s", "kafka.partitions=0"], 2, "`mindstream config init` writes"),
        (["config", "check", "-s", "nonsense"], 2, "must be NAME=VALUE"),
        (["config", "check", "-s", "learn=3", "-s", "learn.seed=1"], 2, "given as well"),
        (["learn", "--strategy", "magic"], 2, "two-speed"),
        (["releases", "show", "intents", "000001-00000000"], 2, "000001-00000000"),
        (["releases", "list", "-s", "store.url=s3://bucket"], 2, "s3:// cannot be used here"),
        (["releases", "list", "-s", "store.url=foo://x"], 2, "foo:// cannot be used here"),
        (["demo", "--data", "absent.jsonl"], 2, "absent.jsonl"),
        (["demo", "--strategy", "bogus"], 2, "learn.strategy = 'bogus'"),
        (["demo", "--seed", "-1"], 2, "learn.seed = -1"),
        (["demo", "--backbone", "./nowhere"], 2, "model.backbone = './nowhere'"),
        (["demo", "--limit", "9", "-s", f"kafka.servers={NOBODY}"], 1, "does not answer"),
        (["demo", "--limit", "9", "-s", f"redis.url=redis://x:y@{NOBODY}"], 1, f"redis://{NOBODY}"),
        (["status"], 2, "no Redis is running here: start `mindstream up`"),
        (["send", "interaction", "hello"], 2, "no Kafka is running here: start `mindstream up`"),
        (["topics", "create"], 2, "make the topics of their embedded one themselves"),
        (["topics", "create", "-s", f"kafka.servers={NOBODY}"], 1, f"Kafka at {NOBODY} does not"),
        (["send", "interaction", "hello", "-s", f"kafka.servers={NOBODY}"], 1, "does not answer"),
        (["ingest", "-s", f"kafka.servers={NOBODY}"], 1, f"Kafka at {NOBODY} does not answer"),
        (["up", "-s", f"kafka.servers={NOBODY}"], 1, f"Kafka at {NOBODY} does not answer"),
        (["send", "interaction", ""], 2, "text: "),
        (["send", "interaction", "hello", "--user", ""], 2, "user: "),
        (["send", "interaction", "hello", "--label", "a", "--label", "b"], 2, "a, b are 2"),
        (["send", "feedback", "1", "a", "b"], 2, "every task here has one label"),
        (["send", "feedback", "", "a"], 2, "interaction: "),
        (["send", "feedback", "1", " "], 2, "label: "),
    ],
)
def test_what_is_wrong_is_said_in_words_with_an_exit_status(
    words: list[str], status: int, said: str, tmp_path: Path
) -> None:
    done = run(words, tmp_path)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_status_shows_roles_and_releases_while_redis_is_away_and_hides_its_password(
    tmp_path: Path,
) -> None:
    flags = ["-s", f"redis.url=redis://:hidden@{NOBODY}/0"]
    for number, role in enumerate(("ingest", "learn", "serve", "watch")):
        flags += ["-s", f"{role}.port={2 + number}"]
    done = run(["status", *flags], tmp_path)
    assert done.returncode == 1
    assert "nothing released yet" in done.stdout
    assert "watch" in done.stdout
    assert f"Redis at redis://{NOBODY}/0 does not answer" in done.stdout
    assert "hidden" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    found = json.loads(run(["status", "--json", *flags], tmp_path).stdout)
    assert found["counters"] is None
    assert found["roles"] == {role: False for role in ("ingest", "learn", "serve", "watch")}


def test_a_flag_of_its_own_that_is_not_given_leaves_what_set_says() -> None:
    settings = settings_of(
        None, ["learn.strategy=er", "learn.seed=7"], {"learn.strategy": None, "learn.seed": None}
    )
    assert (settings.learn.strategy, settings.learn.seed) == ("er", 7)


def test_every_argument_has_help() -> None:
    for command in ("releases show", "releases rollback"):
        text = runner.invoke(app, [*command.split(), "--help"]).output
        assert "A task of this deployment" in text
