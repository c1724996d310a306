"""The slow half loses nothing of what is learned meanwhile, and nothing when it is dropped."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from learners.consolidation import (
    BLEND_PULL,
    BLENDS,
    USUAL_BLEND,
    Blend,
    ConsolidationConfig,
)
from learners.gate import GateRules
from learners.heads.additive import AdditiveHead
from learners.localmemory import LocalMemory
from learners.loop import Learner
from learners.rehearsal import ReplayRow
from learners.slow import CATCH_UP_ROWS, DroppedError, SlowHalf, shown_rows, summed_rows
from learners.strategies.two_speed import TwoSpeed
from learners.tuning import Tuning, TuningConfig
from schemas import Example
from tests.learning import example
from tests.small import small_learner

CONFIG = ConsolidationConfig(epochs=1, batch_rows=8, learning_rate=3e-4)
WORDS = ("red cup", "blue mug", "old boat", "new car")


def row(one: Example, *, held_out: bool = False) -> ReplayRow:
    return ReplayRow(
        id=one.id,
        user=one.user,
        label=one.label,
        text=one.text or "",
        revision=one.revision,
        held_out=held_out,
    )


def stream(first: int, count: int) -> list[Example]:
    return [
        example(f"e{n}", f"the {WORDS[n % 4]} {n}", WORDS[n % 4])
        for n in range(first, first + count)
    ]


class Meanwhile(LocalMemory):
    """A memory whose reading lets something happen in the middle of a run."""

    def __init__(self) -> None:
        super().__init__()
        self.happens: list[Sequence[Example]] = []
        self.learner: Learner | None = None

    def held_out(self, rows: int) -> list[ReplayRow]:
        for batch in self.happens:
            assert self.learner is not None
            self.learner.learn(batch)
        self.happens = []
        return super().held_out(rows)


def begin(learner: Learner, memory: LocalMemory) -> SlowHalf:
    return SlowHalf(learner, memory, config=CONFIG, rules=GateRules(), held_out_rows=50)


def sums(learner: Learner) -> dict[str, np.ndarray]:
    strategy = learner.strategy
    assert isinstance(strategy, TwoSpeed)
    arrays, _ = strategy.additive_head.sums.state()
    labels = strategy.head.labels
    order = np.argsort(np.array(labels))
    by_label = {name: np.asarray(arrays[name])[order] for name in ("sums", "counts")}
    return {**by_label, "gram": np.asarray(arrays["gram"]), "labels": np.array(labels)[order]}


def made_anew(learner: Learner, rows: Sequence[tuple[str, str]]) -> dict[str, np.ndarray]:
    """Sums of a fresh head over rows, one text at a time as the fast half might get them."""
    strategy = learner.strategy
    assert isinstance(strategy, TwoSpeed)
    head = AdditiveHead(
        features=strategy.encoder.width,
        solver="class-balanced",
        width=64,
        seed=7,
        space_id=strategy.encoder.space_id,
    )
    features = strategy.encoder.encode([text for text, _ in rows])
    head.add(features, [(head.row_of(label),) for _, label in rows])
    arrays, _ = head.sums.state()
    order = np.argsort(np.array(head.labels))
    by_label = {name: np.asarray(arrays[name])[order] for name in ("sums", "counts")}
    return {
        **by_label,
        "gram": np.asarray(arrays["gram"]),
        "labels": np.array(head.labels)[order],
    }


def assert_like(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    """Equal but for the encoder's noise, which may move a code by one step."""
    assert ours["labels"].tolist() == theirs["labels"].tolist()
    np.testing.assert_array_equal(ours["counts"], theirs["counts"])
    assert np.abs(ours["sums"] - theirs["sums"]).max() <= 2
    assert np.abs(ours["gram"] - theirs["gram"]).max() <= 1e-4 * np.abs(theirs["gram"]).max() + 32


