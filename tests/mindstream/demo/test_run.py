"""The whole demo, small: real roles, a real stream, every event accounted for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mindstream.demo.deploy import adjusted, demo_settings, pages
from mindstream.demo.options import DemoOptions, make_plan
from mindstream.demo.run import run_demo
from mindstream.settings import load_settings
from schemas.errors import SettingsError

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (DemoOptions(limit=0), "--limit 0: must be more than 0"),
        (DemoOptions(rate=-1.0), "--rate -1.0: must be more than 0"),
        (DemoOptions(data=Path("absent.csv")), "there is no such file"),
    ],
)
def test_wrong_options_are_said_before_anything_starts(options: DemoOptions, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        run_demo(options, load_settings())


def test_a_demo_keeps_the_user_s_settings_but_for_names_and_places(tmp_path: Path) -> None:
    settings = load_settings(
        overrides={"replay.held_out_share": "0.2", "store.url": "memory://mine"}
    )
    plan = make_plan(DemoOptions(limit=10))
    mine = demo_settings(settings, plan, folder=tmp_path, changes={"learn.seed": 5})
    assert mine.replay.held_out_share == 0.2
    assert mine.learn.seed == 5
    assert mine.store_url == str(tmp_path / "releases")
    assert list(mine.tasks) == [plan.task]
    assert mine.ingest.label_ttl_s == plan.label_ttl_s
    assert len(set(pages(mine).values())) == 4


def test_on_a_user_s_own_cluster_a_demo_has_topics_and_keys_of_its_own(tmp_path: Path) -> None:
    settings = load_settings(
        overrides={"kafka.servers": "broker:9092", "redis.url": "redis://redis:6379"}
    )
    mine = demo_settings(settings, make_plan(DemoOptions(limit=10)), folder=tmp_path, changes={})
    assert mine.kafka.prefix.startswith("mindstream-demo-")
    assert mine.redis.namespace.startswith("mindstream-demo-")


def test_the_control_strategy_runs_without_a_gate(tmp_path: Path) -> None:
    settings = adjusted(load_settings(), {"learn.strategy": "naive"})
    mine = demo_settings(settings, make_plan(DemoOptions(limit=10)), folder=tmp_path, changes={})
    assert (mine.gate.margin, mine.gate.label_loss) == (1.0, 1.0)
    assert (mine.gate.slice_loss, mine.gate.calibration_loss) == (1.0, 1.0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_small_demo_ends_with_every_event_accounted_for(tmp_path: Path) -> None:
    path = tmp_path / "tickets.csv"
    words = {"refund": "money back for the", "delivery": "where is my", "repair": "broken again:"}
    rows = [
        f"{label},{text} parcel number {n},{'test' if n % 5 == 0 else 'train'}"
        for n in range(60)
        for label, text in words.items()
    ]
    path.write_text("label,text,split\n" + "\n".join(rows) + "\n")
    command = [sys.executable, "-m", "mindstream", "demo", "--json", "--data", str(path)]
    ended = subprocess.run(
        [*command, "--order", "shuffled", "--rate", "20", "--set", "model.engine=torch"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3_000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["interactions"] == found["joined"] == found["predictions"] == 144
    assert found["unaccounted"] == found["duplicates"] == found["unanswered"] == 0
    assert found["releases"] >= 1
    assert found["exam_rows"] == 36
    assert found["final_accuracy"] > 0.9
    assert found["forgetting"] <= 0.1
