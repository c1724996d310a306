"""Bytes to contract and back: the only place that parses messages.

Owns JSON, CloudEvents headers (binary mode of the Kafka binding, CloudEvents 1.0) and the words of every refusal; must
not know topics, retries or who reads. A failure carries the message's bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache
from typing import Any, Protocol, TypeVar

import msgspec

from schemas.errors import DecodeError, VersionError

Headers = Iterable[tuple[str, bytes]]

SOURCE = "mindstream"
_KEYED_BY = ("id", "interaction")  # the field that ce_id stands for, by contract


class Contract(Protocol):
    """What every contract offers: the CloudEvents type it travels under."""

    @property
    def ce_type(self) -> str:
        """CloudEvents `type`."""
        ...


T = TypeVar("T")


@cache
def _decoder(contract: type[T]) -> msgspec.json.Decoder[T]:
    return msgspec.json.Decoder(contract)


_encoder = msgspec.json.Encoder()


def encode(message: Contract) -> bytes:
    """Write a contract as JSON bytes, always the same bytes for the same message."""
    return _encoder.encode(message)


def cloudevents_headers(message: Contract, *, source: str = SOURCE) -> list[tuple[str, bytes]]:
    """Build the `ce_*` headers of a message.

    `ce_id` is the message's own id where it has one, so that a repeat carries the same `ce_id`.
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
        headers.append(("ce_time", time.isoformat().encode()))
    return headers


def _event_id(message: Contract) -> str:
    fields = type(message).__struct_fields__  # type: ignore[attr-defined]
    parts = [
        str(getattr(message, name))
        for name in ("id", "interaction", "kind", "revision", "topic", "partition", "offset")
        if name in fields
    ]
    if not parts:
        parts = [
            str(getattr(message, name))
            for name in ("task", "version", "time", "signal", "rule")
            if name in fields
        ]
    return "/".join(parts)


def decode(contract: type[T], data: bytes | None, headers: Headers | None = None) -> T:
    """Read and validate one message.

    Args:
        contract: the Struct to read.
        data: the Kafka value.
        headers: Kafka headers; `ce_id` and `ce_time` fill in an absent id and time, and must agree with present ones.

    Returns:
        A validated, frozen contract.

    Raises:
        DecodeError: the bytes are not the contract; carries them.
        VersionError: the contract's version is not one this build reads; carries the bytes.
    """
    if not data:
        raise DecodeError("the message is empty: a JSON object was expected", data or b"")
    attributes = {name: value for name, value in headers or () if name.startswith("ce_")}
    try:
        message = _decoder(contract).decode(data)
    except msgspec.ValidationError as error:
        if attributes and "missing required field" in str(error):
            message = _decode_with_attributes(contract, data, attributes)
        else:
            raise _refusal(error, data) from error
    except msgspec.DecodeError as error:
        raise DecodeError(f"not JSON: {error}", data) from error
    except UnicodeDecodeError as error:
        raise DecodeError(
            f"not UTF-8: byte {data[error.start]:#04x} at position {error.start}", data
        ) from error
    except RecursionError as error:
        raise DecodeError("nested too deeply: flat fields were expected", data) from error
    if attributes:
        _check_attributes(message, attributes, data)
    return message


def _decode_with_attributes(contract: type[T], data: bytes, attributes: Mapping[str, bytes]) -> T:
    """Fill an absent id and time from CloudEvents attributes, then validate as usual."""
    try:
        fields: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
        names = contract.__struct_fields__  # type: ignore[attr-defined]
        key = next((name for name in _KEYED_BY if name in names), None)
        if key is not None and "ce_id" in attributes:
            fields.setdefault(key, attributes["ce_id"].decode())
        if "ce_time" in attributes:
            fields.setdefault("time", attributes["ce_time"].decode())
        return msgspec.convert(fields, contract)
    except msgspec.ValidationError as error:
        raise _refusal(error, data) from error
    except UnicodeDecodeError as error:
        raise DecodeError("a ce_ header is not UTF-8", data) from error


def _check_attributes(message: object, attributes: Mapping[str, bytes], data: bytes) -> None:
    own = getattr(message, "id", None)
    given = attributes.get("ce_id")
    if (
        own is not None
        and given is not None
        and "revision" not in type(message).__struct_fields__
        and given != str(own).encode()
    ):  # type: ignore[attr-defined]
        raise DecodeError(
            f"id is {own!r} but the ce_id header says {given.decode(errors='replace')!r}: they must agree",
            data,
        )


_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$?\.?(?P<path>.*)`)?$", re.S)


def _refusal(error: msgspec.ValidationError, data: bytes) -> DecodeError | VersionError:
    """Put msgspec's words into a sentence that names the field and the rule."""
    match = _AT.match(str(error))
    what, path = (match["what"], match["path"]) if match else (str(error), None)
    what = what.replace("`", "")
    field = path or "message"
    if field in ("version", "contract"):
        return VersionError(
            f"{field}: this build reads version 1 only ({what[0].lower()}{what[1:]})", data
        )
    if "unknown field" in what or "missing required field" in what:
        return DecodeError(what[0].lower() + what[1:], data)
    return DecodeError(f"{field}: {what[0].lower()}{what[1:]}", data)
