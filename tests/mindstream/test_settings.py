"""Settings: precedence, every problem at once, and a file that teaches."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from mindstream.settings import (
    Settings,
    commented_file,
    flatten,
    load_settings,
    role_environment,
    variable,
)
from schemas.errors import SettingsError


@pytest.fixture(autouse=True)
def _clean_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [n for n in role_environment(load_settings(), {}) if n.startswith("MINDSTREAM_")]:
        monkeypatch.delenv(name, raising=False)


def test_defaults_need_nothing_and_are_embedded() -> None:
    settings = load_settings()
    assert settings.kafka.servers == settings.redis.url == "embedded"
    assert settings.tasks["intents"].kind == "classify"


def test_flags_beat_variables_which_beat_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "own.toml"
    file.write_text('[learn]\nseed = 1\nreplay_rows = 1\n[kafka]\nprefix = "from-file"\n')
    monkeypatch.setenv("MINDSTREAM_LEARN__SEED", "2")
    monkeypatch.setenv("MINDSTREAM_LEARN__REPLAY_ROWS", "2")
    settings = load_settings(file, {"learn.seed": "3"})
    assert (settings.learn.seed, settings.learn.replay_rows) == (3, 2)
    assert settings.kafka.prefix == "from-file"


def test_every_problem_is_named_at_once_with_its_value_and_rule() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(
            overrides={
                "kafka.partitions": 0,
                "learn.nope": 1,
                "redis.url": "http://secret:pass@x",
                "tasks": {"A b": {"kind": "classify"}},
                "ingest.remember_s": 1,
            }
        )
    text = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 5
    assert "kafka.partitions = 0: input should be greater than or equal to 1" in text
    assert "learn.nope: there is no such setting" in text
    assert "redis.url = ***: must be 'embedded' or start with redis://" in text
    assert "task name 'A b' must be lower case" in text
    assert "remember_s (1) must not be under label_ttl_s" in text
    assert "pass" not in text


def test_a_missing_or_broken_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no such file"):
        load_settings(tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[kafka\n")
    with pytest.raises(SettingsError, match=r"broken\.toml"):
        load_settings(broken)


def test_the_commented_file_names_every_setting_and_its_defaults_are_the_defaults() -> None:
    text = commented_file()
    uncommented = "\n".join(
        line[1:] if line.startswith("#") and not line.startswith("# ") else line
        for line in text.splitlines()
    )
    read = flatten(tomllib.loads(uncommented))
    settings = Settings()  # type: ignore[call-arg]  # all fields have defaults
    defaults = flatten(settings.model_dump(mode="json"))
    assert read == {name: value for name, value in defaults.items() if name != "embedded_kafka"}


def test_a_role_reads_back_from_its_environment_what_its_parent_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parent = load_settings(
        overrides={
            "learn.strategy": "er",
            "tasks": {"a-b": {"kind": "multilabel"}, "c": {"kind": "classify"}},
            "ingest.max_age_days": 12.5,
        }
    )
    environment = role_environment(parent, {"kafka.servers": "127.0.0.1:1"})
    assert environment[variable("kafka.servers")] == "127.0.0.1:1"
    for name, value in environment.items():
        if name.startswith("MINDSTREAM_"):
            monkeypatch.setenv(name, value)
    child = load_settings()
    assert child.model_copy(update={"kafka": parent.kafka}).model_dump() == parent.model_dump()


def test_the_settings_name_every_strategy_and_every_kind_of_task() -> None:
    from typing import get_args

    from learners.strategies import STRATEGIES
    from learners.tasks import KINDS
    from mindstream.sections import LearnSettings, TaskSettings

    assert set(get_args(LearnSettings.model_fields["strategy"].annotation)) == set(STRATEGIES)
    assert set(get_args(TaskSettings.model_fields["kind"].annotation)) == set(KINDS)


def test_a_plugin_s_arguments_are_a_table_or_json_and_reach_a_role(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "plugin.toml"
    file.write_text(
        '[learn]\nstrategy = "plugin"\nplugin = "tests.plugins:Centroids"\n'
        "plugin_arguments = { weight = 0.5, name = 'x' }\n"
    )
    parent = load_settings(file)
    assert json.loads(parent.learn.plugin_arguments) == {"weight": 0.5, "name": "x"}
    for name, value in role_environment(parent, {}).items():
        if name.startswith("MINDSTREAM_"):
            monkeypatch.setenv(name, value)
    assert load_settings().learn == parent.learn


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"learn.strategy": "plugin"}, "needs plugin ="),
        ({"learn.plugin_arguments": "{"}, "a table or a JSON object was expected"),
        ({"learn.plugin_arguments": "[1]"}, "a table or a JSON object was expected"),
    ],
)
def test_a_plugin_is_named_and_its_arguments_are_an_object(
    overrides: dict[str, str], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        load_settings(overrides=overrides)
