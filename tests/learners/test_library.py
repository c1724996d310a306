"""The learner as a library: it drives the learn role's own object, in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import learners
from learners import loop
from learners.consolidation import ConsolidationConfig
from learners.library import Learner
from learners.localmemory import LocalMemory
from learners.model import Encoder
from learners.rehearsal import POLICIES, Policy, ReplayLaws, ReplayRow
from learners.released import decide_by
from learners.strategies.summed import key_of
from learners.strategies.two_speed import TwoSpeed
from schemas.errors import CheckpointError
from tests.learning import frozen_encoder

__all__ = ["frozen_encoder"]

TEXTS = [f"{what} number {n}" for n in range(12) for what in ("my card is lost", "show my balance")]
LABELS = ["card", "balance"] * 12
THINGS = ("cup", "mug", "pot", "pan", "jar", "lid", "tin", "jug")


def new_encoder() -> Encoder:
    return Encoder.load(max_tokens=32, device="cpu", precision="fp32")


def small(encoder: Encoder, strategy: str = "two-speed", **more: Any) -> Learner:
    options: dict[str, Any] = {"projection_width": 64, "replay_rows": 4, "seed": 3, **more}
    return Learner(strategy, encoder=encoder, held_out_share=0.1, **options)


def test_the_package_exports_the_library_lazily() -> None:
    assert learners.Learner is Learner
    for name in learners.__all__:
        assert getattr(learners, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Lerner'"):
        learners.__getattr__("Lerner")


def test_what_is_learned_is_answered_and_kept(frozen_encoder: Encoder) -> None:
    learner = small(frozen_encoder)
    done: list[tuple[int, int]] = []
    report = learner.learn(TEXTS, LABELS, progress=lambda now, of: done.append((now, of)))
    assert isinstance(learner.loop, loop.Learner)
    assert (report.rows + report.held_out, report.new_labels) == (24, 2)
    assert done == [(24, 24)]
    assert learner.labels == ["card", "balance"]
    size = learner.memory.size()
    assert (size.rows, size.held_out_rows) == (report.rows, report.held_out)
    assert [d.label for d in learner.predict(["the card was lost", "balance please"])] == LABELS[:2]


def test_ids_make_repeats_known_and_their_absence_does_not(frozen_encoder: Encoder) -> None:
    learner = small(frozen_encoder)
    ids = [f"id{n}" for n in range(24)]
    learner.learn(TEXTS, LABELS, ids=ids)
    assert learner.learn(TEXTS, LABELS, ids=ids).repeated == 24
    assert learner.learn(TEXTS, LABELS).repeated == 0


@pytest.mark.parametrize("strategy", ["two-speed", "er", "er-ace", "derpp"])
def test_the_next_step_after_a_load_is_the_same_to_the_bit(strategy: str, tmp_path: Path) -> None:
    learner = small(new_encoder(), strategy)
    learner.learn(TEXTS[:16], LABELS[:16], users=["u"] * 16)
    learner.save(tmp_path)

    again = Learner.load(tmp_path)

    for one in (learner, again):
        one.learn(TEXTS[16:], LABELS[16:])
        one.predict(TEXTS[:2])
    mine, theirs = learner.loop.state(), again.loop.state()
    assert mine.meta == theirs.meta
    assert mine.arrays.keys() == theirs.arrays.keys()
    for name, array in mine.arrays.items():
        assert array.numpy().tobytes() == theirs.arrays[name].numpy().tobytes(), name
    assert learner.memory.state() == again.memory.state()


def test_a_saved_learner_survives_a_damaged_newer_save(
    frozen_encoder: Encoder, tmp_path: Path
) -> None:
    learner = small(frozen_encoder)
    learner.learn(TEXTS[:8], LABELS[:8])
    learner.save(tmp_path)
    learner.learn(TEXTS[8:], LABELS[8:])
    newest = learner.save(tmp_path)
    newest.write_bytes(newest.read_bytes()[:-9])
    assert Learner.load(tmp_path, encoder=frozen_encoder).loop.ledger.total == 8


def test_an_empty_folder_holds_no_learner(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no learner was saved in"):
        Learner.load(tmp_path / "nothing")


def test_a_forgotten_user_leaves_memory_and_sums(frozen_encoder: Encoder) -> None:
    both, without = small(frozen_encoder), small(frozen_encoder)
    ids = [f"id{n}" for n in range(24)]
    users = ["bob" if n % 3 == 2 else "ann" for n in range(24)]
    both.learn(TEXTS, LABELS, ids=ids, users=users)
    kept = [n for n in range(24) if users[n] == "ann"]
    without.learn(
        [TEXTS[n] for n in kept],
        [LABELS[n] for n in kept],
        ids=[ids[n] for n in kept],
        users=["ann"] * len(kept),
    )

    forgotten = both.forget("bob")

    assert forgotten.erased == 8
    assert forgotten.subtracted == 8 - sum(
        row.held_out
        for row in map(both._row, both._examples(TEXTS, LABELS, ids=ids, users=users))
        if row.user == "bob"
    )
    assert both.memory.ids() == without.memory.ids()
    mine, theirs = both.loop.state().arrays, without.loop.state().arrays
    np.testing.assert_array_equal(mine["head.counts"], theirs["head.counts"])
    assert np.abs(mine["head.raw_sums"].numpy() - theirs["head.raw_sums"].numpy()).max() <= 8
    assert np.abs(mine["head.sums"].numpy() - theirs["head.sums"].numpy()).max() <= 1
    assert both.forget("bob") == (0, 0)


def test_a_label_whose_meaning_changed_gives_up_only_its_newest_rows(
    frozen_encoder: Encoder,
) -> None:
    learner = small(frozen_encoder)
    learner.loop.held_out_share = 0.0
    learner.learn(TEXTS[:12], ["same"] * 12, users=["old"] * 6 + ["new"] * 6)
    strategy = learner.loop.strategy
    assert isinstance(strategy, TwoSpeed)
    newest = [key_of(row.id) for row in list(learner.memory.rows())[8:12]]
    strategy._plugin.renew(0, learner.encoder.read(TEXTS[8:12]), keys=newest)
    assert learner.forget("old") == (6, 0)
    assert learner.forget("new") == (6, 4)


@pytest.mark.parametrize(
    ("texts", "labels", "more", "message"),
    [
        (["a", " "], ["x", "y"], {}, r"texts\[1\]: ' ' is empty, text was expected"),
        ([3], ["x"], {}, r"texts\[0\]: 3 is int, text was expected"),
        (["a" * 20_001], ["x"], {}, r"20,001 characters, at most 20,000"),
        (["a"], [""], {}, r"labels\[0\]: label: '' is empty"),
        (["a"], [None], {}, r"labels\[0\]: label: None is NoneType"),
        (["a", "b"], ["x"], {}, "labels has 1 rows: 2 were expected, one a text"),
        ("ab", ["x", "y"], {}, "texts is the text 'ab': a list was expected"),
        (["a"], ["x"], {"ids": [""]}, r"ids\[0\]: '', 1 to 128 characters"),
        (["a"], ["x"], {"users": [7]}, r"users\[0\]: 7, 1 to 128 characters"),
    ],
)
def test_bad_rows_are_refused_whole(
    frozen_encoder: Encoder,
    texts: list[str],
    labels: list[str],
    more: dict[str, Any],
    message: str,
) -> None:
    learner = small(frozen_encoder)
    with pytest.raises(ValueError, match=message):
        learner.learn(texts, labels, **more)
    assert learner.loop.ledger.total == 0


def test_bad_arguments_are_refused(frozen_encoder: Encoder) -> None:
    with pytest.raises(ValueError, match="strategy 'fast': one of two-speed, er"):
        Learner("fast", encoder=frozen_encoder)
    with pytest.raises(ValueError, match="task kind 'regress': one of classify"):
        Learner(kind="regress", encoder=frozen_encoder)
    with pytest.raises(ValueError, match=r"held_out_share 1.0: 0 to below 1"):
        Learner(encoder=frozen_encoder, held_out_share=1.0)
    with pytest.raises(ValueError, match="option 'lr': one of consolidate_every"):
        Learner(encoder=frozen_encoder, lr=1.0)
    with pytest.raises(ValueError, match="predict before learn: 0 labels"):
        small(frozen_encoder).predict(["a"])


@pytest.mark.parametrize("policy", POLICIES)
def test_a_memory_taken_up_again_goes_on_the_same(policy: Policy) -> None:
    def rows(start: int, end: int) -> list[ReplayRow]:
        return [
            ReplayRow(str(n), f"u{n % 3}", f"c{n * n % 5}", "t", held_out=n % 11 == 0)
            for n in range(start, end)
        ]

    memory = LocalMemory(laws=ReplayLaws(policy, recent_rows=5), max_rows=20, held_out_rows=3)
    memory.offer(rows(0, 60))
    memory.tell([str(n) for n in range(60)], [n / 7 for n in range(60)])
    memory.erase_user("u1")
    again = LocalMemory.restore(memory.state())
    for one in (memory, again):
        one.offer(rows(60, 120))
    draws = [n / 50 for n in range(50)]
    assert memory.sample(50, draws=draws) == again.sample(50, draws=draws)
    assert memory.held_out(9) == again.held_out(9)
    assert memory.erase_user("u2") == again.erase_user("u2")
    assert memory.state() == again.state()


def test_consolidation_is_judged_on_held_out_rows_saved_and_taken_up(tmp_path: Path) -> None:
    rows = [
        (f"{opening} {thing} {n}", label)
        for opening in ("the", "one", "that", "some")
        for thing, label in (("red cup", "first"), ("blue cup", "first"), ("red mug", "second"))
        for n in range(4)
    ]
    learner = Learner(
        encoder=Encoder.load(max_tokens=16, device="cpu", precision="fp32"),
        held_out_share=0.4,
        projection_width=128,
    )
    learner.learn([text for text, _ in rows], [label for _, label in rows])
    before, steps = learner.encoder.space_id, []
    report = learner.consolidate(
        ConsolidationConfig(epochs=2, batch_rows=8),
        progress=lambda done, total: steps.append((done, total)),
    )
    assert report.accepted, report.reason
    assert report.rows == learner.memory.size().held_out_rows > 0
    assert steps[-1] == (len(steps), len(steps))
    assert learner.encoder.space_id != before
    assert learner.labels == ["first", "second"]
    answers = [decision.label for decision in learner.predict([text for text, _ in rows])]
    assert answers == [label for _, label in rows]
    learner.save(tmp_path)
    again = Learner.load(tmp_path)
    assert again.encoder.space_id == learner.encoder.space_id
    for one in (learner, again):
        one.learn(["a green mug"], ["second"])
    assert again.predict(["a green mug"]) == learner.predict(["a green mug"])


def test_only_a_frozen_encoder_is_consolidated() -> None:
    with pytest.raises(ValueError, match="strategy 'naive' trains its encoder anyway"):
        Learner("naive", encoder=Encoder.load(max_tokens=16, device="cpu")).consolidate()
    with pytest.raises(ValueError, match="0 texts"):
        Learner(
            encoder=Encoder.load(max_tokens=16, device="cpu"), projection_width=64
        ).consolidate()


def test_rest_does_all_that_is_left_once_and_consolidation_is_judged_without_it(
    tmp_path: Path,
) -> None:
    learner = Learner(
        encoder=Encoder.load(max_tokens=16, device="cpu", precision="fp32"),
        held_out_share=0.4,
        projection_width=128,
    )
    assert not learner.rest()  # nothing was learned
    texts = [f"the {colour} {thing}" for colour in ("red", "blue", "old") for thing in THINGS]
    learner.learn(texts, [text.split()[2] for text in texts])
    before = learner.predict(texts)
    assert learner.rest()
    assert not learner.rest()
    assert learner.predict(texts) != before
    learner.save(tmp_path)
    assert Learner.load(tmp_path, encoder=learner.encoder).predict(texts) == learner.predict(texts)
    held_out = learner.memory.held_out(100)
    strategy = learner.loop.strategy
    assert isinstance(strategy, TwoSpeed)
    features = learner.encoder.encode([row.text for row in held_out])
    judged = decide_by(strategy.judged_head, features, kind=learner.loop.kind, top=1)
    agreement = np.mean([a.label == row.label for a, row in zip(judged, held_out, strict=True)])
    report = learner.consolidate(ConsolidationConfig(epochs=1, batch_rows=8))
    assert report.champion == pytest.approx(float(agreement))


def test_the_first_answers_to_many_new_rows_wait_for_a_rest(tmp_path: Path) -> None:
    learner = Learner(
        encoder=Encoder.load(max_tokens=16, device="cpu", precision="fp32"), projection_width=128
    )
    texts = [f"{thing} number {n}" for n in range(320 // len(THINGS)) for thing in THINGS]
    labels = [text.split()[0] for text in texts]
    learner.learn(texts, labels)
    at_once = learner.predict(texts[:8], rest=False)
    rested = learner.predict(texts[:8])
    assert [answer.score for answer in rested] != [answer.score for answer in at_once]
    assert not learner.rest()  # all of it was done
    learner.save(tmp_path)
    again = Learner.load(tmp_path, encoder=learner.encoder)
    for one in (learner, again):
        one.learn(["one more ladder"], ["ladder"])
        one.predict(texts[:1])  # too few new rows for another rest
        assert one.rest()