@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_whatever_comes_meanwhile_is_in_the_new_sums_exactly_once(
    data: st.DataObject,
) -> None:
    # Given a learner behind its memory by some rows, corrections and new rows on their way
    learner, memory = small_learner("two-speed", held_out_share=0.0), Meanwhile()
    memory.learner = learner
    rows = stream(0, 24)
    ahead = data.draw(st.integers(0, 6), label="rows that memory has before the learner")
    learner.learn(rows[: 24 - ahead])
    corrected = data.draw(
        st.lists(st.integers(0, 23), unique=True, max_size=4), label="rows that are corrected"
    )
    seen_by_memory = data.draw(st.booleans(), label="whether memory has the corrections")
    corrections = [
        example(f"e{n}", rows[n].text or "", "other", revision=2, previous=rows[n].label)
        for n in corrected
    ]
    memory.offer([row(one) for one in rows])
    if seen_by_memory:
        memory.offer([row(one) for one in corrections])
    late = rows[24 - ahead :] if ahead else []
    memory.happens = [batch for batch in (late, corrections, stream(24, 5)) if batch]

    # When a consolidation runs meanwhile, and repeats come after it
    work = begin(learner, memory)
    work.run()
    before = learner.strategy
    report = work.finish()
    assert report.accepted
    assert learner.strategy is not before
    learner.learn([*late, *corrections])

    # Then every row is in the new sums once, with its last label
    now = {one.id: (one.text or "", str(one.label)) for one in [*rows, *stream(24, 5)]}
    now |= {one.id: (one.text or "", "other") for one in corrections}
    assert_like(sums(learner), made_anew(learner, list(now.values())))


def test_rows_that_memory_has_before_the_learner_are_not_learned_twice() -> None:
    learner, memory = small_learner("two-speed", held_out_share=0.0), LocalMemory()
    rows = stream(0, 20)
    learner.learn(rows[:16])
    memory.offer([row(one) for one in rows])
    work = begin(learner, memory)
    work.run()
    assert work.finish().accepted
    assert learner.learn(rows[16:]).repeated == 4
    strategy = learner.strategy
    assert isinstance(strategy, TwoSpeed)
    assert strategy.additive_head.counts.sum() == 20


def test_what_the_gate_refuses_leaves_the_learner_as_it_was() -> None:
    learner, memory = small_learner("two-speed", held_out_share=0.0), LocalMemory()
    learner.learn(stream(0, 24))
    held_out = [row(one, held_out=True) for one in stream(100, 30)]
    memory.offer([row(one) for one in stream(0, 24)] + held_out)
    strict = GateRules(margin=-2.0)  # more must be gained than there is
    work = SlowHalf(learner, memory, config=CONFIG, rules=strict, held_out_rows=50)
    strategy, space = learner.strategy, learner.strategy.encoder.space_id
    before = learner.state()
    work.run()
    report = work.finish()
    assert not report.accepted, report
    assert learner.strategy is strategy
    assert learner.strategy.encoder.space_id == space
    after = learner.state()
    assert all(
        np.array_equal(before.arrays[name].numpy(), after.arrays[name].numpy())
        for name in before.arrays
    )
    assert learner.listeners == []


def test_what_cannot_be_judged_is_not_taken_on_a_live_stream() -> None:
    learner, memory = small_learner("two-speed", held_out_share=0.0), LocalMemory()
    learner.learn(stream(0, 24))
    few = [row(one, held_out=True) for one in stream(100, 5)]
    memory.offer([row(one) for one in stream(0, 24)] + few)
    strategy = learner.strategy
    for unjudged in (False, True):
        work = SlowHalf(
            learner,
            memory,
            config=CONFIG,
            rules=GateRules(unjudged=unjudged),
            held_out_rows=50,
        )
        work.run()
        report = work.finish()
        assert report.accepted == unjudged
        assert (learner.strategy is strategy) == (not unjudged)
        said = "accepted" if unjudged else "refused"
        assert report.reason.startswith(f"{said} without a judgement: 5 held-out rows, 20 are")


