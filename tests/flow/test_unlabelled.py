"""Which interactions may be learned from without a label, over a real wire."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from learners.holdout import is_held_out
from learners.tasks import task_kind
from schemas import Interaction
from schemas.fields import ScalarMap
from streams.unlabelled import UnlabelledTexts
from tests.flow.conftest import Wire

TIME = datetime(2026, 5, 1, tzinfo=UTC)


def said(id_: str, text: str | None, *, task: str = "intents", consent: bool = True) -> Interaction:
    features: ScalarMap | None = {"price": 1.0} if text is None else None
    return Interaction(
        id=id_, user="u", task=task, time=TIME, text=text, features=features, consent=consent
    )


@dataclass
class Texts:
    """Reads from a topic of its own."""

    wire: Wire
    topic: str

    def of(self, *, rows: int = 100, held_out_share: float = 0.0) -> UnlabelledTexts:
        kind = task_kind("classify")
        return UnlabelledTexts(
            self.wire.consumer,
            topic=self.topic,
            kinds={"intents": kind, "topics": kind},
            held_out_share=held_out_share,
            rows=rows,
            clock_s=time.monotonic,
        )

    def send(self, *messages: Interaction | bytes) -> None:
        self.wire.send(self.topic, [("u", message) for message in messages])


@pytest.fixture
def texts(wire: Wire, request: pytest.FixtureRequest) -> Texts:
    return Texts(wire, f"{request.node.name}.interactions")


def test_only_what_may_be_used_is_read(texts: Texts) -> None:
    held_out = next(f"h{n}" for n in range(1000) if is_held_out(f"h{n}", share=0.2))
    kept = [f"k{n}" for n in range(1000) if not is_held_out(f"k{n}", share=0.2)]
    texts.send(
        said(kept[0], "the first"),
        said(kept[1], "not this", consent=False),
        said(kept[1], "nor this"),  # whoever said no once is not asked again
        said(kept[2], "of another task", task="topics"),
        said(kept[3], "of no task", task="strange"),
        b"no interaction",
        said(kept[4], None),
        said(kept[5], "  "),
        said(held_out, "held out"),
        said(kept[6], "the last"),
        said(kept[6], "said anew"),  # a repeated id
        said(kept[7], "the first"),
    )
    of = texts.of(held_out_share=0.2)
    assert of.read("intents") == ["the last", "the first"]
    assert of.read("topics") == ["of another task"]


def test_the_newest_are_read_and_no_more(texts: Texts) -> None:
    texts.send(*(said(f"e{n}", f"text {n}") for n in range(12)))
    assert texts.of(rows=5).read("intents") == [f"text {n}" for n in range(7, 12)]


def test_a_topic_that_nobody_has_written_to_gives_nothing(texts: Texts) -> None:
    assert texts.of().read("intents") == []
