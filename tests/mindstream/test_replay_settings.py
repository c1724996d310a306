"""Settings of replay memory: shares from a file, from variables, and as the memory takes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis as redis_client

from learners.rehearsal import ReplayLaws
from mindstream.clients import make_memory
from mindstream.settings import load_settings, role_environment
from schemas.errors import SettingsError


@pytest.fixture(autouse=True)
def _clean_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_shares_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(
        '[replay]\npolicy = "recency-mixed"\nrecent_rows = 7\n'
        "[replay.shares]\nclass-balanced = 0.5\nrecent = 0.25\nloss = 0.25\n"
    )
    replay = load_settings(file).replay
    assert replay.shares == {"class-balanced": 0.5, "recent": 0.25, "loss": 0.25}
    assert (replay.policy, replay.recent_rows) == ("recency-mixed", 7)


def test_shares_are_read_from_variables_one_each_or_all_in_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MINDSTREAM_REPLAY__SHARES__CLASS-BALANCED", "0.75")
    monkeypatch.setenv("MINDSTREAM_REPLAY__SHARES__LOSS", "0.25")
    assert load_settings().replay.shares == {"class-balanced": 0.75, "loss": 0.25}
    monkeypatch.delenv("MINDSTREAM_REPLAY__SHARES__CLASS-BALANCED")
    monkeypatch.delenv("MINDSTREAM_REPLAY__SHARES__LOSS")
    monkeypatch.setenv("MINDSTREAM_REPLAY__SHARES", '{"class-balanced": 0.5, "recent": 0.5}')
    assert load_settings().replay.shares == {"class-balanced": 0.5, "recent": 0.5}


def test_a_role_reads_back_the_shares_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = load_settings(
        overrides={"replay.policy": "loss-aware", "replay.shares": {"uniform": 0.4, "loss": 0.6}}
    )
    for name, value in role_environment(parent, {}).items():
        if name.startswith("MINDSTREAM_"):
            monkeypatch.setenv(name, value)
    assert load_settings().replay == parent.replay


def test_wrong_shares_are_named_with_their_rule() -> None:
    def problem(shares: dict[str, float]) -> str:
        with pytest.raises(SettingsError) as caught:
            load_settings(overrides={"replay.shares": shares})
        return "\n".join(caught.value.problems)

    assert "replay.shares = {'loss': 0.7}: shares are 0.7 together" in problem({"loss": 0.7})
    assert "the share of loss is -1: it must be between" in problem({"loss": -1.0, "recent": 2.0})
    unknown = problem({"newest": 1.0})
    assert "replay.shares.newest" in unknown
    assert "'class-balanced', 'uniform', 'recent' or 'loss'" in unknown


def test_the_memory_has_the_laws_of_the_settings(redis: redis_client.Redis) -> None:
    settings = load_settings(
        overrides={
            "replay.policy": "recency-mixed",
            "replay.shares": {"recent": 1.0},
            "replay.recent_rows": 3,
        }
    )
    laws = ReplayLaws("recency-mixed", {"recent": 1.0}, recent_rows=3)
    assert make_memory(settings, redis, "intents").laws == laws
