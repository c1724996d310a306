"""The label join against a real server: each rule of what becomes of a record."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import redis as redis_client

from learners.join import (
    FEEDBACK_FATES,
    Arrival,
    DeadRecord,
    FeedbackArrival,
    InteractionArrival,
    LabelJoin,
    Outcome,
    Status,
)
from schemas.fields import Label

NOW_MS = 1_790_000_000_000
TTL_MS = 60_000


@pytest.fixture
def join(redis: redis_client.Redis) -> LabelJoin:
    return LabelJoin(redis, namespace="test", shards=4, ttl_s=TTL_MS / 1000, remember_s=3600)


def interaction(
    id_: str = "a",
    *,
    offset: int = 0,
    label: Label | None = None,
    consent: bool = True,
    kind: str = "classify",
) -> InteractionArrival:
    return InteractionArrival(
        id=id_,
        task="intents",
        kind=kind,
        user="u",
        position=f"interactions:0:{offset}",
        payload=b"payload of \xff\x00" + id_.encode(),
        label=label,
        consent=consent,
        at_ms=NOW_MS - 5,
    )


def feedback(
    value: Label | None = "yes", *, id_: str = "a", offset: int = 0, verb: str = "label"
) -> FeedbackArrival:
    labels = {} if value is None else {"classify": value}
    return FeedbackArrival(
        interaction=id_,
        position=f"feedback:0:{offset}",
        verb=verb,  # type: ignore[arg-type]
        labels=labels,
        raw=b"raw \xfe" + str(offset).encode(),
        at_ms=NOW_MS + offset,
    )


def statuses(outcomes: Sequence[Outcome]) -> list[Status]:
    return [outcome.status for outcome in outcomes]


def totals(join: LabelJoin) -> dict[str, int]:
    """Sum the counters over tasks, check both equations, drop the zeros."""
    counters = join.counters()
    for task in counters.values():
        parts = ("joined", "waiting", "expired", "refused", "dead")
        assert task["interactions"] == sum(task[name] for name in parts)
        assert task["feedback"] == sum(task[f"feedback_{fate}"] for fate in FEEDBACK_FATES)
        assert min(task.values()) >= 0
    names = {name for task in counters.values() for name in task}
    summed = {name: sum(task[name] for task in counters.values()) for name in names}
    return {name: value for name, value in summed.items() if value}


def test_an_interaction_waits_and_its_label_joins_it(join: LabelJoin) -> None:
    assert statuses(join.apply([interaction()], now_ms=NOW_MS)) == [Status.WAITING]
    (outcome,) = join.apply([feedback("yes", offset=7)], now_ms=NOW_MS)
    assert outcome.status is Status.JOINED
    assert outcome.task == "intents"
    assert outcome.example is not None
    assert outcome.example.payload == b"payload of \xff\x00a"
    assert outcome.example.label == "yes"
    assert outcome.example.labelled_at_ms == NOW_MS + 7
    assert (outcome.example.revision, outcome.example.previous) == (1, None)
    assert totals(join) == {"interactions": 1, "joined": 1, "feedback": 1, "feedback_joined": 1}


def test_feedback_may_come_first(join: LabelJoin) -> None:
    assert statuses(join.apply([feedback()], now_ms=NOW_MS)) == [Status.PENDING]
    assert totals(join) == {"feedback": 1, "feedback_pending": 1}
    (outcome,) = join.apply([interaction()], now_ms=NOW_MS)
    assert outcome.example is not None
    assert outcome.example.label == "yes"
    assert outcome.position == "interactions:0:0"
    assert totals(join) == {"interactions": 1, "joined": 1, "feedback": 1, "feedback_joined": 1}


def test_a_label_inside_joins_at_once_and_lists_come_back_as_tuples(join: LabelJoin) -> None:
    arrivals = [interaction(label=("x", "y")), interaction("b", offset=1, label=())]
    first, second = join.apply(arrivals, now_ms=NOW_MS)
    assert first.example is not None
    assert second.example is not None
    assert (first.example.label, second.example.label) == (("x", "y"), ())
    assert totals(join) == {"interactions": 2, "joined": 2}


def test_one_batch_may_hold_both_halves_in_either_order(join: LabelJoin) -> None:
    arrivals: list[Arrival] = [
        interaction("a"),
        feedback(id_="b", offset=0),
        feedback(id_="a", offset=1),
        interaction("b", offset=1),
    ]
    outcomes = join.apply(arrivals, now_ms=NOW_MS)
    assert statuses(outcomes) == [Status.WAITING, Status.PENDING, Status.JOINED, Status.JOINED]
    assert [outcome.arrival for outcome in outcomes] == [0, 1, 2, 3]


def test_a_redelivered_record_gives_its_example_until_it_is_confirmed(join: LabelJoin) -> None:
    join.apply([interaction()], now_ms=NOW_MS)
    first = join.apply([feedback()], now_ms=NOW_MS)
    again = join.apply([feedback()], now_ms=NOW_MS + 1)
    assert (first[0].counted, again[0].counted) == (True, False)
    assert again[0].example == first[0].example
    join.confirm(again)
    (confirmed,) = join.apply([feedback()], now_ms=NOW_MS)
    assert (confirmed.status, confirmed.example) == (Status.JOINED, None)
    (halfway,) = join.apply([interaction()], now_ms=NOW_MS)
    assert (halfway.status, halfway.example, halfway.counted) == (Status.JOINED, None, False)
    assert totals(join) == {"interactions": 1, "joined": 1, "feedback": 1, "feedback_joined": 1}


def test_only_the_record_that_completed_the_join_gives_its_example_again(join: LabelJoin) -> None:
    join.apply([feedback()], now_ms=NOW_MS)
    join.apply([interaction()], now_ms=NOW_MS)
    (by_feedback,) = join.apply([feedback()], now_ms=NOW_MS)
    (by_interaction,) = join.apply([interaction()], now_ms=NOW_MS)
    assert by_feedback.example is None
    assert by_interaction.example is not None


def test_a_second_interaction_with_a_known_id_is_repeated_once_a_position(join: LabelJoin) -> None:
    join.apply([interaction()], now_ms=NOW_MS)
    outcomes = join.apply([interaction(offset=1), interaction(offset=1)], now_ms=NOW_MS)
    assert statuses(outcomes) == [Status.REPEATED, Status.REPEATED]
    assert [outcome.counted for outcome in outcomes] == [True, False]
    assert totals(join) == {"interactions": 1, "waiting": 1, "repeated": 1}


def test_without_consent_there_is_never_an_example(join: LabelJoin) -> None:
    join.apply([feedback(offset=0)], now_ms=NOW_MS)
    outcomes = join.apply([interaction(consent=False, label="yes")], now_ms=NOW_MS)
    outcomes += join.apply([feedback(offset=1), interaction(consent=False)], now_ms=NOW_MS)
    assert statuses(outcomes) == [Status.REFUSED] * 3
    assert all(outcome.example is None for outcome in outcomes)
    assert totals(join) == {
        "interactions": 1,
        "refused": 1,
        "feedback": 2,
        "feedback_refused": 2,
    }


def test_the_same_label_again_is_repeated_and_another_label_contradicted(join: LabelJoin) -> None:
    arrivals: list[Arrival] = [interaction(label="yes"), feedback("yes"), feedback("no", offset=1)]
    outcomes = join.apply(arrivals, now_ms=NOW_MS)
    assert statuses(outcomes) == [Status.JOINED, Status.REPEATED, Status.CONTRADICTED]
    assert totals(join)["feedback_contradicted"] == 1


def test_a_correction_makes_a_new_revision_and_both_survive_a_crash(join: LabelJoin) -> None:
    join.apply([interaction()], now_ms=NOW_MS)
    (first,) = join.apply([feedback("yes")], now_ms=NOW_MS)
    correction = feedback("no", offset=1, verb="correction")
    (second,) = join.apply([correction], now_ms=NOW_MS)
    assert second.status is Status.CORRECTED
    assert second.example is not None
    assert (second.example.revision, second.example.previous) == (2, "yes")
    assert join.apply([feedback("yes")], now_ms=NOW_MS)[0].example == first.example
    assert join.apply([correction], now_ms=NOW_MS)[0].example == second.example
    assert totals(join) == {
        "interactions": 1,
        "joined": 1,
        "feedback": 2,
        "feedback_joined": 1,
        "feedback_corrected": 1,
    }


def test_everything_that_waited_for_an_interaction_acts_in_order(join: LabelJoin) -> None:
    waiting: list[Arrival] = [
        feedback(None, offset=0, verb="click"),
        feedback(None, offset=1),
        feedback("yes", offset=2),
        feedback("no", offset=3, verb="correction"),
        feedback("maybe", offset=4),
    ]
    join.apply(waiting, now_ms=NOW_MS)
    outcomes = join.apply([interaction()], now_ms=NOW_MS)
    assert statuses(outcomes) == [Status.MISMATCHED, Status.JOINED, Status.CORRECTED]
    assert (outcomes[0].position, outcomes[0].raw) == ("feedback:0:1", b"raw \xfe1")
    again = join.apply([interaction()], now_ms=NOW_MS)
    assert [(o.raw, o.example) for o in again] == [(o.raw, o.example) for o in outcomes]
    join.confirm(again)
    (quiet,) = join.apply([interaction()], now_ms=NOW_MS)
    assert (quiet.status, quiet.example, quiet.raw) == (Status.JOINED, None, None)
    assert totals(join) == {
        "interactions": 1,
        "joined": 1,
        "feedback": 5,
        **{
            f"feedback_{fate}": 1
            for fate in ("unused", "mismatched", "joined", "corrected", "contradicted")
        },
    }


def test_a_value_of_the_wrong_type_is_a_mismatch_and_the_interaction_waits(
    join: LabelJoin,
) -> None:
    join.apply([feedback(None)], now_ms=NOW_MS)
    outcomes = join.apply([interaction(), feedback(None, offset=1)], now_ms=NOW_MS)
    assert statuses(outcomes) == [Status.MISMATCHED, Status.WAITING, Status.MISMATCHED]
    assert outcomes[2].raw == b"raw \xfe1"
    assert totals(join)["waiting"] == 1


def test_a_rating_that_its_kind_does_not_use_is_unused(join: LabelJoin) -> None:
    join.apply([interaction()], now_ms=NOW_MS)
    (outcome,) = join.apply([feedback(None, verb="rating")], now_ms=NOW_MS)
    assert outcome.status is Status.UNUSED


def test_what_waits_too_long_is_given_up_and_labels_after_that_are_late(join: LabelJoin) -> None:
    join.apply([interaction(), feedback(id_="ghost")], now_ms=NOW_MS)
    assert join.expire(now_ms=NOW_MS + TTL_MS - 1, limit=100) == 0
    assert join.expire(now_ms=NOW_MS + TTL_MS, limit=100) == 2
    assert join.expire(now_ms=NOW_MS + TTL_MS, limit=100) == 0
    outcomes = join.apply([feedback(offset=1), interaction()], now_ms=NOW_MS + TTL_MS)
    assert statuses(outcomes) == [Status.LATE, Status.EXPIRED]
    assert totals(join) == {
        "interactions": 1,
        "expired": 1,
        "feedback": 2,
        "feedback_orphaned": 1,
        "feedback_late": 1,
    }


def test_feedback_of_one_unknown_interaction_is_bounded(join: LabelJoin) -> None:
    outcomes = join.apply([feedback(offset=n) for n in range(18)], now_ms=NOW_MS)
    assert statuses(outcomes) == [Status.PENDING] * 16 + [Status.ORPHANED] * 2
    assert totals(join)["feedback_orphaned"] == 2


def test_a_dead_record_is_counted_once_a_position_and_digest(join: LabelJoin) -> None:
    assert join.count_dead([DeadRecord("-", "interactions:0:9", "aa")]) == 1
    assert join.count_dead([DeadRecord("-", "interactions:0:9", "aa")]) == 0
    assert join.count_dead([DeadRecord("intents", "interactions:0:9", "bb")]) == 1
    assert join.counters()["intents"]["dead"] == 1
    assert totals(join) == {"interactions": 2, "dead": 2}


def test_every_key_but_indexes_and_counters_goes_away_by_itself(
    join: LabelJoin, redis: redis_client.Redis
) -> None:
    arrivals: list[Arrival] = [
        interaction("a", label="yes"),
        interaction("a", offset=5),
        interaction("b", offset=1),
        interaction("c", offset=2, consent=False),
        feedback(id_="d"),
        feedback(id_="b", offset=1),
        feedback("no", id_="b", offset=2, verb="correction"),
    ]
    join.apply(arrivals, now_ms=NOW_MS)
    join.count_dead([DeadRecord("-", "interactions:0:9", "aa")])
    for key in redis.scan_iter():
        name = str(key, "utf-8").split(":")[2]
        assert (redis.pttl(key) > 0) == (name not in ("w", "o", "n")), key


def test_a_server_that_lost_its_scripts_is_taught_again(
    join: LabelJoin, redis: redis_client.Redis
) -> None:
    join.apply([interaction()], now_ms=NOW_MS)
    redis.script_flush()
    outcomes = join.apply([interaction(str(n), offset=n + 1) for n in range(20)], now_ms=NOW_MS)
    assert statuses(outcomes) == [Status.WAITING] * 20


def test_a_connection_that_decodes_is_refused(redis_server: str) -> None:
    client = redis_client.Redis.from_url(redis_server, decode_responses=True)
    with pytest.raises(ValueError, match="decode_responses is True"):
        LabelJoin(client, namespace="test", ttl_s=1, remember_s=1)
    client.close()


def test_numbers_that_are_not_positive_are_refused(redis: redis_client.Redis) -> None:
    with pytest.raises(ValueError, match="shards is 0: it must be positive"):
        LabelJoin(redis, namespace="test", shards=0, ttl_s=1, remember_s=1)
