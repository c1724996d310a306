"""The serve role over a real wire: silence never, one release a batch, honest pages."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import faust
import pytest
from prometheus_client import CollectorRegistry

from learners.released import EncoderCache, ReleasedModel
from learners.tasks import task_kind
from schemas import Interaction, ModelRelease, Prediction
from serving.batcher import MicroBatcher
from serving.metrics import CONTENT_TYPE, Metrics
from serving.predictor import Predictor
from serving.releases import Releases
from streams.decoding import Limits
from streams.flow import serve_flow
from streams.models import ModelsReader
from streams.serve import Serve, pass_observer
from streams.topics import Topics
from tests.flow.conftest import Launch, Wire, eventually
from tests.foundry import Foundry, interaction


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Server:
    """The parts of a serve role."""

    wire: Wire
    topics: Topics
    metrics: Metrics
    releases: Releases
    reader: ModelsReader
    serve: Serve

    def attach(self, app: faust.App) -> None:
        serve_flow(app, self.serve, self.reader, self.metrics, rows=64, within_s=0.02)

    def answers(self) -> list[Prediction]:
        return self.wire.read(self.topics.predictions, Prediction)

    def ask(self, rows: Sequence[Interaction]) -> None:
        self.wire.send(self.topics.interactions, [(row.user, row) for row in rows])

    def serves(self, release: ModelRelease) -> bool:
        model = self.releases.current().get(release.task)
        return model is not None and model.release.version == release.version


@pytest.fixture
def server(wire: Wire, foundry: Foundry, request: pytest.FixtureRequest) -> Iterator[Server]:
    """Build a server with topics of the test's own.

    Yields:
        Its parts; they are stopped afterwards.
    """
    topics = Topics(request.node.name[-40:])
    metrics = Metrics(CollectorRegistry())
    encoders = EncoderCache(device="cpu", precision="fp32")
    releases = Releases(
        lambda release: ReleasedModel.load(release, foundry.registry, encoders=encoders),
        metrics=metrics,
        now=now,
        tasks=frozenset({"intents", "topics"}),
    )
    reader = ModelsReader(wire.consumer, topic=topics.models, releases=releases, metrics=metrics)
    kinds = {"intents": task_kind("classify"), "topics": task_kind("multilabel")}
    predictor = Predictor(kinds, top=2, now=now, monotonic_s=time.monotonic)
    batcher = MicroBatcher(predictor, releases.current, observe=pass_observer(metrics))
    serve = Serve(
        topics=topics, batcher=batcher, releases=releases, metrics=metrics, limits=Limits()
    )
    yield Server(wire, topics, metrics, releases, reader, serve)
    batcher.close()
    reader.stop()
    releases.close()


async def test_before_any_release_every_answer_says_so_and_bad_messages_are_passed_over(
    server: Server, launch: Launch
) -> None:
    # Given interactions, and among them what cannot be answered
    topics = server.topics
    server.wire.send(topics.models, [("intents", b"no release at all")])
    server.wire.send(
        topics.interactions, [("u", b"\xff\xfe not json"), ("u", interaction("blank", None))]
    )
    server.ask([interaction(str(number)) for number in range(50)])
    async with launch(topics.prefix, server.attach) as role:
        # Then each that can be is answered
        await eventually(lambda: len(server.answers()) == 50)
        assert {answer.status for answer in server.answers()} == {"no-release"}
        # and the pages tell the same
        status, ready = await role.json("/readyz")
        assert (status, ready["status"]) == (200, "ok")
        assert ready["tasks"] == {"intents": None, "topics": None}
        assert await role.json("/releases") == (200, {})
        _, content_type, text = await role.page("/metrics")
        assert content_type == CONTENT_TYPE
        assert 'mindstream_predictions_total{status="no-release",task="intents"} 50.0' in text
        assert f'mindstream_messages_skipped_total{{topic="{topics.interactions}"}} 2.0' in text
        assert f'mindstream_messages_skipped_total{{topic="{topics.models}"}} 1.0' in text
        assert (await role.json("/healthz"))[0] == 200
        server.reader.stop()
        assert (await role.json("/healthz"))[0] == 503


async def test_a_swap_drops_nothing_and_every_answer_comes_from_one_release(
    server: Server, launch: Launch, foundry: Foundry
) -> None:
    # Given a release on the topic from before the start
    first = foundry.release()
    second = foundry.release(rows={"where is my parcel": "post", "my money back": "money"})
    known = {first.version: {"delivery", "refund"}, second.version: {"post", "money"}}
    server.wire.send(server.topics.models, [("intents", first)])
    async with launch(server.topics.prefix, server.attach) as role:
        await eventually(lambda: server.serves(first))
        # When another comes while interactions keep coming
        for wave in range(4):
            server.ask([interaction(f"{wave}-{number}") for number in range(100)])
            if wave == 0:
                await eventually(lambda: len(server.answers()) == 100)
            if wave == 1:
                server.wire.send(server.topics.models, [("intents", second)])
            if wave == 2:
                await eventually(lambda: server.serves(second))
        await eventually(lambda: len(server.answers()) >= 400)

        # Then each was answered once, with the labels of the release it names
        answers = server.answers()
        assert len(answers) == len({answer.interaction for answer in answers}) == 400
        assert {answer.release for answer in answers} == set(known)
        for answer in answers:
            assert answer.status == "ok"
            assert answer.label in known[answer.release or ""]
            assert (answer.release_age_s or 0.0) > 0.0
            assert 0.0 <= (answer.latency_s or 0.0) < 30.0
        status, served = await role.json("/releases")
        assert (status, served["intents"]["version"]) == (200, second.version)
        _, ready = await role.json("/readyz")
        assert ready["tasks"] == {"intents": second.version, "topics": None}