@pytest.mark.parametrize("method", ["full", "lora", "prefix"])
def test_whatever_of_the_encoder_was_trained_is_in_the_learner_s_state(method: Tuning) -> None:
    learner, memory = small_learner("two-speed", held_out_share=0.0), LocalMemory()
    learner.learn(stream(0, 16))
    memory.offer([row(one) for one in stream(0, 16)])
    config = replace(CONFIG, tuning=TuningConfig(method=method, rank=2, virtual_tokens=2))
    work = SlowHalf(learner, memory, config=config, rules=GateRules(), held_out_rows=50)
    work.run()
    assert work.finish().accepted
    heir = small_learner("two-speed", held_out_share=0.0)
    heir.restore(learner.state())
    texts = ["the red cup", "a new car"]
    np.testing.assert_array_equal(
        heir.strategy.encoder.encode(texts), learner.strategy.encoder.encode(texts)
    )
    assert heir.strategy.encoder.space_id == learner.strategy.encoder.space_id
    for one in (learner, heir):
        one.learn(stream(16, 4))
    assert torch.equal(heir.state().arrays["head.sums"], learner.state().arrays["head.sums"])


def test_a_run_that_is_stopped_ends_and_leaves_the_learner_as_it_was() -> None:
    learner, memory = small_learner("two-speed", held_out_share=0.0), LocalMemory()
    learner.learn(stream(0, 24))
    memory.offer([row(one) for one in stream(0, 24)])
    strategy, work = learner.strategy, begin(learner, memory)
    with pytest.raises(DroppedError, match="stopped"):
        work.run(lambda done, steps: work.stop())
    work.close()
    assert work.done == 1
    assert learner.strategy is strategy
    assert learner.listeners == []


def test_a_label_that_changes_meanwhile_drops_the_run() -> None:
    learner, memory = small_learner("two-speed", held_out_share=0.0), LocalMemory()
    learner.learn(stream(0, 24))
    memory.offer([row(one) for one in stream(0, 24)])
    strategy, work = learner.strategy, begin(learner, memory)
    assert isinstance(strategy, TwoSpeed)
    work.run()
    strategy._plugin.renew(0, strategy.encoder.encode([str(stream(20, 1)[0].text)]))
    with pytest.raises(DroppedError, match="a label changed its meaning"):
        work.finish()
    assert learner.strategy is strategy


def test_the_fast_half_learns_in_its_own_thread_while_the_slow_half_works() -> None:
    learner, memory = small_learner("two-speed", held_out_share=0.0), LocalMemory()
    learner.learn(stream(0, 40))
    memory.offer([row(one) for one in stream(0, 40)])
    work = begin(learner, memory)
    thread = threading.Thread(target=work.run)
    thread.start()
    learned = 40
    while thread.is_alive() and learned < 400:
        learner.learn(stream(learned, 4))
        learned += 4
    thread.join()
    assert work.finish().accepted
    strategy = learner.strategy
    assert isinstance(strategy, TwoSpeed)
    assert learned > 40
    assert strategy.additive_head.counts.sum() == learned


class Outrun(SlowHalf):
    """A slow half that gets more to catch up with than it works off."""

    rounds = 0

    def _catch_up(self) -> None:
        super()._catch_up()
        self.rounds += 1
        assert self.rounds < 4, "it never ends"
        self.learner.learn(stream(1_000 * self.rounds, CATCH_UP_ROWS + 4))


def test_a_learner_that_is_faster_than_the_slow_half_does_not_keep_it_for_ever() -> None:
    learner, memory = small_learner("two-speed", held_out_share=0.0), Meanwhile()
    memory.learner = learner
    learner.learn(stream(0, 16))
    memory.offer([row(one) for one in stream(0, 16)])
    memory.happens = [stream(500, CATCH_UP_ROWS + 8)]
    work = Outrun(learner, memory, config=CONFIG, rules=GateRules(), held_out_rows=50)
    work.run()
    assert work.finish().accepted
    strategy = learner.strategy
    assert isinstance(strategy, TwoSpeed)
    rows_given = 16 + CATCH_UP_ROWS + 8 + 2 * (CATCH_UP_ROWS + 4)
    assert strategy.additive_head.counts.sum() == rows_given


def test_only_the_newest_rows_of_a_changed_label_are_taken() -> None:
    def rows() -> Iterator[ReplayRow]:
        for n in range(8):
            label = "b" if n % 2 else "a"
            yield ReplayRow(id=f"{n}", user="u", label=label, text="t", held_out=n == 7)

    assert [one.id for one in summed_rows(list(rows()), {"a": 1, "c": 5})] == ["1", "3", "5", "6"]
    assert [one.id for one in summed_rows(list(rows()), {})] == [str(n) for n in range(7)]


