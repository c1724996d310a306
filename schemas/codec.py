"""Bytes to contract and back: the only place that parses messages.

Owns JSON, CloudEvents headers (binary mode of the Kafka binding, CloudEvents 1.0) and the words of
every refusal; must not know topics, retries or who reads. A failure carries the message's bytes.

A key that comes twice in one object counts with its last value, as JSON parsers do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache
from typing import Any, ClassVar, Protocol, TypeVar

import msgspec

from schemas.errors import DecodeError, VersionError

Headers = Iterable[tuple[str, bytes]]

SOURCE = "mindstream"
MAX_REASON_CHARS = 400
_SHOWN_BYTES = 60
_NEAR_BYTES = 12
_BOM = b"\xef\xbb\xbf"


class Contract(Protocol):
    """What every contract offers.

    Attributes:
        ce_type: the CloudEvents `type` it travels under.
        identity: fields that tell one event from another; `ce_id` is made of them.
    """

    ce_type: ClassVar[str]
    identity: ClassVar[tuple[str, ...]]


T = TypeVar("T")

_encoder = msgspec.json.Encoder()
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@cache
def _decoder(contract: type[Any]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(contract)


def encode(message: Contract) -> bytes:
    """Write a contract as JSON bytes, always the same bytes for the same message.

    JSON has no NaN and no infinity: either is written as null.
    """
    return _encoder.encode(message)


def cloudevents_headers(message: Contract, *, source: str = SOURCE) -> list[tuple[str, bytes]]:
    """Build the `ce_*` headers of a message.

    `ce_id` is made of the message's identity, so that a repeat carries the same `ce_id`.
    """
    time: datetime | None = getattr(message, "time", None)
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_type", message.ce_type.encode()),
        ("ce_source", source.encode()),
        ("ce_id", _event_id(message).encode()),
        ("content-type", b"application/json"),
    ]
    if time is not None:
        headers.append(("ce_time", _word(time).encode()))
    return headers


def _event_id(message: Contract) -> str:
    return "/".join(_word(getattr(message, name)) for name in message.identity)


def _word(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def decode(contract: type[T], data: bytes | None, headers: Headers | None = None) -> T:
    """Read and validate one message.

    Args:
        contract: the Struct to read.
        data: the Kafka value; absent for a tombstone.
        headers: Kafka headers. `ce_id` and `ce_time` fill in an absent id and time; a `ce_id` must
            agree with the id, and a `ce_type` of mindstream with the contract. Other headers, and
            types of others, are ignored.

    Returns:
        A validated, frozen contract.

    Raises:
        DecodeError: the bytes are not the contract; carries them.
        VersionError: the contract's version is not one this build reads; carries the bytes.
    """
    if not data:
        raise DecodeError("the message is empty: a JSON object was expected", b"")
    attributes = {k: v for k, v in headers if v and k and k.startswith("ce_")} if headers else None
    try:
        message: T = _read(contract, data, attributes) if attributes else _parse(contract, data)
    except _UNREADABLE as error:
        version = _other_version(contract, data)
        if version is not None:
            reason = f"{version[0]}: this build reads version 1 only, got {version[1]}"
            raise VersionError(_bounded(reason), data) from error
        raise DecodeError(_bounded(_reason(error, data)), data) from error
    disagreement = _disagreement(message, attributes) if attributes else None
    if disagreement is not None:
        raise DecodeError(_bounded(disagreement), data)
    return message


def _parse(contract: Any, data: bytes) -> Any:  # noqa: ANN401 - one of `contract`
    return _decoder(contract).decode(data)


def _read(contract: type[T], data: bytes, attributes: Mapping[str, bytes]) -> T:
    """Parse; where a required field is absent, fill it from CloudEvents attributes first.

    Raises:
        ValidationError: a field breaks a rule.
    """
    try:
        message: T = _parse(contract, data)
    except msgspec.ValidationError as error:
        if "missing required field" not in str(error):
            raise
        fields: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
        name = _single_identity(contract)
        if name is not None and "ce_id" in attributes:
            fields.setdefault(name, attributes["ce_id"].decode())
        if "ce_time" in attributes:
            fields.setdefault("time", attributes["ce_time"].decode())
        message = msgspec.convert(fields, contract)
    return message


def _single_identity(contract: type[Any]) -> str | None:
    """Name the field that `ce_id` stands for, where one field is the whole identity."""
    identity: tuple[str, ...] = getattr(contract, "identity", ())
    return identity[0] if len(identity) == 1 else None


def _disagreement(message: object, attributes: Mapping[str, bytes]) -> str | None:
    """Say in what headers and message contradict each other."""
    name = _single_identity(type(message))
    given = attributes.get("ce_id")
    if name is not None and given is not None:
        own = str(getattr(message, name))
        if given != own.encode():
            return f"{name}: {own!r}, but the ce_id header says {_shown(given)}: they must agree"
    expected: str = getattr(message, "ce_type", "")
    kind = attributes.get("ce_type", expected.encode())
    if kind.startswith(b"mindstream.") and kind != expected.encode():
        return f"message: the ce_type header says {_shown(kind)}, {expected!r} was expected here"
    return None


def _fields(data: bytes) -> dict[str, msgspec.Raw]:
    """Split an object into its fields, unread; nothing when it cannot be split."""
    try:
        return msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except _UNREADABLE:
        return {}


def _other_version(contract: type[Any], data: bytes) -> tuple[str, str] | None:
    """Name the version field and what it says, when it says anything but 1."""
    name = "contract" if "contract" in contract.__struct_fields__ else "version"
    raw = _fields(data).get(name)
    if raw is None or bytes(raw).strip() == b"1":
        return None
    return name, _shown(bytes(raw))


_HALF_PAIR = re.compile(rb"\\u[dD][89a-bA-B][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|\\u[dD][c-fC-F]")
_END = r"(?!\\n)"  # of a pattern, as repr shows it; no rule of its own
_AT_BYTE = re.compile(r" \(byte (\d+)\)$")
_AT = re.compile(r"^(?P<what>.*) - at `\$?\.?(?P<path>.*)`$", re.S)


def _reason(error: Exception, data: bytes) -> str:
    """Put a parser's words into one sentence that names the field and the rule."""
    if isinstance(error, RecursionError):
        return "message: nested too deeply, flat fields were expected"
    if isinstance(error, msgspec.ValidationError):
        return _broken_rule(str(error), data)
    if data.startswith(_BOM):
        return "not JSON: it begins with a byte order mark, which JSON must not have"
    try:
        data.decode()
    except UnicodeDecodeError as fault:
        byte = data[fault.start]
        return f"not UTF-8: byte {byte:#04x} at position {fault.start:,} ({fault.reason})"
    if isinstance(error, UnicodeDecodeError):
        return "headers: a ce_ header is not UTF-8"
    return _not_json(str(error).removeprefix("JSON is malformed: "), data)


