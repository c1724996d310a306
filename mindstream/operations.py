"""What an operator does to a running deployment: send, list releases, roll back.

Owns those commands' work and words; must not know how roles are run.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Column, Table

from learners.registry import Registry
from learners.tasks import task_kind
from mindstream.clients import kafka_arguments, make_producer, reaching_kafka, require_topics
from mindstream.settings import Settings
from mindstream.up import reach
from schemas import Feedback, Interaction, ModelRelease, Prediction, codec
from schemas.errors import LabelError, SettingsError
from schemas.fields import Label
from streams.producing import outgoing
from streams.topics import Topics

SEND_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class NewInteraction:
    """An interaction typed at the console.

    Attributes:
        task: None for the deployment's first task.
        labels: the truth where it is known; several only for multilabel tasks.
    """

    text: str
    task: str | None
    user: str
    labels: Sequence[str]


def send_interactions(
    settings: Settings, new: Sequence[NewInteraction], *, wait_s: float, out: Console
) -> None:
    """Send interactions and print their predictions as they come.

    Args:
        settings: of the deployment.
        new: what to send.
        wait_s: how long to wait for the predictions, seconds; 0: not at all.
        out: where to print.
    """
    messages = [_interaction(settings, one) for one in new]  # all are checked before one is sent
    settings = reach(settings)
    topics = Topics(settings.kafka.prefix)
    if not settings.embedded_kafka:
        require_topics(settings, ["interactions", "predictions"])
    with reaching_kafka(settings):
        consumer = _tail(settings, topics.predictions) if wait_s > 0 else None
        producer = make_producer(settings)
        for message in messages:
            _send(producer, topics.interactions, message.user, message)
            out.print(f"sent {message.id}", style="dim")
        producer.close()
        if consumer is not None:
            _print_predictions(consumer, messages, wait_s=wait_s, out=out)


def _print_predictions(
    consumer: Any,  # noqa: ANN401
    messages: Sequence[Interaction],
    *,
    wait_s: float,
    out: Console,
) -> None:
    waiting = {message.id: message for message in messages}
    end_s = monotonic() + wait_s
    while waiting and monotonic() < end_s:
        for records in consumer.poll(timeout_ms=200).values():
            for record in records:
                prediction = codec.decode(Prediction, record.value)
                if prediction.interaction in waiting:
                    _print_prediction(prediction, waiting.pop(prediction.interaction), out)
    consumer.close()
    for message in waiting.values():
        out.print(
            f"{message.id}: no prediction within {wait_s:g} s; is a `serve` role running?",
            style="yellow",
        )


def _interaction(settings: Settings, new: NewInteraction) -> Interaction:
    task = new.task or next(iter(settings.tasks))
    if task not in settings.tasks:
        raise SettingsError([f"task {task!r}: must be one of {', '.join(settings.tasks)}"])
    message = Interaction(
        id=str(uuid.uuid4()),
        user=new.user,
        task=task,
        time=datetime.now(UTC),
        text=new.text,
        label=_label(settings, task, new.labels) if new.labels else None,
    )
    task_kind(settings.tasks[task].kind).input_text(message.text, message.features)
    return codec.decode(Interaction, codec.encode(message))  # as every reader will


def _label(settings: Settings, task: str, labels: Sequence[str]) -> Label:
    """Read the truth of one task.

    Raises:
        LabelError: it is none that the task can learn from.
    """
    kind = task_kind(settings.tasks[task].kind)
    if kind.name == "classify" and len(labels) > 1:
        raise LabelError(
            f"label: {', '.join(labels)} are {len(labels)}, and task {task!r} ({kind.name}) has "
            "one label an interaction"
        )
    return kind.check_label(labels[0] if kind.name == "classify" else tuple(labels))


def _print_prediction(prediction: Prediction, message: Interaction, out: Console) -> None:
    text = (message.text or "")[:60]
    if prediction.status != "ok":
        out.print(f"{text!r}: no release yet: nothing has been learned for {prediction.task!r}")
        return
    top = ", ".join(f"{scored.label} {scored.score:.2f}" for scored in prediction.top)
    label = prediction.label if isinstance(prediction.label, str) else list(prediction.label or ())
    out.print(f"{text!r}: [bold]{label}[/] ({top}) by {prediction.release}")


def send_label(
    settings: Settings,
    interaction: str,
    labels: Sequence[str],
    *,
    correction: bool,
    out: Console,
) -> None:
    """Send the label of an interaction.

    Args:
        settings: of the deployment.
        interaction: its id.
        labels: the truth; several for multilabel.
        correction: replaces the label that was given before.
        out: where to print.

    Raises:
        LabelError: no task of this deployment can learn from it.
    """
    kinds = {task.kind for task in settings.tasks.values()}
    if kinds == {"classify"} and len(labels) > 1:
        raise LabelError(f"label: {len(labels)} are given, and every task here has one label")
    several = len(labels) > 1 or kinds == {"multilabel"}
    value: Label = tuple(labels) if several else labels[0]
    task_kind("multilabel" if several else "classify").check_label(value)
    written = Feedback(
        interaction=interaction,
        kind="correction" if correction else "label",
        time=datetime.now(UTC),
        value=value,
    )
    message = codec.decode(Feedback, codec.encode(written))  # as every reader will
    settings = reach(settings)
    if not settings.embedded_kafka:
        require_topics(settings, ["feedback"])
    with reaching_kafka(settings):
        producer = make_producer(settings)
        _send(producer, Topics(settings.kafka.prefix).feedback, interaction, message)
        producer.close()
    out.print(f"sent {message.kind} for {interaction}")


def _send(producer: Any, topic: str, key: str, message: codec.Contract) -> None:  # noqa: ANN401
    sent = outgoing(topic, key, message)
    producer.send(sent.topic, key=sent.key, value=sent.value, headers=list(sent.headers)).get(
        timeout=SEND_TIMEOUT_S
    )


def _tail(settings: Settings, topic: str) -> Any:  # noqa: ANN401
    """Consume a topic from its end, without a group."""
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(**kafka_arguments(settings), fetch_max_wait_ms=100)
    numbers = consumer.partitions_for_topic(topic) or set()
    partitions = [TopicPartition(topic, number) for number in numbers]
    consumer.assign(partitions)
    for partition, end in consumer.end_offsets(partitions).items():
        consumer.seek(partition, end)
    return consumer


def list_releases(settings: Settings, task: str | None, *, as_json: bool, out: Console) -> None:
    """List releases, newest first."""
    registry = Registry(settings.store_url)
    tasks = [task] if task else registry.tasks()
    releases = [release for name in tasks for release in registry.releases(name)]
    if as_json:
        out.print_json(msgspec.json.encode(releases).decode())
        return
    table = Table(
        "task", Column("version", no_wrap=True), "made (UTC)", "learned", "labels", "held-out"
    )
    for release in releases:
        gate = release.gate
        before = "" if gate.champion is None else f" after {gate.champion:.3f}"
        back = f" (back from {release.rolled_back_from})" if release.rolled_back_from else ""
        table.add_row(
            release.task,
            release.version + back,
            release.time.strftime("%m-%d %H:%M:%S"),
            f"{release.learned:,}",
            str(release.labels),
            f"{gate.challenger:.3f}{before}",
        )
    out.print(table if releases else "nothing has been released yet")


def show_release(settings: Settings, task: str, version: str, *, out: Console) -> None:
    """Print the manifest of one release."""
    out.print_json(codec.encode(Registry(settings.store_url).get(task, version)).decode())


def roll_back(settings: Settings, task: str, version: str, *, out: Console) -> None:
    """Make an earlier release serve again."""
    settings = reach(settings)
    if not settings.embedded_kafka:
        require_topics(settings, ["models"])  # before the store says what nobody is told
    release: ModelRelease = Registry(settings.store_url).rollback(
        task, version, time=datetime.now(UTC)
    )
    _announce(settings, release)
    out.print(
        f"{task}: {release.version} is {version} again; servers swap it in now, and candidates are "
        f"held until `mindstream releases resume {task}`"
    )


def resume_releases(settings: Settings, task: str, *, out: Console) -> None:
    """Let candidates pass again after a rollback."""
    settings = reach(settings)
    release = Registry(settings.store_url).resume(task, time=datetime.now(UTC))
    _announce(settings, release)
    out.print(f"{task}: {release.version} serves; what holds at the gate may replace it again")


def _announce(settings: Settings, release: ModelRelease) -> None:
    with reaching_kafka(settings):
        producer = make_producer(settings)
        _send(producer, Topics(settings.kafka.prefix).models, release.task, release)
        producer.close()