def test_held_out_rows_of_a_former_meaning_decide_and_calibrate_nothing() -> None:
    rows = [
        ReplayRow(f"{n}", "u", "changed" if n % 2 else "same", f"text {n}", held_out=True)
        for n in range(20)
    ]
    shown = shown_rows(rows, {"changed": 40}, share=0.1)  # about 4 were held out since
    assert [one.id for one in shown if one.label == "changed"] == ["13", "15", "17", "19"]
    assert [one.id for one in shown if one.label == "same"] == [f"{n}" for n in range(0, 20, 2)]
    assert shown_rows(rows, {}, share=0.1) == rows


def test_a_row_that_memory_gave_up_is_not_taken_out_of_sums_that_never_had_it() -> None:
    # Given a consolidation over a memory that kept a third of what was learned
    learner, memory = small_learner("two-speed", held_out_share=0.0), LocalMemory()
    rows = stream(0, 18)
    learner.learn(rows)
    memory.offer([row(one) for one in rows[:6]])
    work = begin(learner, memory)
    work.run()
    assert work.finish().accepted

    # When a row that is in the new sums and one that is not are corrected
    learner.learn(
        [
            example(rows[n].id, rows[n].text or "", "other", revision=2, previous=rows[n].label)
            for n in (0, 17)
        ]
    )

    # Then the one is taken back, and both are added
    held = [(one.text or "", str(one.label)) for one in rows[1:6]]
    held += [(rows[n].text or "", "other") for n in (0, 17)]
    strategy = learner.strategy
    assert isinstance(strategy, TwoSpeed)
    counts = dict(zip(strategy.head.labels, strategy.additive_head.counts.tolist(), strict=True))
    expected = Counter(label for _, label in held)
    assert {label: n for label, n in counts.items() if n} == dict(expected)
    assert strategy.additive_head.rows == len(held)


@pytest.mark.parametrize(("rate", "every"), [(3e-3, 3), (3e-4, 2), (1e-2, 3)])
def test_held_out_rows_say_how_far_the_encoder_goes_and_few_of_them_less(
    rate: float, every: int
) -> None:
    def losses(blend: Blend) -> NDArray[np.float64]:
        learner, memory = small_learner("two-speed", held_out_share=0.0), LocalMemory()
        learner.learn(stream(0, 32))
        held_out = [row(one, held_out=True) for one in stream(100, 150)]
        wrong = [replace(one, label=WORDS[n % 4]) for n, one in enumerate(held_out[::every])]
        memory.offer([row(one) for one in stream(0, 32)] + held_out[1::every] + wrong)
        config = replace(CONFIG, blend=blend, learning_rate=rate)
        rules = GateRules(margin=2.0, label_loss=2.0, slice_loss=2.0, calibration_loss=2.0)
        work = SlowHalf(learner, memory, config=config, rules=rules, held_out_rows=200)
        work.run()
        assert work.finish().accepted
        assert isinstance(learner.strategy, TwoSpeed)
        found = learner.strategy.additive_head.losses()
        assert found is not None
        return found

    found = {blend: losses(blend) for blend in BLENDS}
    assert len({float(one.sum()) for one in found.values()}) == len(BLENDS)
    taken = min(BLENDS, key=lambda b: found[b].sum() + BLEND_PULL * (b - USUAL_BLEND) ** 2)
    np.testing.assert_array_equal(losses("auto"), found[taken])


def test_of_a_large_memory_only_some_rows_tell_but_all_are_summed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("learners.slow.TRIED_ROWS", 10)
    learner, memory = small_learner("two-speed", held_out_share=0.0), LocalMemory()
    learner.learn(stream(0, 32))
    memory.offer([row(one) for one in stream(0, 32)])
    memory.offer([row(one, held_out=True) for one in stream(100, 40)])
    work = begin(learner, memory)
    work.run()
    assert work.finish().accepted
    assert_like(
        sums(learner),
        made_anew(learner, [(one.text or "", str(one.label)) for one in stream(0, 32)]),
    )
