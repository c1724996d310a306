"""What is wrong with settings: no secret is shown, no misspelt name passes, all of it at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mindstream.problems import ELSE
from mindstream.settings import load_settings, role_environment
from schemas.errors import SettingsError


@pytest.fixture(autouse=True)
def _clean_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def problems(**overrides: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(overrides={name.replace("__", "."): v for name, v in overrides.items()})
    return caught.value.problems


@pytest.mark.parametrize(
    "overrides",
    [
        {"kafka__security": "sasl_ssl"},
        {"kafka__security": "magic"},
        {"kafka__nope": 1},
        {"kafka": "password=hunter2"},
        {"kafka__password__x": "hunter2"},
        {"redis": "redis://:hunter2@host"},
        {"redis__url": "http://:hunter2@host"},
        {"store__url": "foo://key:hunter2@bucket"},
    ],
)
def test_no_problem_shows_a_secret(
    overrides: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not {"kafka", "kafka__password__x"} & set(overrides):
        monkeypatch.setenv("MINDSTREAM_KAFKA__PASSWORD", "hunter2")
    text = "\n".join(problems(**overrides))
    assert text
    assert "hunter2" not in text


def test_a_rule_over_a_section_shows_what_was_given_but_for_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MINDSTREAM_KAFKA__PASSWORD", "hunter2")
    assert problems(kafka__security="sasl_ssl") == [
        "kafka = {'password': '***', 'security': 'sasl_ssl'}: "
        "security 'sasl_ssl' needs username and password"
    ] or problems(kafka__security="sasl_ssl") == [
        "kafka = {'security': 'sasl_ssl', 'password': '***'}: "
        "security 'sasl_ssl' needs username and password"
    ]


def test_misspelt_variables_are_named_with_what_they_probably_mean_and_with_all_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MINDSTREAM_KAFKA_SERVERS", "host:1")
    monkeypatch.setenv("MINDSTREAM_LERN__SEED", "1")
    monkeypatch.setenv("MINDSTREAM_LEARN__SEAD", "1")
    monkeypatch.setenv("MINDSTREAM_LOG_LEVEL__X", "1")
    monkeypatch.setenv("MINDSTREAM_QWERTYUIOP", "secret")
    found = problems(kafka__partitions=0)
    assert sorted(found) == sorted(
        [
            "MINDSTREAM_KAFKA_SERVERS: there is no such setting; "
            "is MINDSTREAM_KAFKA__SERVERS meant?",
            "MINDSTREAM_LERN__SEED: there is no such setting; is MINDSTREAM_LEARN__SEED meant?",
            "MINDSTREAM_LOG_LEVEL__X: there is no such setting; is MINDSTREAM_LOG_LEVEL meant?",
            f"MINDSTREAM_QWERTYUIOP: there is no such setting; {ELSE}",
            "learn.sead: there is no such setting; is learn.seed meant?",
            "kafka.partitions = 0: input should be greater than or equal to 1",
        ]
    )


def test_variables_that_kubernetes_makes_for_a_service_of_our_name_are_no_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        "MINDSTREAM_SERVE_SERVICE_HOST": "10.0.0.1",
        "MINDSTREAM_SERVE_SERVICE_PORT": "8080",
        "MINDSTREAM_SERVE_SERVICE_PORT_HTTP": "8080",
        "MINDSTREAM_SERVE_PORT": "tcp://10.0.0.1:8080",
        "MINDSTREAM_SERVE_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "MINDSTREAM_SERVE_PORT_8080_TCP_ADDR": "10.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    load_settings()
    monkeypatch.setenv("MINDSTREAM_SERVE_PORT", "8080")  # a person's, for MINDSTREAM_SERVE__PORT
    assert "is MINDSTREAM_SERVE__PORT meant?" in problems()[0]


def test_a_missing_file_is_said_with_all_else(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path / "absent.toml", {"learn.seed": -1})
    assert len(caught.value.problems) == 2


def test_a_section_and_its_part_given_together_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for overrides in ({"learn": "3", "learn.seed": "1"}, {"learn.seed": "1", "learn": "3"}):
        with pytest.raises(SettingsError, match="given as well"):
            load_settings(overrides=overrides)
    monkeypatch.setenv("MINDSTREAM_LEARN", "{")
    with pytest.raises(SettingsError, match="must be JSON"):
        load_settings()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"model__device": "gpu"}, "model.device = 'gpu'"),
        ({"model": {"engine": "torch", "precision": "int8"}}, "'torch' does not compute in int8"),
        ({"kafka__servers": "a,b"}, "kafka.servers = 'a,b': 'a' is no broker"),
        ({"kafka__servers": "a:1,"}, "'' is no broker"),
        ({"kafka__servers": "a:99999"}, "'a:99999' is no broker"),
        ({"kafka__ca_file": "/nope"}, "kafka.ca_file = '/nope': there is no such file"),
        ({"model__backbone": "./nope"}, "model.backbone = './nope': there is no such folder"),
        ({"model__backbone": "/no/such/model"}, "there is no such folder"),
        ({"store__url": "foo://x"}, "foo:// cannot be used here"),
        ({"tasks": {"a__b": {"kind": "classify"}}}, "must not have two underscores together"),
    ],
)
def test_settings_that_cannot_work_are_refused(overrides: dict[str, Any], said: str) -> None:
    (problem,) = problems(**overrides)
    assert said in problem


def test_settings_that_can_work_are_taken(tmp_path: Path) -> None:
    folder, authorities = tmp_path / "model", tmp_path / "ca.pem"
    folder.mkdir()
    authorities.touch()
    for name, values in {
        "model.device": ["auto", "cpu", "cuda", "cuda:1", "mps"],
        "kafka.servers": ["embedded", "a:1", "a:1, b.c-d:2", "[::1]:9092", "10.0.0.1:65535"],
        "kafka.ca_file": ["", str(authorities)],
        "model.backbone": ["someone/some-model", "some-model", "./model", str(folder)],
        "store.url": ["", "a/folder", "memory://x", "file:///x"],
    }.items():
        for value in values:
            load_settings(overrides={name: value})


def test_a_role_reads_no_settings_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a parent with a file of its own, in a folder with another
    own = tmp_path / "own.toml"
    own.write_text("[tasks.mine]\nkind = 'multilabel'\n")
    (tmp_path / "mindstream.toml").write_text("[learn]\nseed = 9\n[tasks.other]\n")
    parent = load_settings(own)

    # When a role starts in the same folder, then it has the parent's tasks and no others
    for name, value in role_environment(parent, {}).items():
        if name.startswith("MINDSTREAM_"):
            monkeypatch.setenv(name, value)
    child = load_settings()
    assert set(child.tasks) == {"mine"}
    assert child.model_dump() == parent.model_dump()