def _not_json(words: str, data: bytes) -> str:
    ends_early = "truncated" in words
    if ("surrogate" in words or ends_early) and _HALF_PAIR.search(data):
        return "not JSON: a \\u escape is half of a surrogate pair"
    if ends_early:
        return f"not JSON: it ends too early, after {len(data):,} bytes"
    what = _AT_BYTE.sub("", words)
    match = _AT_BYTE.search(words)
    if match is None:
        return f"not JSON: {what}"
    byte = int(match[1])
    near = _shown(data[byte : byte + _NEAR_BYTES])
    return f"not JSON: {what} at byte {byte:,}" + (f", near {near!r}" if near else "")


def _broken_rule(words: str, data: bytes) -> str:
    match = _AT.match(words)
    what, path = (match["what"], match["path"]) if match else (words, "")
    what = what.replace("`", "").replace(_END, "")
    what = what[0].lower() + what[1:]
    if "unknown field" in what or "missing required field" in what:
        what = what.removeprefix("object contains ").removeprefix("object ")
        return f"{path or 'message'}: {what}"
    value = _fields(data).get(path) if "got " not in what else None
    shown = "" if value is None else f", got {_shown(bytes(value))}"
    return f"{path or 'message'}: {what}{shown}"


def _shown(data: bytes) -> str:
    """Show the beginning of a value to people."""
    text = data[:_SHOWN_BYTES].decode(errors="replace")
    return text if len(data) <= _SHOWN_BYTES else f"{text}… ({len(data):,} bytes)"


def _bounded(reason: str) -> str:
    """Keep a reason on one printable line of at most `MAX_REASON_CHARS` characters."""
    start = reason[: MAX_REASON_CHARS + 1]
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in start)
    return line if len(line) <= MAX_REASON_CHARS else f"{line[: MAX_REASON_CHARS - 1]}…"
