"""From examples to releases: the gate's verdict, what is published, what is cleaned up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis as redis_client
from msgspec import structs

from learners.gate import GateRules
from learners.holdout import is_held_out
from learners.localmemory import LocalMemory
from learners.loop import Learner
from learners.registry import Registry
from learners.releasing import PRUNE_EVERY, HeldOutSource, Releaser, Verdict
from learners.replay import ReplayMemory, ReplayRow
from schemas import ModelRelease
from schemas.errors import CheckpointError, ReleaseError
from tests.learners.test_loop import EXAMPLES, TEXTS
from tests.learning import MakeLearner, example, frozen_encoder, make_learner

__all__ = ["frozen_encoder", "make_learner"]

START = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def memory(redis: redis_client.Redis) -> ReplayMemory:
    memory = ReplayMemory(
        redis,
        namespace="test",
        task="intents",
        max_rows=1_000,
        max_bytes=1_000_000,
        held_out_rows=100,
    )
    rows = [
        ReplayRow(e.id, e.user, e.label, e.text or "", held_out=is_held_out(e.id, share=0.4))
        for e in EXAMPLES
    ]
    memory.offer(rows)
    return memory


def releaser(
    learner: Learner,
    memory: HeldOutSource,
    folder: Path,
    *,
    keep: int = 50,
    rules: GateRules | None = None,
) -> Releaser:
    return Releaser(
        learner,
        registry=Registry(str(folder)),
        memory=memory,
        rules=rules or GateRules(),
        rows=100,
        keep=keep,
    )


def test_what_learns_is_released_and_what_is_worse_is_not(
    make_learner: MakeLearner, memory: ReplayMemory, tmp_path: Path
) -> None:
    learner = make_learner(held_out_share=0.4)
    releases = releaser(learner, memory, tmp_path)
    assert not releases.has_news
    learner.learn(EXAMPLES)
    assert releases.has_news
    first = releases.consider(positions={"examples/0": 72}, now=START)
    assert first.release is not None
    assert first.report.challenger > 0.9
    assert not releases.has_news
    # The same texts with wrong labels, many times: what was known is spoiled.
    wrong = {"refund": "pin", "pin": "card", "card": "refund"}
    learner.learn(
        [
            example(f"wrong-{n}-{e.id}", e.text or "", wrong[str(e.label)])
            for n in range(6)
            for e in EXAMPLES
        ]
    )
    second = releases.consider(positions={}, now=START + timedelta(seconds=1))
    assert second.release is None
    assert "fell" in second.report.reason
    assert Registry(str(tmp_path)).latest("intents") == first.release


def test_the_manifest_carries_every_figure_of_the_gate(
    make_learner: MakeLearner, memory: ReplayMemory, tmp_path: Path
) -> None:
    learner = make_learner(held_out_share=0.4)
    releases = releaser(learner, memory, tmp_path, rules=GateRules(min_rows=8))
    held_out = memory.size().held_out_rows
    for n in range(2):
        learner.learn(EXAMPLES[36 * n : 36 * n + 36])
        verdict = releases.consider(positions={}, now=START + timedelta(seconds=n))
        assert verdict.release is not None, verdict.report.reason
        gate = Registry(str(tmp_path)).get("intents", verdict.release.version).gate
        assert gate == verdict.report
        assert gate.calibration is not None
        assert (gate.rows, gate.left_out, gate.calibration.rows) == (held_out, 0, held_out)
        for figures in (gate.oldest, gate.newest, gate.calibration):
            assert figures is not None
            assert (figures.champion is None) == (n == 0)
            assert figures.rows in (8, held_out)


def test_a_label_that_changed_its_meaning_does_not_hold_candidates_back(
    make_learner: MakeLearner, memory: ReplayMemory, tmp_path: Path
) -> None:
    learner = make_learner(held_out_share=0.4)
    releases = releaser(learner, memory, tmp_path, rules=GateRules(min_rows=10))

    def learn_again(rounds: range, weather: str) -> Verdict:
        for n in rounds:
            rows = [(e.text or "", str(e.label)) for e in EXAMPLES if e.label != weather]
            rows += [(f"will it rain in the mountains at {hour}", weather) for hour in range(24)]
            learner.learn([example(f"{n}-{i}", *row) for i, row in enumerate(rows)])
        return releases.consider(positions={}, now=START + timedelta(seconds=rounds.start))

    assert learn_again(range(3), "weather").release is not None
    verdict = learn_again(range(3, 5), "refund")  # what was weather is said to be refund
    assert verdict.release is not None, verdict.report.reason
    refunds = sum(row.label == "refund" for row in memory.held_out(100))
    assert verdict.report.left_out == refunds > 0
    assert learn_again(range(5, 6), "refund").report.left_out == 0, "the champion knows it now"


def test_old_releases_are_removed_as_new_ones_come(
    make_learner: MakeLearner, memory: ReplayMemory, tmp_path: Path
) -> None:
    learner = make_learner(held_out_share=0.4)
    releases = releaser(learner, memory, tmp_path, keep=2)
    versions = []
    for n in range(PRUNE_EVERY):
        learner.learn(EXAMPLES[7 * n : 7 * n + 7])
        verdict = releases.consider(positions={}, now=START + timedelta(seconds=n))
        assert verdict.release is not None, verdict.report.reason
        versions.append(verdict.release.version)
    left = [release.version for release in Registry(str(tmp_path)).releases("intents")]
    assert left == versions[:-3:-1]
    assert releases.resume() is not None  # what stays is whole


def test_after_a_rollback_candidates_are_held_until_they_are_let_pass(
    make_learner: MakeLearner, memory: ReplayMemory, tmp_path: Path
) -> None:
    learner = make_learner(held_out_share=0.4)
    releases = releaser(learner, memory, tmp_path)
    registry = Registry(str(tmp_path))
    for n in range(2):
        learner.learn(EXAMPLES[20 * n : 20 * n + 20])
        assert releases.consider(positions={}, now=START + timedelta(seconds=n)).release
    first = registry.releases("intents")[-1]
    back = registry.rollback("intents", first.version, START + timedelta(seconds=5))
    learner.learn(EXAMPLES[40:60])
    held = releases.consider(positions={}, now=START + timedelta(seconds=6))
    assert held.release is None
    assert "held" in held.report.reason
    assert "releases resume intents" in held.report.reason
    assert registry.latest("intents") == back
    with pytest.raises(ReleaseError, match="another writer"):
        registry._publish(first)
    again = registry.resume("intents", START + timedelta(seconds=7))
    assert again.blobs == first.blobs
    with pytest.raises(ReleaseError, match="nothing is held"):
        registry.resume("intents", START + timedelta(seconds=8))
    learner.learn(EXAMPLES[60:])
    passed = releases.consider(positions={}, now=START + timedelta(seconds=9))
    assert passed.release is not None
    assert passed.release.parent == again.version


def test_idle_time_makes_a_candidate_of_each_thing_it_does_once(
    make_learner: MakeLearner, memory: ReplayMemory, tmp_path: Path
) -> None:
    learner = make_learner(held_out_share=0.4)
    releases = releaser(learner, memory, tmp_path)
    assert not releases.rest()  # nothing was learned: nothing to solve
    learner.learn(EXAMPLES)
    releases.consider(positions={}, now=START)
    made = 0
    while releases.rest():  # solved; perhaps at another strength; with the held-out rows too
        assert releases.has_news
        made += 1
        verdict = releases.consider(positions={}, now=START + timedelta(seconds=made))
        assert verdict.release is not None
    assert made in (2, 3)
    assert not releases.has_news


def test_a_checkpoint_of_another_strategy_is_refused_in_words(make_learner: MakeLearner) -> None:
    state = make_learner("two-speed").state()
    with pytest.raises(CheckpointError, match="strategy 'two-speed', the settings say 'er'"):
        make_learner("er").restore(state)
    with pytest.raises(CheckpointError, match="kind 'classify', the settings say 'multilabel'"):
        make_learner(kind="multilabel").restore(state)


def test_what_is_forgotten_little_by_little_is_held_against_the_best_so_far(
    make_learner: MakeLearner, memory: ReplayMemory, tmp_path: Path
) -> None:
    # Given a good release, and rules by which a candidate may lose much beside the one before
    learner = make_learner(held_out_share=0.4)
    rules = GateRules(margin=0.1, label_loss=1.0, slice_loss=1.0, calibration_loss=1.0)
    releases = releaser(learner, memory, tmp_path, rules=rules)
    learner.learn(EXAMPLES)
    good = releases.consider(positions={}, now=START).release
    assert good is not None
    assert good.gate.best is None

    # When one wording after the other is taught wrong, until a candidate is refused
    wrong = {"refund": "pin", "pin": "card", "card": "refund"}
    verdicts: list[Verdict] = []
    while not verdicts or verdicts[-1].release is not None:
        step = len(verdicts)
        label = list(TEXTS)[step % 3]
        text = TEXTS[label][step // 3]
        rows = [(f"w-{step}-{n}", f"{text} {n % 8}", wrong[label]) for n in range(48)]
        learner.learn([example(*row) for row in rows])
        verdicts.append(releases.consider(positions={}, now=START + timedelta(seconds=step + 1)))

    # Then each passed beside the one before, and the last does not beside the good one
    assert len(verdicts) > 3
    refused = verdicts[-1].report
    assert refused.reason.startswith(f"beside {good.version}, the best release so far: agreement")
    assert refused.champion is not None
    assert refused.best_score == 1.0
    assert refused.challenger > refused.champion - 0.2
    assert {verdict.report.best for verdict in verdicts} == {good.version}
    assert releases.best is not None
    assert releases.best.release == good

    # And whoever goes on after a restart knows the good one, unless it is gone
    registry = Registry(str(tmp_path))
    again = releaser(learner, memory, tmp_path, rules=rules)
    assert again.resume() == verdicts[-2].release
    assert again.best is not None
    assert again.best.release == good
    assert again.consider(positions={}, now=START + timedelta(seconds=60)).report == refused
    registry.prune("intents", 1, spared=[good.version])
    assert [one.version for one in registry.releases("intents")][1:] == [good.version]
    assert again.resume() is not None  # every blob of it is there
    registry.prune("intents", 1)
    alone = releaser(learner, memory, tmp_path, rules=rules)
    assert alone.resume() == verdicts[-2].release
    assert alone.best is alone.champion


def test_what_was_gone_back_to_is_the_best_so_far(
    make_learner: MakeLearner, memory: ReplayMemory, tmp_path: Path
) -> None:
    learner = make_learner(held_out_share=0.4)
    registry = Registry(str(tmp_path))
    learner.learn(EXAMPLES)
    first = releaser(learner, memory, tmp_path).consider(positions={}, now=START).release
    assert first is not None

    def publish(second: int) -> ModelRelease:  # as one that lost a little
        kept = ("task", "kind", "strategy", "backbone", "blobs", "positions", "learned", "labels")
        return registry.publish(
            **{name: getattr(first, name) for name in kept},
            gate=structs.replace(first.gate, best=first.version, best_score=0.9),
            time=START + timedelta(seconds=second),
        )

    worse, latest = publish(1), publish(2)
    follower = releaser(learner, memory, tmp_path)
    assert follower.resume() == latest
    assert follower.best is not None
    assert follower.best.release == first
    back = registry.rollback("intents", worse.version, START + timedelta(seconds=4))
    assert (back.gate.best, back.gate.best_score) == (None, None)
    for release in (back, registry.resume("intents", START + timedelta(seconds=5))):
        again = releaser(learner, memory, tmp_path)
        assert again.resume() is not None
        assert again.best is again.champion, release.version


def test_labels_that_newer_ones_take_texts_from_do_not_stop_releases(
    make_learner: MakeLearner, tmp_path: Path
) -> None:
    # Given two labels, well known, of whose texts three others are said from some moment on, and
    # rules by which each candidate may lose so much of the former
    learner, memory = make_learner(held_out_share=0.4), LocalMemory()
    rules = GateRules(margin=0.2, label_loss=1.0, slice_loss=0.05, calibration_loss=0.3)
    releases = releaser(learner, memory, tmp_path, rules=rules)
    coarse = {"refund": "service", "pin": "service", "card": "trouble"}
    verdicts = []
    for start in range(0, 4 * len(EXAMPLES), 8):
        fine = start >= 2 * len(EXAMPLES)
        rows = []
        for n in range(start, start + 8):
            one = EXAMPLES[n % len(EXAMPLES)]
            label = str(one.label) if fine else coarse[str(one.label)]
            rows.append(example(f"{n}", one.text or "", label))
        learner.learn(rows)
        held_out = [is_held_out(row.id, share=0.4) for row in rows]
        memory.offer(
            [
                ReplayRow(row.id, row.user, row.label, row.text or "", held_out=held)
                for row, held in zip(rows, held_out, strict=True)
            ]
        )
        # When candidates come as they learn, little by little
        verdicts.append(releases.consider(positions={}, now=START + timedelta(seconds=start)))
    # Then what came to be known is released, and the best is none of before
    assert [verdict.release is not None for verdict in verdicts[-8:]] == [True] * 8
    assert releases.best is not None
    assert releases.best.release.labels == 5


def test_a_release_that_is_no_worse_becomes_the_best_so_far(
    make_learner: MakeLearner, memory: ReplayMemory, tmp_path: Path
) -> None:
    learner = make_learner(held_out_share=0.4)
    releases = releaser(learner, memory, tmp_path)
    for n in range(4):
        learner.learn(EXAMPLES[18 * n : 18 * n + 18])
        verdict = releases.consider(positions={}, now=START + timedelta(seconds=n))
        assert verdict.release is not None, verdict.report.reason
        better = verdict.report.champion is None or (
            verdict.report.challenger >= verdict.report.champion
        )
        assert releases.best is not None
        assert (releases.best is releases.champion) == better
    assert releases.best is releases.champion
