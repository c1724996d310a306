"""What is in the sums of `two-speed`, whatever is corrected, given up or erased, and when."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from learners.heads.additive import AdditiveHead
from learners.loop import Learner
from learners.rehearsal import ReplayRow
from learners.strategies.summed import KeyRing, SummedRows, key_of
from learners.strategies.two_speed import TwoSpeed
from tests.learning import example
from tests.small import small_encoder, small_learner

IDS = [f"id{n}" for n in range(8)]
TEXTS = {id_: f"{word} my card" for id_, word in zip(IDS, "abcdefgh", strict=True)}
ENCODER = small_encoder()


def two_speed(learner: Learner) -> TwoSpeed:
    assert isinstance(learner.strategy, TwoSpeed)
    return learner.strategy


def assert_sums_hold(head: AdditiveHead, rows: Mapping[str, str]) -> None:
    """Check that a head's sums are those of rows, id to label, but for the encoder's noise."""
    other = AdditiveHead(
        features=ENCODER.width,
        solver="class-balanced",
        width=64,
        seed=7,
        space_id=ENCODER.space_id,
    )
    for label in head.labels:
        other.row_of(label)
    for id_, label in rows.items():
        other.add(ENCODER.encode([TEXTS[id_]]), [(other.row_of(label),)])
    ours, theirs = head.sums.state()[0], other.sums.state()[0]
    np.testing.assert_array_equal(ours["counts"], theirs["counts"])
    assert head.rows == len(rows)
    assert np.abs(ours["sums"] - theirs["sums"]).max(initial=0) <= 2 * len(IDS)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_correction_takes_back_what_is_in_the_sums_and_nothing_else(data: st.DataObject) -> None:
    # Given a learner, and a memory that may give up any row at any time
    learner = small_learner("two-speed", encoder=ENCODER, held_out_share=0.0)
    said: dict[str, tuple[int, str]] = {}  # id to revision and label, of all that was ever learned
    summed: dict[str, str] = {}  # id to label, of what the sums should hold
    what = st.sampled_from(["learn", "correct", "correct", "consolidate", "forget", "resume"])
    for _ in range(data.draw(st.integers(4, 14))):
        # When rows come, are corrected, given up and erased, in any order
        strategy = two_speed(learner)
        match data.draw(what):
            case "learn":
                fresh = [id_ for id_ in IDS if id_ not in said]
                batch = []
                for id_ in fresh[: data.draw(st.integers(0, 3))]:
                    said[id_] = 1, data.draw(st.sampled_from("xyz"))
                    batch.append(example(id_, TEXTS[id_], said[id_][1]))
                    summed[id_] = said[id_][1]
                learner.learn(batch)
            case "correct" if said:
                batch = []
                for id_ in data.draw(st.lists(st.sampled_from(sorted(said)), max_size=3)):
                    revision, old = said[id_]
                    new = data.draw(st.sampled_from("xyz"))
                    said[id_] = revision + 1, new
                    batch.append(example(id_, TEXTS[id_], new, revision=revision + 1, previous=old))
                    summed[id_] = new
                learner.learn(batch)
            case "consolidate" if summed:
                kept = data.draw(st.sets(st.sampled_from(sorted(summed)), min_size=1))
                summed = {id_: label for id_, label in summed.items() if id_ in kept}
                pairs = [(TEXTS[id_], label) for id_, label in summed.items()]
                learner.strategy = strategy.on_encoder(ENCODER, pairs, [])
                two_speed(learner).summed.made_of(summed)
            case "forget" if summed:
                id_ = data.draw(st.sampled_from(sorted(summed)))
                rows = [ReplayRow(id_, "u", summed.pop(id_), TEXTS[id_])]
                strategy.forget(rows, summed=[row for row in rows if strategy.summed.has(row.id)])
            case "resume":
                state = learner.state()
                learner = small_learner("two-speed", encoder=ENCODER, held_out_share=0.0)
                learner.restore(state)
            case _:
                pass
        # Then the sums are those of the rows that should be there
        assert_sums_hold(two_speed(learner).additive_head, summed)
        assert all(two_speed(learner).summed.has(id_) for id_ in summed)


def test_nothing_of_a_forgotten_row_is_kept_beside_the_sums() -> None:
    # Given a learner that trained on rows and was shown others
    learner = small_learner("two-speed", encoder=ENCODER, held_out_share=0.5)
    labels = ["x", "y"]
    texts = [f"{word} my card" for word in "abcdefghijklmnopqrstuvwxyz"]
    for turn in range(2):  # a label's rows are watched once it can be said
        batch = [example(f"{turn}-{n}", text, labels[n % 2]) for n, text in enumerate(texts)]
        learner.learn(batch)
        two_speed(learner).settle()
    strategy = two_speed(learner)
    rows = [
        ReplayRow(f"{turn}-{n}", "u", labels[n % 2], text)
        for turn in range(2)
        for n, text in enumerate(texts[:13])
    ]
    gone = {key_of(row.id) for row in rows}

    def found(arrays: Mapping[str, object]) -> tuple[int, int]:
        probes, windows = (np.asarray(arrays[f"head.{n}_keys"]) for n in ("probe", "drift"))
        return int(np.isin(probes, list(gone)).sum()), int(np.isin(windows, list(gone)).sum())

    before = found(strategy.state()[0])
    assert min(before) > 3

    # When some are forgotten
    trained = [row for row in rows if not np.isin(key_of(row.id), strategy_probes(strategy))]
    strategy.forget(rows, summed=trained)

    # Then neither the held-out rows nor the windows have them, and the others are as they were
    arrays, _ = strategy.state()
    assert found(arrays) == (0, 0)
    features = np.asarray(arrays["head.probe_features"])
    assert (~features.any(axis=1)).sum() == before[0]
    again = small_learner("two-speed", encoder=ENCODER, held_out_share=0.5)
    again.restore(learner.state())
    learner.learn([example("later", "a later card", "x")])
    again.learn([example("later", "a later card", "x")])
    assert two_speed(again).head_blobs() == strategy.head_blobs()


def strategy_probes(strategy: TwoSpeed) -> np.ndarray:
    return np.asarray(strategy.state()[0]["head.probe_keys"])


def test_what_is_known_of_single_rows_is_bounded() -> None:
    summed = SummedRows(rows=100)
    summed.made_of(["first"])
    for n in range(250):
        summed.add(f"id{n}")
    assert [summed.has(id_) for id_ in ("first", "id149", "id150", "id249")] == [
        True,
        False,  # it cannot be told from a row that was given up: nothing is taken out
        True,
        True,
    ]
    assert len(summed.state()[0]["summed_since"]) == 100


def test_a_ring_of_keys_forgets_the_oldest_and_goes_on_from_its_state() -> None:
    ring = KeyRing(70)
    for key in range(1, 100):
        ring.add(key)
    assert [key in ring for key in (1, 29, 30, 99)] == [False, False, True, True]
    again = KeyRing(70)
    again.restore(ring.state(), total=ring.total)
    for one in (ring, again):
        one.add(100)
        one.drop(99)
    assert [key in again for key in (30, 31, 99, 100)] == [False, True, False, True]
    np.testing.assert_array_equal(again.state(), ring.state())


def test_what_a_label_used_to_mean_is_not_taken_out_of_what_it_means_now() -> None:
    # Given a label that means only its two newest rows, after a resume as before it
    learner = small_learner("two-speed", encoder=ENCODER, held_out_share=0.0)
    learner.learn([example(id_, TEXTS[id_], "x") for id_ in IDS[:4]])
    learner.learn([example(id_, TEXTS[id_], "y") for id_ in IDS[4:6]])
    strategy = two_speed(learner)
    newest = IDS[2:4]
    strategy._plugin.renew(
        strategy.head.labels.index("x"),
        ENCODER.encode([TEXTS[id_] for id_ in newest]),
        keys=[key_of(id_) for id_ in newest],
    )
    heir = small_learner("two-speed", encoder=ENCODER, held_out_share=0.0)
    heir.restore(learner.state())
    for one in (learner, heir):
        # When an older row is corrected, one of the newest, and one that came since
        one.learn([example(IDS[6], TEXTS[IDS[6]], "x")])
        for id_ in (IDS[0], IDS[2], IDS[6]):
            one.learn([example(id_, TEXTS[id_], "y", revision=2, previous="x")])
        # Then the label means what is left of its newest rows, and the other has all three
        head = two_speed(one).additive_head
        counts = dict(zip(head.labels, head.counts.tolist(), strict=True))
        assert counts == {"x": 1, "y": 5}
        row = head.row_of("x")
        codes = head.codes(ENCODER.encode([TEXTS[IDS[3]]])).double()
        ours = np.asarray(head.sums.state()[0]["sums"])[row]
        assert np.abs(ours - codes[0].numpy()).max() <= 4


def test_of_a_renewed_label_only_the_newest_rows_are_known_until_sums_are_made_anew() -> None:
    summed = SummedRows()
    summed.renew("x", [key_of("new")])
    assert [summed.has(id_, "x") for id_ in ("old", "new")] == [False, True]
    assert summed.has("old", "y")
    summed.remove("new")
    assert not summed.has("new", "x")
    summed.made_of(["old"])
    assert summed.has("old", "x")


def test_a_corrected_row_is_no_longer_among_the_newest_of_what_it_was() -> None:
    learner = small_learner("two-speed", encoder=ENCODER, held_out_share=0.0)
    ids = [IDS[n % 8] + str(n) for n in range(64)]
    labels = ["x" if n % 2 else "y" for n in range(64)]
    for n in range(0, 64, 16):
        batch = zip(ids[n : n + 16], labels[n : n + 16], strict=True)
        learner.learn([example(id_, TEXTS[id_[:3]], label) for id_, label in batch])
    drift = two_speed(learner)._plugin.drift
    watched = set(drift.state()[0]["drift_keys"].tolist())
    assert key_of(ids[-1]) in watched
    learner.learn([example(ids[-1], TEXTS[ids[-1][:3]], "y", revision=2, previous="x")])
    assert set(drift.state()[0]["drift_keys"].tolist()) == watched - {key_of(ids[-1])}
