"""The whole error tree of mindstream.

::

    MindstreamError
    ├── MessageError           a message cannot be used: it goes to dead letters with its bytes
    │   ├── DecodeError        bytes are not the contract they claim to be
    │   ├── VersionError       the contract's version is not one this build reads
    │   └── LabelError         a label is not one its task can learn from
    ├── SettingsError          settings are wrong: every problem at once
    ├── NotRunningError        what a command speaks to is embedded, and nothing has started it
    ├── UnreachableError       Kafka or Redis does not answer, or refuses
    ├── NoReleaseError         nothing has been released for a task yet
    ├── ReleaseError           a release is missing, damaged or refused
    ├── CheckpointError        a checkpoint cannot be written, read or trusted
    ├── FencedError            another learner has taken over
    ├── OverloadError          more is asked than can be answered: ask again later
    ├── EncoderError           a backbone cannot be loaded or used
    └── EmbeddedError          an embedded or local service did not start, or died

Each error ends in one named place: the table "Where an error ends" in docs/guarantees.md.
"""

from __future__ import annotations


class MindstreamError(Exception):
    """Base of every error that mindstream raises on purpose."""


class MessageError(MindstreamError):
    """Raised when a message cannot be used.

    Attributes:
        reason: one sentence for a person, naming the field, the value and the rule.
        data: the message's original bytes, complete.
    """

    def __init__(self, reason: str, data: bytes = b"") -> None:
        super().__init__(reason)
        self.reason = reason
        self.data = data


class DecodeError(MessageError):
    """Raised when bytes are not the contract they claim to be."""


class VersionError(MessageError):
    """Raised when a contract's version is not one this build reads."""


class LabelError(MessageError):
    """Raised when a label is not one its task can learn from."""


class SettingsError(MindstreamError):
    """Raised at start when settings are wrong.

    Attributes:
        problems: one line each: name, value and rule.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class NotRunningError(MindstreamError):
    """Raised when what a command speaks to is embedded, and nothing has started it."""


class UnreachableError(MindstreamError):
    """Raised when Kafka or Redis does not answer, or refuses; names it, without a password."""


class NoReleaseError(MindstreamError):
    """Raised when nothing has been released for a task yet."""


class ReleaseError(MindstreamError):
    """Raised when a release is missing, damaged or refused."""


class CheckpointError(MindstreamError):
    """Raised when a checkpoint cannot be written, read or trusted."""


class FencedError(MindstreamError):
    """Raised when another learner has taken over and this one must stop writing."""


class OverloadError(MindstreamError):
    """Raised when too much waits for the model already: nothing was taken.

    Attributes:
        retry_after_s: when it is worth asking again, seconds from now.
    """

    def __init__(self, reason: str, *, retry_after_s: float) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class EncoderError(MindstreamError):
    """Raised when a backbone cannot be loaded or used."""


class EmbeddedError(MindstreamError):
    """Raised when an embedded or local service did not start, or died."""
