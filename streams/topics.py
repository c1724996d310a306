"""Every topic in one table: name, contract, key and clean-up.

Owns the names; must not know who reads or writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from schemas import (
    Alert,
    DeadLetter,
    DriftSignal,
    Example,
    Feedback,
    Interaction,
    ModelRelease,
    Prediction,
)

# Header of an interaction that was answered elsewhere: its prediction is in Kafka already.
ANSWERED = ("mindstream_answered", b"http")


@dataclass(frozen=True, slots=True)
class Topic:
    """One row of the table.

    Attributes:
        name: without the prefix.
        contract: what its messages are.
        key: what the message key is, in words.
        cleanup: Kafka's `cleanup.policy`.
        about: one line for people.
    """

    name: str
    contract: type[Any]
    key: str
    cleanup: str
    about: str


TABLE: tuple[Topic, ...] = (
    Topic("interactions", Interaction, "user", "delete", "what users did, as producers send it"),
    Topic(
        "feedback", Feedback, "interaction id", "delete", "labels and corrections, early or late"
    ),
    Topic("examples", Example, "user", "delete", "labelled, clean, unique: the log of truth"),
    Topic(
        "predictions", Prediction, "interaction id", "delete", "what was served, by which release"
    ),
    Topic("models", ModelRelease, "task", "compact", "the newest release of each task"),
    Topic("drift", DriftSignal, "task", "delete", "what the drift detectors found"),
    Topic("alerts", Alert, "task", "delete", "rules that were broken"),
    Topic("dead-letters", DeadLetter, "original key", "delete", "what could not be used, complete"),
)


class Topics:
    """Full topic names under one prefix.

    Args:
        prefix: set in the settings; separates deployments that share a cluster.

    Examples:
        >>> Topics("mindstream").dead_letters
        'mindstream.dead-letters'
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.interactions = self.full("interactions")
        self.feedback = self.full("feedback")
        self.examples = self.full("examples")
        self.predictions = self.full("predictions")
        self.models = self.full("models")
        self.drift = self.full("drift")
        self.alerts = self.full("alerts")
        self.dead_letters = self.full("dead-letters")

    def full(self, name: str) -> str:
        """Give the full name of a topic in the table."""
        return f"{self.prefix}.{name}"

    def all(self) -> list[str]:
        """List every full name, in the table's order."""
        return [self.full(topic.name) for topic in TABLE]
