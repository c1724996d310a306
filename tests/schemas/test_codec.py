"""Any bytes give a contract, or an error with those bytes and a reason for people."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas import DeadLetter, Feedback, Interaction, ModelRelease, codec
from schemas.errors import DecodeError, MessageError, VersionError
from streams.topics import TABLE
from tests.generated import messages
from tests.samples import SAMPLES

CONTRACTS = [row.contract for row in TABLE]
GOOD: dict[str, Any] = {
    "id": "a",
    "user": "u",
    "task": "t",
    "time": "2026-01-01T00:00:00Z",
    "text": "hi",
}
DEEP = 100_000


def with_fields(**fields: Any) -> bytes:
    return json.dumps({**GOOD, **fields}).encode()


def without(*names: str) -> bytes:
    return json.dumps({k: v for k, v in GOOD.items() if k not in names}).encode()


def with_raw(field: bytes) -> bytes:
    return with_fields()[:-1] + b", " + field + b"}"


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.__name__)
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(data=st.data())
def test_what_is_written_is_read_back(contract: type[Any], data: st.DataObject) -> None:
    message = data.draw(messages(contract))
    encoded = codec.encode(message)
    back = codec.decode(contract, encoded, codec.cloudevents_headers(message))
    assert back == message
    assert codec.encode(back) == encoded


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.__name__)
@given(data=st.binary(max_size=200))
def test_any_bytes_give_a_contract_or_an_error_with_them(contract: type[Any], data: bytes) -> None:
    contract_or_error(contract, data)


@pytest.mark.parametrize("name", SAMPLES)
@settings(max_examples=150)
@given(data=st.data())
def test_damaged_messages_give_a_contract_or_an_error_with_them(
    name: str, data: st.DataObject
) -> None:
    whole = codec.encode(SAMPLES[name])
    start = data.draw(st.integers(0, len(whole)))
    length = data.draw(st.integers(0, 8))
    put = data.draw(
        st.binary(max_size=8)
        | st.sampled_from(
            [
                b"NaN",
                b"null",
                b"9" * 400,
                b"[" * 3_000,
                b'{"a":' * 3_000,
                b"\\ud800",
                b"\xef\xbb\xbf",
            ]
        )
    )
    contract_or_error(type(SAMPLES[name]), whole[:start] + put + whole[start + length :])


@given(
    text=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    field=st.sampled_from(Interaction.__struct_fields__),
    headers=st.lists(
        st.tuples(st.sampled_from(["ce_id", "ce_time", "ce_type", "x"]), st.binary(max_size=9))
    ),
)
def test_any_json_in_any_field_with_any_headers_is_handled(
    text: object, field: str, headers: list[tuple[str, bytes]]
) -> None:
    contract_or_error(Interaction, with_fields(**{field: text}), headers)
    contract_or_error(Interaction, without(field), headers)


def contract_or_error(
    contract: type[Any], data: bytes, headers: list[tuple[str, bytes]] | None = None
) -> None:
    try:
        message = codec.decode(contract, data, headers)
    except MessageError as caught:
        error = caught
    else:
        assert codec.decode(contract, codec.encode(message)) == message
        return
    assert error.data == data
    assert 0 < len(error.reason) <= codec.MAX_REASON_CHARS
    assert error.reason.isprintable()


REASONS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "the message is empty: a JSON object was expected"),
    "white space": (b"  ", "not JSON: it ends too early, after 2 bytes"),
    "truncated": (with_fields()[:-5], "not JSON: it ends too early, after 78 bytes"),
    "trailing": (with_fields() + b"x", "not JSON: trailing characters"),
    "bad UTF-8 in text": (
        with_fields().replace(b"hi", b"h\xff"),
        "not UTF-8: byte 0xff at position 80 (invalid start byte)",
    ),
    "bad UTF-8 first": (b"\xff\xfe{}", "not UTF-8: byte 0xff at position 0"),
    "byte order mark": (b"\xef\xbb\xbf" + with_fields(), "begins with a byte order mark"),
    "NaN": (with_raw(b'"features": {"x": NaN}'), "not JSON: invalid character at byte 102, near"),
    "lone surrogate last": (with_raw(b'"label": "\\ud800"'), "half of a surrogate pair"),
    "lone surrogate": (with_raw(b'"label": "\\udc00x"'), "half of a surrogate pair"),
    "infinite": (with_raw(b'"features": {"x": 1e999}'), "features[...]: number out of range"),
    "huge int": (
        with_raw(b'"features": {"x": ' + b"9" * 400 + b"}"),
        "features[...]: expected int",
    ),
    "vast int": (with_raw(b'"features": {"x": ' + b"9" * 9_000 + b"}"), "out of range"),
    "null": (b"null", "message: expected object, got null"),
    "array": (b"[1]", "message: expected object, got array"),
    "deep array": (b"[" * DEEP, "message: expected object, got array"),
    "deep object": (b'{"a":' * DEEP, "message: unknown field a"),
    "deep value": (
        with_raw(b'"features": {"x": ' + b"[" * DEEP + b"]" * DEEP + b"}"),
        "features[...]: expected bool | int | float | str | null, got array",
    ),
    "missing": (without("user"), "message: missing required field user"),
    "extra": (with_fields(usr="u"), "message: unknown field usr"),
    "wrong type": (with_fields(text=5), "text: expected str | null, got int"),
    "empty text": (with_fields(text=""), 'text: expected str of length >= 1, got ""'),
    "long text": (with_fields(text="x" * 20_001), "text: expected str of length <= 20000, got"),
    "long id": (with_fields(id="x" * 129), "id: expected str of length <= 128, got"),
    "label in a list": (with_fields(label=["a", 1]), "label[1]: expected str, got int"),
    "task name": (with_fields(task="A B"), "task: expected str matching regex '^[a-z0-9]"),
    "task name, line break": (with_fields(task="ab\n"), "task: expected str matching regex"),
    "naive time": (
        with_fields(time="2026-01-01T00:00:00"),
        'time: expected datetime with a timezone component, got "2026-01-01T00:00:00"',
    ),
    "no time": (with_fields(time="soon"), 'time: invalid RFC3339 encoded datetime, got "soon"'),
}


@pytest.mark.parametrize("name", REASONS)
def test_the_reason_names_the_field_the_value_and_the_rule(name: str) -> None:
    data, words = REASONS[name]
    with pytest.raises(DecodeError) as caught:
        codec.decode(Interaction, data)
    assert words in caught.value.reason
    assert caught.value.data == data
    assert "(?!" not in caught.value.reason


def test_a_tombstone_is_an_empty_message() -> None:
    with pytest.raises(DecodeError, match="the message is empty") as caught:
        codec.decode(Interaction, None)
    assert caught.value.data == b""


@pytest.mark.parametrize("version", [2, 0, "1", None, 1.0, True, 10**30])
def test_another_version_is_said_to_be_one(version: object) -> None:
    with pytest.raises(VersionError, match="version: this build reads version 1 only, got"):
        codec.decode(Interaction, with_fields(version=version))


def test_another_version_is_said_even_when_its_fields_are_unknown() -> None:
    with pytest.raises(VersionError, match="only, got 2"):
        codec.decode(Interaction, with_fields(sentiment="new", version=2))


def test_a_broken_release_number_is_not_a_contract_version() -> None:
    data = codec.encode(SAMPLES["model-release.v1"])
    with pytest.raises(DecodeError, match="version: expected str matching"):
        codec.decode(ModelRelease, data.replace(b"000012-0a1b2c3d", b"12"))
    with pytest.raises(VersionError, match="contract: this build reads version 1 only, got 2"):
        codec.decode(ModelRelease, data[:-1] + b',"contract":2}')


def test_five_megabytes_are_refused_with_a_short_reason_and_every_byte() -> None:
    for data in (with_fields(text="x" * 5_000_000), with_fields(**{"y" * 5_000_000: 1})):
        with pytest.raises(DecodeError) as caught:
            codec.decode(Interaction, data)
        assert len(caught.value.reason) <= codec.MAX_REASON_CHARS
        assert caught.value.data == data


def test_the_last_of_two_equal_keys_counts() -> None:
    assert codec.decode(Interaction, with_raw(b'"id": "b"')).id == "b"


def test_headers_fill_in_an_absent_id_and_time() -> None:
    headers = [("ce_id", b"from-header"), ("ce_time", b"2026-02-03T04:05:06Z")]
    message = codec.decode(Interaction, without("id", "time"), headers)
    assert message.id == "from-header"
    assert message.time.isoformat() == "2026-02-03T04:05:06+00:00"


def test_headers_do_not_stand_for_a_part_of_an_identity() -> None:
    data = b'{"kind":"label","time":"2026-01-01T00:00:00Z","value":"x"}'
    with pytest.raises(DecodeError, match="missing required field interaction"):
        codec.decode(Feedback, data, [("ce_id", b"some-event")])


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ([("ce_id", b"b")], "id: 'a', but the ce_id header says b: they must agree"),
        ([("ce_id", b"\xff")], "id: 'a', but the ce_id header says"),
        ([("ce_type", b"mindstream.feedback")], "the ce_type header says mindstream.feedback"),
    ],
)
def test_headers_that_contradict_the_message_are_refused(
    headers: list[tuple[str, bytes]], words: str
) -> None:
    with pytest.raises(DecodeError) as caught:
        codec.decode(Interaction, with_fields(), headers)
    assert words in caught.value.reason


def test_headers_that_cannot_fill_in_are_refused() -> None:
    with pytest.raises(DecodeError, match="a ce_ header is not UTF-8"):
        codec.decode(Interaction, without("id"), [("ce_id", b"\xff")])
    with pytest.raises(DecodeError, match="time: invalid RFC3339"):
        codec.decode(Interaction, without("time"), [("ce_time", b"soon")])


def test_headers_of_others_are_ignored() -> None:
    headers = [("ce_type", b"com.example.chat"), ("ce_id", b""), ("traceparent", b"\xff")]
    assert codec.decode(Interaction, with_fields(), headers).id == "a"


def test_a_repeat_has_the_same_event_id_and_another_event_has_not() -> None:
    ids = {
        name: dict(codec.cloudevents_headers(sample))["ce_id"] for name, sample in SAMPLES.items()
    }
    assert ids["example.v1"] == b"i-1/2"
    assert ids["dead-letter.v1"] == b"mindstream.interactions/3/123456"
    assert ids["model-release.v1"].startswith(b"intents/000012-0a1b2c3d/2026-05-01T12")
    assert ids["feedback.v1"] != ids["feedback-rating.v1"]


def test_a_dead_letter_keeps_every_byte() -> None:
    every = bytes(range(256))
    letter = codec.decode(
        DeadLetter,
        codec.encode(
            DeadLetter(
                data=every,
                key=every,
                reason="r",
                topic="t",
                partition=0,
                offset=0,
                time=SAMPLES["alert.v1"].time,
            )
        ),
    )
    assert letter.data == every
    assert letter.key == every
