"""A plugin by import path runs as it is, or says at start in one sentence why it cannot."""

from __future__ import annotations

import pytest

from learners.strategies.base import NoReplay, StrategyConfig
from learners.strategies.plugin import make_plugin
from learners.tasks import task_kind
from schemas.errors import SettingsError
from tests.learning import example
from tests.small import small_encoder, small_learner

TEXTS = ("please call me", "the weather is fine")
ROWS = [example(f"e{n}", f"{TEXTS[n % 2]} {n % 4}", "ab"[n % 2]) for n in range(40)]


@pytest.mark.parametrize(
    ("path", "arguments", "said"),
    [
        ("", {}, "package.module:Class was expected"),
        ("tests.plugins.Centroids", {}, "package.module:Class was expected"),
        ("tests.no_such:Plugin", {}, "cannot be imported: No module named 'tests.no_such'"),
        ("tests.plugins:Absent", {}, "cannot be imported"),
        ("tests.plugins:NoPlugin", {}, "it is no avalanche.training.plugins.SupervisedPlugin"),
        ("tests.plugins:Centroids", {"wait": 1}, r"plugin_arguments {'wait': 1}: .*'wait'"),
        ("tests.plugins:NeedsBenchmark", {}, "it needs what a stream has not"),
        ("tests.plugins:KeepsGenerator", {}, "random is a Random, which no checkpoint can hold"),
        ("tests.plugins:MakesNaN", {}, "no finite numbers"),
        ("avalanche.training.plugins:ReplayPlugin", {}, "endless stream: use 'er'"),
        ("avalanche.training.plugins:RWalkPlugin", {}, "endless stream: use 'rwalk'"),
        ("avalanche.training.plugins:LwFPlugin", {}, "it needs what a stream has not"),
        ("avalanche.training.plugins:CWRStarPlugin", {}, "plugin_arguments"),
        ("avalanche.training.plugins:BiCPlugin", {"mem_size": 10}, "it needs what a stream"),
    ],
)
def test_what_cannot_run_is_refused_in_one_sentence(
    path: str, arguments: dict[str, object], said: str
) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        small_learner("plugin", plugin=path, plugin_arguments=arguments)
    [problem] = caught.value.problems
    assert problem.startswith(f"learn.plugin = {path!r}: ")
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("tests.plugins:Centroids", {"weight": 0.5}),
        (
            "avalanche.training.plugins:EWCPlugin",
            {"ewc_lambda": 1.0, "mode": "online", "decay_factor": 0.5},
        ),
        ("avalanche.training.plugins:MASPlugin", {}),
        ("avalanche.training.plugins:SupervisedPlugin", {}),
    ],
)
@pytest.mark.parametrize("kind", ["classify", "multilabel"])
def test_what_runs_learns(path: str, arguments: dict[str, object], kind: str) -> None:
    learner = small_learner("plugin", kind=kind, plugin=path, plugin_arguments=arguments)
    rows = [e if kind == "classify" else example(e.id, e.text or "", (str(e.label),)) for e in ROWS]
    losses = [learner.learn(rows[start : start + 10]).loss for start in range(0, 40, 10)]
    assert losses[-1] < losses[0]


def test_arguments_reach_the_plugin() -> None:
    config = StrategyConfig(
        kind=task_kind("classify"),
        encoder=small_encoder(),
        replay=NoReplay(),
        plugin="tests.plugins:Centroids",
        plugin_arguments={"weight": 0.25},
    )
    assert make_plugin(config).weight == 0.25
