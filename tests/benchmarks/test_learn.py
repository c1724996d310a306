"""The benchmark of learning, end to end on a few rows of every scenario's shape."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from benchmarks import learn
from benchmarks.data import Row
from benchmarks.features import KeptFeatures
from benchmarks.scenarios import SCENARIOS, Stream
from benchmarks.search import EVERY, GRIDS, tuned_options, validation
from benchmarks.trial import steps
from learners.batch import collate
from learners.library import Learner
from learners.strategies import STRATEGIES

SPLITS = ["train"] * 5 + ["test"] * 2


def rows_of(domains: int = 3, labels: int = 2, times: int = 1) -> list[Row]:
    return [
        Row(f"{split} text {n} about thing {label} of {domain}", f"{domain} {label}", domain, split)
        for domain in (f"domain {d}" for d in range(domains))
        for label in range(labels)
        for n, split in enumerate(SPLITS * times)
    ]


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_is_the_same_for_a_seed_and_tests_only_test_rows(name: str) -> None:
    rows = rows_of(domains=3 if name != "shift5" else 1, times=5)
    if name == "shift5":
        rows = [Row(r.text, r.label, "yelp", r.split) for r in rows]
    streams = SCENARIOS[name].build(rows, 4)
    assert streams == SCENARIOS[name].build(rows, 4)
    texts = {split: {r.text for r in rows if r.split == split} for split in ("train", "test")}
    for stream in streams:
        assert {row.text for row in stream.train} <= texts["train"]
        assert {row.text for group in stream.groups for row in group.rows} <= texts["test"]
        assert all(group.rows for group in stream.groups)
        assert all(task.rows for task in stream.tasks)


def test_late_labels_all_come_and_none_before_its_time() -> None:
    [stream] = SCENARIOS["delay"].build(rows_of(times=20), 0)
    asked, learned, delayed = 0, [], 0
    for step in steps(stream):
        asked += len(step.asked)
        learned += list(step.labelled)
        delayed = max(delayed, asked - len(learned))
    assert sorted(map(str, learned)) == sorted(map(str, stream.train))
    assert learned != stream.train
    assert delayed > 32


def test_small_batches_are_the_same_rows_cut_smaller() -> None:
    [stream] = SCENARIOS["banking77"].build(rows_of(times=20), 0)
    large, small = list(steps(stream)), list(steps(stream, 8))
    assert [row for step in small for row in step.labelled] == list(stream.train)
    assert max(len(step.labelled) for step in small) == 8
    ends = [[step.ends for step in cut if step.ends is not None] for cut in (large, small)]
    assert ends[0] == ends[1]


def test_a_remapped_label_is_tested_by_its_new_meaning() -> None:
    [stream] = SCENARIOS["remap"].build(rows_of(domains=5, times=10), 0)
    old, new = stream.groups[1], stream.groups[2]
    assert [row.text for row in old.rows] == [row.text for row in new.rows]
    assert all(a.label != b.label for a, b in zip(old.rows, new.rows, strict=True))
    assert (old.last, new.first) == (0, 1)


def test_a_run_prints_a_table_and_one_line_of_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data" / "clinc150"
    folder.mkdir(parents=True)
    rows = [*rows_of(), *(Row(f"nonsense {n}", "oos", "oos", "test") for n in range(3))]
    with gzip.open(folder / "data.jsonl.gz", "wt") as file:
        for row in rows:
            values = {"text": row.text, "label": row.label, "domain": row.domain}
            file.write(json.dumps({**values, "split": row.split}) + "\n")
    command = ["--scenario", "clinc150", "--strategy", "two-speed", "naive", "--seeds", "0"]
    command += ["--data", str(tmp_path / "data"), "--cache", str(tmp_path / "cache")]

    assert learn.main(command) == 0

    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    two_speed, naive = last["results"]
    assert [len(two_speed["matrix"]), len(two_speed["matrix"][0])] == [3, 3]
    assert two_speed["matrix"][0][1:] == [None, None]
    assert two_speed["final"] > 0.5
    assert 0.0 <= two_speed["unknown_auroc"] <= 1.0
    assert naive["unknown_auroc"] is None
    assert two_speed["features_ms"] > 0.0
    page = Path(last["report"]).read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 3

    assert learn.main(command) == 0  # from the cache
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["results"] == last["results"]


def test_absent_data_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--data", str(tmp_path / "nothing"), "--cache", str(tmp_path)]
    assert learn.main(["--scenario", "airline", *where]) == 2
    assert "airline_tweets/data.jsonl.gz is not there: give the folder" in capsys.readouterr().err


def test_options_are_chosen_on_training_rows_alone() -> None:
    [stream] = SCENARIOS["banking77"].build(rows_of(domains=7, times=4), 1)
    inner = validation(stream)
    train = {row.text for row in stream.train}
    tested = {row.text for group in inner.groups for row in group.rows}
    assert tested | {row.text for row in inner.train} == train
    assert not tested & {row.text for row in inner.train}
    assert len(tested) == 14 * 20 // EVERY  # labels, rows of each

    class Runs:
        """Answers best for one value of each option."""

        asked: ClassVar[list[dict[str, float]]] = []

        def run(
            self, stream: Stream, strategy: str, *, seed: int, options: Mapping[str, float]
        ) -> Any:
            assert (stream.name, strategy, seed) == (inner.name, "derpp", 1)
            self.asked.append(dict(options))
            good = {"head_learning_rate": 1e-2, "replay_rows": 96, "strength": 0.1}
            hits = sum(value == good[name] for name, value in options.items())
            return SimpleNamespace(final=hits / 3)

    chosen = tuned_options(Runs(), stream, "derpp", seed=1)
    assert chosen == {"head_learning_rate": 1e-2, "replay_rows": 96, "strength": 0.1}
    assert len(Runs.asked) == 3 + 2 + 3
    assert set(GRIDS) == set(STRATEGIES)


def test_a_frozen_encoder_answers_gradient_strategies_from_kept_features(tmp_path: Path) -> None:
    kept = KeptFeatures(learn.load_encoder(), folder=tmp_path, module=True)
    texts = ["where is my card", "top up", "the exchange rate is wrong for my transfer"]
    features = kept.encode(texts)
    learner = Learner("lwf", encoder=kept.stand_in, tuning="frozen", consolidate_every=2)
    learner.learn(texts * 2, ["a", "b", "c"] * 2)
    assert kept.computed == 3  # by `encode` alone
    assert not learner.loop.strategy.trains_encoder
    packed = collate(kept.stand_in.tokenize(texts))
    assert torch.equal(kept.module(packed), torch.from_numpy(features))
