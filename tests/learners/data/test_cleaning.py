from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from learners.data.cleaning import (
    Cleaner,
    CleaningConfig,
    collapse_white_space,
    strip_control,
    strip_markup,
)

PIECES = st.sampled_from(
    ["<b>", "</b>", "<", ">", "&amp;", "&#8203;", "http://", "https://a.b", "www.", ".", ")", "e"]
    + ["\u0301", "\u200b", "\u200d", "\x00", "\x1f", "\x85", "\t", "\n", " ", "\u3000", "\ud800"]
)
texts = st.text() | st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join)
switches = st.booleans()
configs = st.builds(
    CleaningConfig,
    markup=switches,
    control=switches,
    normal_form=switches,
    urls=switches,
    white_space=switches,
)


@given(texts)
def test_without_switches_a_text_stays_as_it_is(text: str) -> None:
    assert Cleaner(CleaningConfig())(text) == text


@given(texts, configs)
@example(
    "e\u200b\u0301 www.a.b",
    CleaningConfig(control=True, normal_form=True, urls=True, white_space=True),
)
def test_cleaning_twice_is_cleaning_once_where_markup_is_left_alone(
    text: str, config: CleaningConfig
) -> None:
    clean = Cleaner(config)
    once = clean(text)
    if not config.markup:
        assert clean(once) == once


@given(texts, configs)
def test_every_rule_that_is_on_holds_for_the_result(text: str, config: CleaningConfig) -> None:
    cleaned = Cleaner(config)(text)
    if config.control:
        assert not any(
            unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n\r" for c in cleaned
        )
        cleaned.encode()  # no half of a surrogate pair is left
    if config.normal_form:
        assert unicodedata.is_normalized("NFC", cleaned)
    if config.white_space:
        assert cleaned == cleaned.strip()
        assert cleaned.split() == cleaned.split(" ") or not cleaned


@given(st.text(alphabet="abc xyz.,!?", min_size=1), configs)
def test_plain_words_are_left_alone_but_for_white_space(text: str, config: CleaningConfig) -> None:
    assert Cleaner(config)(text).split() == text.split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see https://example.org/a_(b)?q=1#x, now", "see url, now"),
        ("(www.example.org)", "(url)"),
        ("HTTP://EXAMPLE.ORG", "url"),
        ("https:// and www. alone", "https:// and www. alone"),
    ],
)
def test_an_address_becomes_a_placeholder_without_the_punctuation_around_it(
    text: str, expected: str
) -> None:
    assert Cleaner(CleaningConfig(urls=True))(text) == expected


def test_the_placeholder_is_taken_literally() -> None:
    clean = Cleaner(CleaningConfig(urls=True, url_placeholder=r"\1<link>"))
    assert clean("to https://a.b") == r"to \1<link>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<a href='x'>here</a>", "here"),
        ("a<br/>b<!-- no -->c", "a b c"),
        ("a < b, c > d, I <3 you", "a < b, c > d, I <3 you"),
        ("&lt;b&gt; &amp;", "<b> &"),
        ("<p", "<p"),
    ],
)
def test_markup_goes_and_comparisons_stay(text: str, expected: str) -> None:
    assert collapse_white_space(strip_markup(text)) == expected


def test_joined_emoji_and_flags_of_regions_survive() -> None:
    for text in (
        "\U0001f468\u200d\U0001f469",
        "\u0646\u200c\u0645",
        "\U0001f3f4\U000e0067\U000e007f",
    ):
        assert strip_control(text) == text
    assert strip_control("so\u00adft\ufeff\u202e a\x1fb") == "soft a b"


@pytest.mark.parametrize(
    "piece", ["<a", "<!--", "https://", "www.", "&#", "https://.", "http://)."]
)
def test_hostile_texts_are_cleaned_in_little_time(piece: str) -> None:
    clean = Cleaner(CleaningConfig(True, True, True, True, white_space=True))
    start = time.monotonic()
    clean(piece * 20_000)
    assert time.monotonic() - start < 5
