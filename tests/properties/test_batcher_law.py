"""Laws of micro-batches: nothing lost, doubled or swapped, whoever leaves or fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from serving.batcher import Bounds, MicroBatcher, plan


@given(
    lengths=st.lists(st.integers(0, 600), max_size=200),
    max_rows=st.integers(1, 40),
    max_tokens=st.integers(1, 1_000),
)
def test_a_plan_holds_every_row_once_within_its_bounds(
    lengths: list[int], max_rows: int, max_tokens: int
) -> None:
    batches = plan(lengths, max_rows, max_tokens)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert 1 <= len(batch) <= max_rows
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= max_tokens
    order = [row for batch in batches for row in batch]
    assert order == sorted(range(len(lengths)), key=lambda row: (lengths[row], row))


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=60),
    max_rows=st.integers(1, 20),
    max_tokens=st.integers(1, 300),
)
def test_no_two_neighbouring_batches_would_have_fitted_into_one(
    lengths: list[int], max_rows: int, max_tokens: int
) -> None:
    batches = plan(lengths, max_rows, max_tokens)
    for one, other in zip(batches, batches[1:], strict=False):
        rows = len(one) + 1
        assert rows > max_rows or rows * lengths[other[0]] > max_tokens


class Refusal(ValueError):
    """What the answering side raises for a bad question."""


@settings(max_examples=60, deadline=None)
@given(
    fates=st.lists(st.sampled_from(["good", "bad", "leaves"]), min_size=1, max_size=40),
    max_rows=st.integers(1, 16),
    max_tokens=st.integers(1, 200),
    yields=st.integers(0, 3),
)
async def test_each_caller_gets_its_own_answer_whatever_the_others_do(
    fates: list[str], max_rows: int, max_tokens: int, yields: int
) -> None:
    seen: list[int] = []

    async def answer(questions: list[int]) -> Sequence[str]:
        for _ in range(yields):
            await asyncio.sleep(0)
        if any(fates[question] == "bad" for question in questions):
            raise Refusal(str(questions))
        seen.extend(questions)
        return [f"answer {question}" for question in questions]

    batcher: MicroBatcher[int, str] = MicroBatcher(
        answer,
        length=lambda question: question % 7,
        bounds=Bounds(max_rows=max_rows, max_tokens=max_tokens, max_wait_s=0.0),
    )
    tasks = [asyncio.create_task(batcher.ask(number)) for number in range(len(fates))]
    await asyncio.sleep(0)
    for task, fate in zip(tasks, fates, strict=True):
        if fate == "leaves":
            task.cancel()
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), timeout=5)
    await batcher.close()

    for number, (fate, result) in enumerate(zip(fates, results, strict=True)):
        if fate == "good":
            assert result == f"answer {number}"
            assert seen.count(number) == 1
        elif fate == "bad":
            assert isinstance(result, Refusal)
            assert str(result) == f"[{number}]"  # it failed alone
        else:
            assert isinstance(result, asyncio.CancelledError)
            assert seen.count(number) <= 1
