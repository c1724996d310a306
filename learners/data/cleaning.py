"""Cleaning rules: what in a text is noise to a tokenizer. A text in, a text out.

Owns the rules and their order; must not know labels, tokenizers or streams. What is cleaned before
learning must be cleaned before serving, with the same config: a model reads what it was taught.

Normal form C is that of Unicode Standard Annex 15; markup is what the HTML standard calls tags,
comments and character references.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# A tag, a comment or a declaration. None may hold an angle bracket, which keeps the search linear
# in the text; `a < b` and `<3` are no markup.
_MARKUP = re.compile(r"<[/!?]?[A-Za-z-][^<>]*>")
# Up to white space, a quote or a bracket; the punctuation that ends the sentence is not part of it.
_URL = re.compile(r"""(?:https?://|www\.)[^\s<>"]*[^\s<>".,;:!?)\]}']""", re.IGNORECASE)
# Joiners change how emoji, Persian and Indic letters read; tags spell the flags of regions.
_MEANINGFUL_FORMATS = frozenset("\u200c\u200d") | {chr(code) for code in range(0xE0020, 0xE0080)}


@dataclass(frozen=True, slots=True)
class CleaningConfig:
    """Which rules are on; none by default, and then every text stays as it is.

    Attributes:
        markup: tags, comments and declarations become a space, character references (`&amp;`) what
            they stand for.
        control: control and invisible format characters go, but joiners and white space stay.
        normal_form: normalise to NFC, so that one letter has one spelling.
        urls: addresses become `url_placeholder`.
        url_placeholder: what an address becomes; a word that the tokenizer knows is best.
        white_space: runs of white space become one space, and none is left at the ends.
    """

    markup: bool = False
    control: bool = False
    normal_form: bool = False
    urls: bool = False
    url_placeholder: str = "url"
    white_space: bool = False


def strip_markup(text: str) -> str:
    """Replace tags by spaces, then character references by their characters, once.

    What was written as `&lt;b&gt;` is text that shows a tag, and comes out as `<b>`: this rule
    alone may find something again in its own result.
    """
    return html.unescape(_MARKUP.sub(" ", text))


def strip_control(text: str) -> str:
    """Drop control, invisible format and half surrogate characters.

    Line ends and tabs stay; other control characters that separate words become spaces.
    """
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if character in "\t\n\r" or character in _MEANINGFUL_FORMATS:
        return character
    if unicodedata.category(character) not in ("Cc", "Cf", "Cs"):
        return character
    return " " if character.isspace() else ""


def normalise(text: str) -> str:
    """Compose letters and their marks: Unicode normal form C."""
    return unicodedata.normalize("NFC", text)


def collapse_white_space(text: str) -> str:
    """Turn runs of Unicode white space into one space; strip both ends."""
    return " ".join(text.split())


class Cleaner:
    r"""The rules that a config turns on, in one fixed order.

    The order is markup, control, normal form, URLs, white space: a rule may leave work for a later
    one (a character reference that stands for a control character), hardly for an earlier one.
    Without markup, cleaning twice gives what cleaning once gives.

    Args:
        config: which rules.

    Examples:
        >>> Cleaner(CleaningConfig())("  as   it is ")
        '  as   it is '
        >>> clean = Cleaner(CleaningConfig(markup=True, control=True, urls=True, white_space=True))
        >>> clean("<p>Tom &amp; Ann:\u200b see https://example.org/a?b=1.</p>")
        'Tom & Ann: see url.'
    """

    def __init__(self, config: CleaningConfig) -> None:
        self.config = config

        def hide_urls(text: str) -> str:
            return _URL.sub(lambda _: config.url_placeholder, text)

        switches: list[tuple[bool, Callable[[str], str]]] = [
            (config.markup, strip_markup),
            (config.control, strip_control),
            (config.normal_form, normalise),
            (config.urls, hide_urls),
            (config.white_space, collapse_white_space),
        ]
        self.rules: Sequence[Callable[[str], str]] = tuple(rule for on, rule in switches if on)

    def __call__(self, text: str) -> str:
        """Clean one text; the result may be empty."""
        for rule in self.rules:
            text = rule(text)
        return text
