"""The HTTP API without its Kafka: what is let in, what is refused, and in which words."""

from __future__ import annotations

import gzip
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from learners.registry import Registry
from schemas.fields import MAX_TEXT_CHARS
from streams.admission import Admission, HttpLimits
from streams.http import ROUTES
from streams.problems import RefusedNowError
from tests.foundry import Foundry, encoder
from tests.httpserver import Answer, Parts, Served, parts, served
from tests.malformed import FAULTS, malformed
from tests.openapi import check_answer, check_request

__all__ = ["encoder"]

LIMITS = HttpLimits(publish=False, max_bytes=200_000, max_rows=8, timeout_s=20.0)
GOOD = {"task": "intents", "text": "where is my parcel"}
BEGUN = (  # the first of its 50 bytes
    b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: 50\r\n\r\n{"
)
# Refused in a record on the topic, and filled in or never seen over HTTP.
ALLOWED = {"missing id", "missing user", "missing time"}


@pytest.fixture(scope="module")
def foundry(encoder: Any, tmp_path_factory: pytest.TempPathFactory) -> Foundry:
    folder = tmp_path_factory.mktemp("store")
    registry = Registry(str(folder))
    return Foundry(registry, encoder, registry.put_blobs(encoder.blobs()), folder)


@pytest.fixture(scope="module")
def own(foundry: Foundry) -> Iterator[Parts]:
    """Build a server on which the task `intents` has a release, and `topics` has none.

    Yields:
        Its parts.
    """
    with parts(foundry, "http") as own:
        own.releases.offer(foundry.release())
        while not own.releases.settled:
            time.sleep(0.01)
        yield own


@pytest.fixture(scope="module")
def http(own: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Let it listen.

    Yields:
        Where to ask.
    """
    with served(own, tmp_path_factory.mktemp("app"), LIMITS) as http:
        yield http


def predict(http: Served, body: object, **headers: str) -> Any:
    """Ask for a prediction, hold all of it against the document, and give the answer."""
    data = json.dumps(body).encode()
    answer = http.ask("/v1/predict", data, **headers)
    return answer.status, checked(answer)


def checked(answer: Answer, route: str = "/v1/predict") -> Any:
    return check_answer("POST", route, answer.status, answer.kind, answer.body)


def test_one_interaction_is_answered_by_its_prediction(http: Served) -> None:
    check_request("POST", "/v1/predict", json.dumps(GOOD).encode())
    status, answer = predict(http, GOOD)
    assert (status, answer["label"], answer["status"]) == (200, "delivery", "ok")
    assert len(answer["interaction"]) == 32
    status, answer = predict(http, {**GOOD, "id": "mine"})
    assert (status, answer["interaction"]) == (200, "mine")


def test_among_several_each_bad_one_has_its_reason_and_the_others_their_answers(
    http: Served,
) -> None:
    rows = [
        {**GOOD, "id": "a"},
        {**GOOD, "text": 5},
        {**GOOD, "id": "b", "text": "please give my money back"},
        {"task": "topics", "text": "no release here"},
        7,
    ]
    status, answer = predict(http, {"interactions": rows})
    assert status == 200
    given = answer["predictions"]
    assert [row and (row["interaction"], row["label"]) for row in given] == [
        ("a", "delivery"),
        None,
        ("b", "refund"),
        None,
        None,
    ]
    errors = {error["index"]: (error["status"], error["detail"]) for error in answer["errors"]}
    assert errors == {
        1: (400, "text: expected str | null, got int"),
        3: (503, "task 'topics' has no release yet"),
        4: (400, "message: expected object, got int"),
    }


def test_a_list_of_which_nothing_can_be_answered_is_a_problem_with_every_reason(
    http: Served,
) -> None:
    status, problem = predict(http, {"interactions": [{**GOOD, "colour": 1}, {"text": "x"}]})
    assert status == 400
    assert problem["detail"] == "none of 2 items can be answered"
    assert [error["detail"] for error in problem["errors"]] == [
        "message: unknown field colour",
        "task: absent, and this deployment has several (intents, topics)",
    ]
    for body, word in (
        ({"interactions": []}, "empty"),
        ({"interactions": 5}, "list"),
        ({"interactions": [GOOD], "id": "x"}, "alone"),
        ([GOOD], "array"),
    ):
        status, problem = predict(http, body)
        assert status == 400
        assert word in problem["detail"]


def test_a_task_without_a_release_says_when_to_ask_again(http: Served) -> None:
    answer = http.ask("/v1/predict", b'{"task": "topics", "text": "anything"}')
    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    assert checked(answer)["detail"] == "task 'topics' has no release yet"


@pytest.mark.parametrize("kind", FAULTS)
def test_what_ends_in_dead_letters_on_the_topic_is_refused_here_with_the_same_words(
    http: Served, kind: str
) -> None:
    fault = FAULTS[kind]
    if fault.headers:
        pytest.skip("headers are Kafka's")
    message = malformed(kind, serial=1, now=datetime.now(UTC))
    if kind in ALLOWED:
        answer = http.ask("/v1/predict", message.data)
        assert answer.status == 200
        return
    route = "/v1/feedback" if fault.topic == "feedback" else "/v1/predict"
    answer = http.ask(route, message.data)
    assert answer.status == (413 if kind == "5 MB" else 400)
    assert fault.word in checked(answer, route)["detail"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
names = st.sampled_from(
    ["id", "user", "task", "time", "text", "features", "label", "consent", "context", "version"]
)
mutated = st.dictionaries(names, json_values, max_size=2).map(lambda d: {**GOOD, **d})
bodies = st.one_of(
    st.binary(max_size=60),
    json_values.map(lambda value: json.dumps(value).encode()),
    mutated.map(lambda row: json.dumps(row).encode()),
    st.builds(
        lambda rows, keys: json.dumps(dict.fromkeys(keys, rows)).encode(),
        st.lists(mutated | json_values, max_size=4),
        st.sampled_from([("interactions", "feedback"), ("interactions",), ("feedback",)]),
    ),
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(body=bodies)
def test_whatever_is_sent_gets_an_answer_or_a_problem(http: Served, body: bytes) -> None:
    answer = http.ask("/v1/predict", body)
    assert answer.status in (200, 400, 413, 503)
    checked(answer)
    refused = http.ask("/v1/feedback", body)
    assert refused.status == (413 if refused.status == 413 else 400)
    checked(refused, "/v1/feedback")


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(
        ["Content-Type", "Content-Encoding", "X-Request-Timeout", "Prefer", "Authorization"]
    ),
    value=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30).map(str.strip),
)
@example(name="Content-Type", value=";0*")
def test_whatever_a_header_says_the_answer_is_as_described(
    http: Served, name: str, value: str
) -> None:
    answer = http.ask("/v1/predict", json.dumps(GOOD).encode(), **{name: value})
    assert answer.status in (200, 400, 408, 415, 504)
    checked(answer)


def test_bodies_are_bounded_before_and_while_they_are_read(http: Served) -> None:
    large = http.ask("/v1/predict", b"x" * (LIMITS.max_bytes + 1))
    assert (large.status, checked(large)["title"]) == (413, "Request Entity Too Large")
    packed = gzip.compress(b" " * 50_000_000)
    assert len(packed) < LIMITS.max_bytes
    assert http.ask("/v1/predict", packed, Content_Encoding="gzip").status == 413
    many = http.ask("/v1/predict", json.dumps({"interactions": [GOOD] * 9}).encode())
    assert (many.status, checked(many)["detail"]) == (
        413,
        "interactions: 9 items, at most 8 are taken at once",
    )
    item = {**GOOD, "context": {str(n): "y" * MAX_TEXT_CHARS for n in range(6)}}
    status, problem = predict(http, item)
    assert status == 400
    assert "too large" in problem["detail"]


def test_packed_bodies_are_read_and_broken_ones_said(http: Served) -> None:
    packed = gzip.compress(json.dumps(GOOD).encode())
    assert http.ask("/v1/predict", packed, Content_Encoding="gzip").status == 200
    for body in (packed[:20], b"no gzip at all"):
        answer = http.ask("/v1/predict", body, Content_Encoding="gzip")
        assert answer.status == 400
        checked(answer)
    assert http.ask("/v1/predict", packed, Content_Encoding="zip").status == 415


def test_a_server_that_is_stopping_refuses_new_requests_for_now() -> None:
    admission = Admission(HttpLimits(), closing=lambda: True)
    request = make_mocked_request("POST", "/v1/predict")
    with pytest.raises(RefusedNowError) as refused, admission.admit(request):
        raise AssertionError("it was let in")
    assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "1"})


def test_only_json_is_taken_and_unknown_routes_are_problems_too(http: Served) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=x"):
        answer = http.ask("/v1/predict", b"{}", Content_Type=kind)
        assert (answer.status, answer.kind) == (415, "application/problem+json")
    wrong = http.ask("/v1/predict", method="GET")
    assert (wrong.status, wrong.kind, wrong.headers["Allow"]) == (
        405,
        "application/problem+json",
        "POST",
    )
    absent = http.ask("/v1/forecast")
    assert (absent.status, absent.kind) == (404, "application/problem+json")
    assert "/openapi.json" in json.loads(absent.body)["detail"]


def test_no_time_is_an_answer_too(http: Served) -> None:
    fresh = {**GOOD, "text": "a text that nobody has sent yet"}
    for headers in ({"X_Request_Timeout": "0"}, {"Prefer": "respond-async, wait=0"}):
        status, problem = predict(http, fresh, **headers)
        assert status in (408, 504)
        assert problem["status"] == status
    for said in ("soon", "-1", "nan"):
        status, problem = predict(http, fresh, X_Request_Timeout=said)
        assert (status, problem["detail"].partition(":")[0]) == (400, "X-Request-Timeout")
    assert predict(http, fresh, Prefer="wait=9999")[0] == 200


def test_a_body_that_does_not_come_is_not_waited_for(own: Parts, tmp_path: Path) -> None:
    with (
        served(own, tmp_path, HttpLimits(timeout_s=0.2)) as http,
        socket.create_connection(("127.0.0.1", http.port)) as slow,
    ):
        slow.sendall(BEGUN)
        assert slow.recv(100).startswith(b"HTTP/1.1 408 ")


def test_a_token_is_asked_for_where_one_is_set(own: Parts, tmp_path: Path) -> None:
    limits = HttpLimits(token="a-secret", publish=False)
    assert "a-secret" not in repr(limits)
    with served(own, tmp_path, limits) as http:
        body = json.dumps(GOOD).encode()
        for headers in (
            {},
            {"Authorization": "a-secret"},
            {"Authorization": "Bearer a-secreT"},
            {"Authorization": "Basic a-secret"},
            {"Authorization": "Bearer \xe9"},
        ):
            answer = http.ask("/v1/predict", body, **headers)
            assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
            checked(answer)
        assert http.ask("/v1/releases", method="GET").status == 401
        assert http.ask("/v1/predict", body, Authorization="Bearer a-secret").status == 200
        assert http.ask("/openapi.json", method="GET").status == 200


def test_a_client_with_too_many_requests_is_told_to_wait(own: Parts, tmp_path: Path) -> None:
    with served(own, tmp_path, HttpLimits(client_in_flight=1, publish=False)) as http:
        with socket.create_connection(("127.0.0.1", http.port)) as first:
            first.sendall(BEGUN)
            until = time.monotonic() + 10.0
            body = json.dumps(GOOD).encode()
            while (answer := http.ask("/v1/predict", body)).status == 200:
                assert time.monotonic() < until
            assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
            checked(answer)
            first.sendall(b" " * 49)
            assert first.recv(100).startswith(b"HTTP/1.1 400 ")
        assert http.ask("/v1/predict", body).status == 200


def test_a_full_queue_refuses_what_it_does_not_take(foundry: Foundry, tmp_path: Path) -> None:
    with parts(foundry, "full", max_queued=2) as small:
        small.releases.offer(foundry.release())
        while not small.releases.settled:
            time.sleep(0.01)
        with served(small, tmp_path, LIMITS) as http:
            rows = [{**GOOD, "text": f"text number {n}"} for n in range(3)]
            answer = http.ask("/v1/predict", json.dumps({"interactions": rows}).encode())
            assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
            checked(answer)
            two = json.dumps({"interactions": rows[:2]}).encode()
            assert http.ask("/v1/predict", two).status == 200


def test_without_kafka_what_would_go_there_is_refused_and_the_rest_answered(
    own: Parts, tmp_path: Path
) -> None:
    body = json.dumps({**GOOD, "id": "away"}).encode()
    label = b'{"interaction": "away", "kind": "label", "value": "delivery"}'
    with served(own, tmp_path, HttpLimits(timeout_s=2.0)) as http:
        for route, sent in (("/v1/predict", body), ("/v1/feedback", label)):
            answer = http.ask(route, sent)
            assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
            assert "Kafka" in checked(answer, route)["detail"]
        assert http.ask("/v1/predict?publish=false", body).status == 200
        wrong = http.ask("/v1/predict?publish=no", body)
        assert (wrong.status, checked(wrong)["detail"]) == (
            400,
            "publish='no': true or false was expected",
        )


def test_many_at_once_are_answered_each_with_its_own(http: Served) -> None:
    got: dict[int, tuple[int, Any]] = {}

    def ask(number: int) -> None:
        got[number] = predict(http, {**GOOD, "id": f"n-{number}", "text": f"parcel {number}?"})

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: (status, row["interaction"]) for number, (status, row) in got.items()} == {
        number: (200, f"n-{number}") for number in range(16)
    }


def test_the_examples_of_the_guide_can_be_sent(http: Served) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "http.md").read_text(encoding="utf-8")
    sent = re.findall(r"curl -s localhost:8080(\S+) .*?-d '(.*?)'", guide, re.S)
    assert {route for route, _ in sent} == {path for method, path, _ in ROUTES if method == "POST"}
    for route, body in sent:
        if '"text": 5' not in body:  # what is wrong on purpose
            check_request("POST", route, body.encode())
        if route == "/v1/predict":
            answer = http.ask(route, body.encode())
            assert (answer.status, type(checked(answer))) == (200, dict)


def test_releases_and_the_description_are_there_and_requests_are_counted(
    http: Served, own: Parts
) -> None:
    answer = http.ask("/v1/releases", method="GET")
    shown = check_answer("GET", "/v1/releases", answer.status, answer.kind, answer.body)
    assert shown["intents"]["version"].startswith("0000")
    described = http.ask("/openapi.json", method="GET")
    assert json.loads(described.body)["openapi"] == "3.1.0"
    assert http.ask("/nowhere", method="GET").status == 404
    text = own.metrics.text().decode()
    assert 'mindstream_http_requests_total{route="/v1/releases",status="200"}' in text
    assert 'mindstream_http_requests_total{route="other",status="404"}' in text
    assert 'mindstream_http_request_seconds_count{route="/v1/predict"}' in text
