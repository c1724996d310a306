"""Rows of many callers at once: each gets its own answer, none waits for ever or harms another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learners.released import EncoderCache, ReleasedModel
from learners.tasks import task_kind
from schemas import Prediction
from schemas.errors import OverloadError
from serving.batcher import MicroBatcher
from serving.predictor import Asked, Predictor, Question
from tests.foundry import START, Foundry, interaction

KINDS = {"intents": task_kind("classify")}
WORDS = ["parcel", "money", "refund", "where", "order", "back", "please", "the"]


class Watched(Predictor):
    """A real predictor that can be held up, and that chokes on what a test names."""

    def __init__(self, poison: str = "\0") -> None:
        super().__init__(KINDS, top=1, now=lambda: START, monotonic_s=lambda: 0.0, remembered=0)
        self.poison = poison
        self.batches: list[list[str]] = []
        self.threads: set[str] = set()
        self.go = threading.Event()
        self.go.set()
        self.began = threading.Event()

    def decide(
        self, questions: Sequence[Question], models: Mapping[str, ReleasedModel]
    ) -> list[Prediction | None]:
        self.batches.append([question.text or "" for question in questions])
        self.threads.add(threading.current_thread().name)
        self.began.set()
        assert self.go.wait(timeout=30)
        if any(self.poison in (question.text or "") for question in questions):
            raise ZeroDivisionError(self.poison)
        return super().decide(questions, models)


@pytest.fixture
def model(foundry: Foundry) -> ReleasedModel:
    encoders = EncoderCache(device="cpu", precision="fp32")
    encoders.preload(foundry.encoder)
    return ReleasedModel.load(foundry.release(), foundry.registry, encoders=encoders)


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture
def batcher(watched: Watched, model: ReleasedModel) -> Iterator[MicroBatcher]:
    """Build a small one.

    Yields:
        It; closed afterwards.
    """
    batcher = MicroBatcher(watched, lambda: {"intents": model}, max_rows=4, max_queued=8)
    yield batcher
    watched.go.set()
    batcher.close()


def asked(name: str, text: str = "where is my parcel") -> Asked:
    return Asked(interaction(name, text), 0.0)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    calls=st.lists(
        st.tuples(st.booleans(), st.lists(st.integers(1, 12), min_size=0, max_size=9)), max_size=8
    )
)
def test_every_row_gets_its_own_answer_and_no_batch_exceeds_its_bounds(
    calls: list[tuple[bool, list[int]]], model: ReleasedModel
) -> None:
    predictor = Watched()
    batcher = MicroBatcher(
        predictor, lambda: {"intents": model}, max_rows=5, max_tokens=40, max_queued=1_000
    )

    async def ask() -> list[list[Prediction | None]]:
        return await asyncio.gather(
            *(
                batcher.answer(
                    [
                        asked(f"{number}-{place}", " ".join(WORDS[:1] * words) + f" {number}")
                        for place, words in enumerate(lengths)
                    ],
                    urgent=urgent,
                )
                for number, (urgent, lengths) in enumerate(calls)
            )
        )

    answers = asyncio.run(ask())
    batcher.close()
    for number, ((_, lengths), mine) in enumerate(zip(calls, answers, strict=True)):
        names = [answer and answer.interaction for answer in mine]
        assert names == [f"{number}-{place}" for place in range(len(lengths))]
    assert sum(map(len, predictor.batches)) == sum(len(lengths) for _, lengths in calls)
    assert all(1 <= len(batch) <= 5 for batch in predictor.batches)
    assert predictor.threads <= {"model"}


async def test_rows_gather_while_the_model_works_and_a_lone_row_does_not_wait(
    batcher: MicroBatcher, watched: Watched
) -> None:
    [alone] = await batcher.answer([asked("alone")])
    assert alone is not None
    assert alone.label == "delivery"
    watched.go.clear()
    watched.began.clear()
    first = asyncio.ensure_future(batcher.answer([asked("first")]))
    await asyncio.to_thread(watched.began.wait, 30)
    calls = [asyncio.ensure_future(batcher.answer([asked(str(n))])) for n in range(4)]
    await asyncio.sleep(0.05)
    watched.go.set()
    await asyncio.gather(first, *calls)
    # The first alone, as nothing else was there; what came meanwhile went together.
    assert [len(batch) for batch in watched.batches] == [1, 1, 4]


async def test_callers_and_the_stream_take_turns(batcher: MicroBatcher, watched: Watched) -> None:
    watched.go.clear()
    stream = asyncio.ensure_future(
        batcher.answer([asked(f"s{n}", f"stream {n}") for n in range(12)], urgent=False)
    )
    await asyncio.to_thread(watched.began.wait, 30)
    callers = [
        asyncio.ensure_future(batcher.answer([asked(f"c{n}", f"caller {n}")])) for n in range(8)
    ]
    await asyncio.sleep(0.05)
    watched.go.set()
    await asyncio.gather(stream, *callers)
    lanes = [batch[0].split()[0] for batch in watched.batches]
    assert lanes == ["stream", "caller", "stream", "caller", "stream"]


async def test_a_full_queue_refuses_callers_and_says_when_to_come_again_but_never_the_stream(
    batcher: MicroBatcher, watched: Watched
) -> None:
    watched.go.clear()
    running = asyncio.ensure_future(batcher.answer([asked("first")]))
    await asyncio.to_thread(watched.began.wait, 30)
    waiting = asyncio.ensure_future(batcher.answer([asked(str(n), f"t {n}") for n in range(8)]))
    await asyncio.sleep(0.05)
    with pytest.raises(OverloadError, match="8 rows wait for the model, at most 8 may") as caught:
        await batcher.answer([asked("one too many")])
    assert caught.value.retry_after_s > 0.0
    stream = asyncio.ensure_future(
        batcher.answer([asked(f"s{n}", f"s {n}") for n in range(20)], urgent=False)
    )
    await asyncio.sleep(0.05)
    assert batcher.queued == 28
    watched.go.set()
    for answers in await asyncio.gather(running, waiting, stream):
        assert all(answer is not None for answer in answers)
    assert batcher.queued == 0


async def test_after_its_deadline_a_caller_is_let_go_and_its_rows_are_never_computed(
    batcher: MicroBatcher, watched: Watched
) -> None:
    watched.go.clear()
    running = asyncio.ensure_future(batcher.answer([asked("first")]))
    await asyncio.to_thread(watched.began.wait, 30)
    with pytest.raises(TimeoutError):
        await batcher.answer([asked("late", "too late")], deadline_s=0.05)
    watched.go.set()
    await running
    await batcher.answer([asked("after")])
    assert ["too late"] not in watched.batches


async def test_a_row_that_fails_alone_is_passed_over_and_harms_no_other(
    model: ReleasedModel, caplog: pytest.LogCaptureFixture
) -> None:
    batcher = MicroBatcher(Watched("cursed"), lambda: {"intents": model})
    texts = ["where is my parcel", "a cursed text", "my money back", "another cursed one"]
    answers = await batcher.answer([asked(str(n), text) for n, text in enumerate(texts)])
    assert [answer and answer.label for answer in answers] == ["delivery", None, "refund", None]
    assert "interaction 1 of task intents cannot be answered" in caplog.text
    batcher.close()


async def test_a_model_that_answers_nothing_is_an_error_for_everyone(foundry: Foundry) -> None:
    release = foundry.release()
    encoders = EncoderCache(device="cpu", precision="fp32")
    broken = ReleasedModel.load(release, foundry.registry, encoders=encoders)
    broken.encoder.module.backbone.embeddings = None  # type: ignore[assignment]
    predictor = Predictor(KINDS, top=1, now=lambda: START, monotonic_s=lambda: 0.0)
    batcher = MicroBatcher(predictor, lambda: {"intents": broken})
    for rows in (1, 3):
        with pytest.raises(TypeError):
            await batcher.answer([asked(str(n), f"text {n}") for n in range(rows)])
    batcher.close()


async def test_whoever_waits_when_it_closes_is_told(
    model: ReleasedModel,
) -> None:
    watched = Watched()
    batcher = MicroBatcher(watched, lambda: {"intents": model}, max_rows=1)
    watched.go.clear()
    waiting = asyncio.ensure_future(batcher.answer([asked("1", "one"), asked("2", "two words")]))
    await asyncio.to_thread(watched.began.wait, 30)
    watched.go.set()
    batcher.close()
    with pytest.raises(RuntimeError, match="the server is stopping"):
        await waiting
    with pytest.raises(RuntimeError, match="the server is stopping"):
        await batcher.answer([asked("3")])


@pytest.mark.parametrize("bounds", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_a_batcher_without_room_is_refused(bounds: tuple[int, int, int]) -> None:
    rows, tokens, queued = bounds
    with pytest.raises(ValueError, match="at least 1"):
        MicroBatcher(Watched(), dict, max_rows=rows, max_tokens=tokens, max_queued=queued)
