"""What an answer says, and that rows never get into each other's way."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from learners.model import Encoder
from learners.released import EncoderCache, ReleasedModel
from learners.tasks import task_kind
from schemas import ModelRelease, codec
from schemas.predictions import Prediction
from serving.metrics import Metrics
from serving.predictor import Asked, Predictor
from serving.releases import Releases
from tests.foundry import START, TOPICS, Foundry, interaction

NOW = START + timedelta(hours=1)
KINDS = {"intents": task_kind("classify"), "topics": task_kind("multilabel")}


def predictor(*, top: int = 2) -> Predictor:
    return Predictor(KINDS, top=top, now=lambda: NOW, monotonic_s=lambda: 107.25)


@pytest.fixture
def encoders() -> EncoderCache:
    return EncoderCache(device="cpu", precision="fp32")


@contextmanager
def forward_passes(encoder: Encoder) -> Iterator[list[int]]:
    """Count rows of every real pass through an encoder.

    Yields:
        Rows of each pass so far.
    """
    passes: list[int] = []
    hook = encoder.module.register_forward_hook(
        lambda module, inputs, output: passes.append(len(output))
    )
    yield passes
    hook.remove()


def test_an_answer_says_label_probability_release_age_and_latency(
    foundry: Foundry, encoders: EncoderCache
) -> None:
    release = foundry.release()
    model = ReleasedModel.load(release, foundry.registry, encoders=encoders)
    [answer] = predictor().answer(
        [Asked(interaction("a", "please, my money back"), 107.0)], {"intents": model}
    )
    assert answer is not None
    assert (answer.interaction, answer.task, answer.status) == ("a", "intents", "ok")
    assert answer.label == "refund"
    assert [scored.label for scored in answer.top] == ["refund", "delivery"]
    assert answer.top[0].score == answer.score
    assert sum(scored.score for scored in answer.top) == pytest.approx(1.0, abs=1e-6)
    assert answer.release == release.version
    assert answer.release_age_s == (NOW - release.time).total_seconds()
    assert answer.latency_s == 0.25
    assert codec.decode(Prediction, codec.encode(answer)) == answer


def test_a_task_without_a_release_gets_an_answer_that_says_so() -> None:
    [answer] = predictor().answer([Asked(interaction("a"), 107.0)], {})
    assert answer == Prediction(
        interaction="a", task="intents", time=NOW, status="no-release", latency_s=0.25
    )


def test_a_clock_that_is_behind_never_makes_an_age_negative(
    foundry: Foundry, encoders: EncoderCache
) -> None:
    model = ReleasedModel.load(foundry.release(), foundry.registry, encoders=encoders)
    behind = Predictor(KINDS, top=1, now=lambda: START - timedelta(days=1), monotonic_s=lambda: 0.0)
    [answer] = behind.answer([Asked(interaction("a"), 5.0)], {"intents": model})
    assert answer is not None
    assert (answer.release_age_s, answer.latency_s) == (0.0, 0.0)


def test_rows_that_cannot_be_answered_harm_no_other_and_order_is_kept(
    foundry: Foundry, encoders: EncoderCache
) -> None:
    model = ReleasedModel.load(foundry.release(), foundry.registry, encoders=encoders)
    batch = [
        interaction("0", "where is my parcel"),
        interaction("1", None),
        interaction("2", "i want a refund"),
        interaction("3", "hello", task="unknown"),
        interaction("4", "   "),
        interaction("5", "hello", task="topics"),
        interaction("6", "my refund, please\x00\U0001f4b8 " + "very " * 3_000),
        interaction("7", "will the package arrive"),
    ]
    answers = predictor().answer([Asked(row, 107.0) for row in batch], {"intents": model})
    assert [answer and (answer.interaction, answer.status) for answer in answers] == [
        ("0", "ok"),
        None,
        ("2", "ok"),
        None,
        None,
        ("5", "no-release"),
        ("6", "ok"),
        ("7", "ok"),
    ]
    labels = {answer.interaction: answer.label for answer in answers if answer is not None}
    assert (labels["0"], labels["2"], labels["7"]) == ("delivery", "refund", "delivery")


def test_an_answer_does_not_depend_on_the_other_rows(
    foundry: Foundry, encoders: EncoderCache
) -> None:
    model = ReleasedModel.load(foundry.release(), foundry.registry, encoders=encoders)
    rng = random.Random(5)
    words = ["parcel", "money", "refund", "where", "when", "order", "back", "please", "the"]
    rows = [
        interaction(str(number), " ".join(rng.choices(words, k=rng.randint(1, 40))))
        for number in range(40)
    ]
    together = predictor().answer([Asked(row, 107.0) for row in rows], {"intents": model})
    for row, answer in zip(rows, together, strict=True):
        [alone] = predictor().answer([Asked(row, 107.0)], {"intents": model})
        assert alone is not None
        assert answer is not None
        assert alone.label == answer.label
        assert alone.score == pytest.approx(answer.score, abs=1e-4)


def test_tasks_over_one_encoder_share_one_forward_pass(
    foundry: Foundry, encoders: EncoderCache
) -> None:
    models = {
        release.task: ReleasedModel.load(release, foundry.registry, encoders=encoders)
        for release in (foundry.release(), foundry.release("topics", "multilabel", TOPICS))
    }
    batch = [
        Asked(
            interaction(str(number), f"parcel {number}", task=("intents", "topics")[number % 2]),
            107.0,
        )
        for number in range(20)
    ]
    with forward_passes(models["intents"].encoder) as passes:
        answers = predictor().answer(batch, models)
    assert passes == [20]
    assert [answer and answer.task for answer in answers] == ["intents", "topics"] * 10
    assert {type(answer.label) for answer in answers if answer is not None} == {str, tuple}


@pytest.mark.parametrize("max_tokens", [1, 40, 8_192])
def test_no_pass_has_more_padded_tokens_than_allowed_and_the_answers_are_the_same(
    foundry: Foundry, encoders: EncoderCache, max_tokens: int
) -> None:
    model = ReleasedModel.load(foundry.release(), foundry.registry, encoders=encoders)
    texts = ["parcel", "where is my parcel", "money back " * 9, "hello", "please " * 30] * 4
    batch = [Asked(interaction(str(n), text), 107.0) for n, text in enumerate(texts)]
    bounded = Predictor(
        KINDS, top=1, now=lambda: NOW, monotonic_s=lambda: 107.0, max_tokens=max_tokens
    )
    shapes: list[tuple[int, int]] = []
    hook = model.encoder.module.register_forward_pre_hook(
        lambda module, inputs: shapes.append((inputs[0].shape[0], inputs[0].shape[2]))
    )
    answers = bounded.answer(batch, {"intents": model})
    hook.remove()
    assert sum(rows for rows, _ in shapes) == len(set(texts))
    assert all(rows == 1 or rows * width <= max_tokens for rows, width in shapes)
    expected = predictor().answer(batch, {"intents": model})
    for answer, other in zip(answers, expected, strict=True):
        assert answer is not None
        assert other is not None
        assert answer.label == other.label
        assert answer.score == pytest.approx(other.score, abs=1e-4)


def test_a_text_that_comes_again_is_computed_once_and_answered_by_the_release_of_the_day(
    foundry: Foundry, encoders: EncoderCache
) -> None:
    # Given two heads that name the same two labels otherwise
    one = ReleasedModel.load(foundry.release(), foundry.registry, encoders=encoders)
    rows = {"where is my parcel": "post", "my money back": "money"}
    two = ReleasedModel.load(foundry.release(rows=rows), foundry.registry, encoders=encoders)
    asking = predictor()
    texts = ["where is my parcel", "Where is my PARCEL", "my money back", "where is my parcel"]
    batch = [Asked(interaction(str(n), text), 107.0) for n, text in enumerate(texts)]

    # When the same texts come under both, twice each
    with forward_passes(one.encoder) as passes:
        labels = [
            [answer and answer.label for answer in asking.answer(batch, {"intents": model})]
            for model in (one, two, one, two)
        ]
    # Then the encoder saw each sequence of tokens once, and no answer is of the other release
    assert passes == [2]
    assert labels[0] == labels[2] == ["delivery", "delivery", "refund", "delivery"]
    assert labels[1] == labels[3] == ["post", "post", "money", "post"]
    again = asking.remembered(batch[0], {"intents": two})
    assert again is not None
    assert (again.label, again.release) == ("post", two.release.version)
    assert asking.remembered(Asked(interaction("x", "new"), 0.0), {"intents": two}) is None


def test_what_is_remembered_is_bounded_and_can_be_nothing(
    foundry: Foundry, encoders: EncoderCache
) -> None:
    model = ReleasedModel.load(foundry.release(), foundry.registry, encoders=encoders)
    batch = [Asked(interaction(str(n), f"parcel {n}"), 107.0) for n in range(6)]
    for remembered, computed in ((0, 12), (3, 9), (6, 6)):
        asking = Predictor(
            KINDS, top=1, now=lambda: NOW, monotonic_s=lambda: 0.0, remembered=remembered
        )
        with forward_passes(model.encoder) as passes:
            asking.answer(batch, {"intents": model})
            asking.answer(batch, {"intents": model})
        assert sum(passes) == computed


def test_features_that_were_computed_are_handed_on_unless_consent_is_missing(
    foundry: Foundry, encoders: EncoderCache
) -> None:
    model = ReleasedModel.load(foundry.release(), foundry.registry, encoders=encoders)
    kept: list[tuple[str, list[str], tuple[int, ...]]] = []
    asking = Predictor(
        KINDS,
        top=1,
        now=lambda: NOW,
        monotonic_s=lambda: 0.0,
        computed=lambda model, texts, rows: kept.append(
            (model.encoder.space_id, list(texts), rows.shape)
        ),
    )
    private = msgspec.structs.replace(interaction("0", "my own affair"), consent=False)
    batch = [Asked(private, 0.0), Asked(interaction("1"), 0.0), Asked(interaction("2"), 0.0)]
    asking.answer(batch, {"intents": model})
    asking.answer(batch, {"intents": model})
    width = model.encoder.width
    assert kept == [(model.encoder.space_id, ["where is my parcel"], (1, width))]


def test_an_empty_batch_makes_no_pass(foundry: Foundry, encoders: EncoderCache) -> None:
    model = ReleasedModel.load(foundry.release(), foundry.registry, encoders=encoders)
    with forward_passes(model.encoder) as passes:
        assert predictor().answer([], {"intents": model}) == []
        assert predictor().answer([Asked(interaction("a", None), 0.0)], {"intents": model}) == [
            None
        ]
    assert passes == []


@pytest.mark.parametrize("top", [0, 17])
def test_more_labels_than_the_contract_holds_are_refused(top: int) -> None:
    with pytest.raises(ValueError, match=f"top is {top}: it must be 1 to 16"):
        predictor(top=top)


def test_while_releases_change_every_batch_is_answered_by_exactly_one(
    foundry: Foundry, encoders: EncoderCache
) -> None:
    # Given releases that know disjoint labels, so that a mixed batch would show
    history = [
        foundry.release(rows={"where is my parcel": f"a{n}", "my money back": f"b{n}"})
        for n in range(6)
    ]
    own = {release.version: {f"a{n}", f"b{n}"} for n, release in enumerate(history)}

    def load(release: ModelRelease) -> ReleasedModel:
        return ReleasedModel.load(release, foundry.registry, encoders=encoders)

    releases = Releases(
        load,
        metrics=Metrics(CollectorRegistry()),
        now=lambda: NOW,
        tasks=frozenset({"intents"}),
    )
    releases.offer(history[0])
    assert releases.settle(timeout_s=30)
    batch = [Asked(interaction(str(number)), 107.0) for number in range(8)]

    # When batches are answered while all of them are swapped in, one after the other
    def swap() -> None:
        for release in history[1:]:
            releases.offer(release)
            releases.settle(timeout_s=30)

    swapper = threading.Thread(target=swap)
    swapper.start()
    seen: list[str] = []
    while swapper.is_alive() or seen[-1] != history[-1].version:
        answers = [a for a in predictor().answer(batch, releases.current()) if a is not None]
        [version] = {answer.release for answer in answers}
        assert version is not None
        assert len(answers) == len(batch)
        assert {answer.label for answer in answers} <= own[version]
        seen.append(version)
    swapper.join()
    releases.close()

    # Then none was dropped and they came in order
    assert seen == sorted(seen)
    assert len(set(seen)) >= 2
