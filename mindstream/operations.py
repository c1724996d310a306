"""What an operator does to a running deployment: send, look, roll back.

Owns those commands' work and words; must not know how roles are run.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Column, Table

from learners.registry import Registry
from learners.tasks import task_kind
from mindstream.clients import kafka_arguments, make_join, make_producer, make_redis
from mindstream.sections import EMBEDDED
from mindstream.settings import Settings
from mindstream.up import running_overrides
from schemas import Feedback, Interaction, ModelRelease, Prediction, codec
from schemas.errors import NoReleaseError, SettingsError
from schemas.fields import Label
from streams.producing import outgoing
from streams.topics import Topics

PAGE_TIMEOUT_S = 2.0


def reach(settings: Settings) -> Settings:
    """Point `embedded` at what a running `mindstream up` of the same data_dir has started."""
    running = running_overrides(settings)
    if settings.kafka.servers == EMBEDDED and "kafka.servers" in running:
        kafka = settings.kafka.model_copy(update={"servers": running["kafka.servers"]})
        settings = settings.model_copy(update={"kafka": kafka, "embedded_kafka": True})
    if settings.redis.url == EMBEDDED and "redis.url" in running:
        redis = settings.redis.model_copy(update={"url": running["redis.url"]})
        settings = settings.model_copy(update={"redis": redis})
    return settings


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
    settings = reach(settings)
    topics = Topics(settings.kafka.prefix)
    messages = [_interaction(settings, one) for one in new]
    consumer = _tail(settings, topics.predictions) if wait_s > 0 else None
    producer = make_producer(settings)
    for message in messages:
        _send(producer, topics.interactions, message.user, message)
        out.print(f"sent {message.id}", style="dim")
    producer.close()
    if consumer is None:
        return
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
    return Interaction(
        id=str(uuid.uuid4()),
        user=new.user,
        task=task,
        time=datetime.now(UTC),
        text=new.text,
        label=_label(settings, task, new.labels) if new.labels else None,
    )


def _label(settings: Settings, task: str, labels: Sequence[str]) -> Label:
    kind = task_kind(settings.tasks[task].kind)
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
    """
    settings = reach(settings)
    kinds = {task.kind for task in settings.tasks.values()}
    several = len(labels) > 1 or kinds == {"multilabel"}
    message = Feedback(
        interaction=interaction,
        kind="correction" if correction else "label",
        time=datetime.now(UTC),
        value=tuple(labels) if several else labels[0],
    )
    producer = make_producer(settings)
    _send(producer, Topics(settings.kafka.prefix).feedback, interaction, message)
    producer.close()
    out.print(f"sent {message.kind} for {interaction}")


def _send(producer: Any, topic: str, key: str, message: codec.Contract) -> None:  # noqa: ANN401
    sent = outgoing(topic, key, message)
    producer.send(sent.topic, key=sent.key, value=sent.value, headers=list(sent.headers)).get(30)


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
    release: ModelRelease = Registry(settings.store_url).rollback(
        task, version, time=datetime.now(UTC)
    )
    producer = make_producer(settings)
    _send(producer, Topics(settings.kafka.prefix).models, task, release)
    producer.close()
    out.print(f"{task}: {release.version} is {version} again; servers swap it in now")


def show_status(settings: Settings, *, as_json: bool, out: Console) -> int:
    """Show roles, counters and releases.

    Args:
        settings: of the deployment.
        as_json: one JSON object instead of tables.
        out: where to print.

    Returns:
        Exit status: 1 when a role does not answer.
    """
    settings = reach(settings)
    ports = {
        "ingest": settings.ingest.port,
        "learn": settings.learn.port,
        "serve": settings.serve.port,
        "watch": settings.watch.port,
    }
    host = "127.0.0.1" if settings.web.host == "0.0.0.0" else settings.web.host
    roles = {role: _answers(f"http://{host}:{port}/metrics") for role, port in ports.items()}
    counters = make_join(settings, make_redis(settings)).counters()
    releases = _newest(settings)
    if as_json:
        out.print_json(json.dumps({"roles": roles, "counters": counters, "releases": releases}))
    else:
        _print_status(roles, ports, counters, releases, out)
    return 0 if all(roles.values()) else 1


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=PAGE_TIMEOUT_S) as answer:
            return int(answer.status) == 200
    except (urllib.error.URLError, OSError):
        return False


def _newest(settings: Settings) -> dict[str, str]:
    registry = Registry(settings.store_url)
    newest = {}
    for task in settings.tasks:
        try:
            release = registry.latest(task)
        except NoReleaseError:
            newest[task] = "nothing released yet"
        else:
            newest[task] = f"{release.version}, {release.learned:,} learned"
    return newest


def _print_status(
    roles: Mapping[str, bool],
    ports: Mapping[str, int],
    counters: Mapping[str, Mapping[str, int]],
    releases: Mapping[str, str],
    out: Console,
) -> None:
    table = Table("role", "port", "answers", title="roles", title_justify="left")
    for role, up in roles.items():
        table.add_row(role, str(ports[role]), "[green]yes[/]" if up else "[red]no[/]")
    out.print(table)
    names = ("interactions", "joined", "waiting", "expired", "refused", "dead", "repeated")
    table = Table("task", *names, title="interactions", title_justify="left")
    for task, counts in counters.items():
        table.add_row(task, *(f"{counts[name]:,}" for name in names))
    out.print(table)
    table = Table("task", "newest release", title="releases", title_justify="left")
    for task, newest in releases.items():
        table.add_row(task, newest)
    out.print(table)
