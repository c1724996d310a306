"""From wordings to texts: draws slots and choices, adds small talk and the odd typo.

Owns how a text is made; the words are in `wordings.py`. Must not know time or Kafka.
"""

from __future__ import annotations

import random
import re

from mindstream.demo.wordings import (
    CLOSINGS,
    NAMES,
    OPENINGS,
    RENAMED,
    SLOTS,
    WORDINGS,
)

MIN_WORDS, MAX_WORDS = 4, 25
TYPO_SHARE = 0.08
RENAMED_SHARE = 0.85  # of a renamed intent's texts after the relaunch
BORROWED_SHARE = 0.75  # of those: the words of another intent, about the named service
_ABOUT_ITEMS = tuple(w for wordings in WORDINGS.values() for w in wordings if "{item}" in w)

_CHOICE = re.compile(r"\(([^()]+)\)")
_SLOT = re.compile(r"\{(\w+)\}")


def make_text(intent: str, draw: random.Random, *, relaunched: bool = False) -> str:
    """Write one text of 4 to 25 words.

    Args:
        intent: one of the wordings' keys.
        draw: the only source of chance.
        relaunched: renamed intents are mostly said in their new words.

    Examples:
        >>> make_text("gift card", random.Random(1)) == make_text("gift card", random.Random(1))
        True
    """
    while True:
        core = _expand(_wording(intent, draw, relaunched=relaunched), draw)
        parts = (draw.choice(OPENINGS), core, draw.choice(CLOSINGS))
        text = " ".join(part for part in parts if part)
        if draw.random() < TYPO_SHARE:
            text = _mistype(text, draw)
        if draw.random() < 0.5:
            text = text[0].upper() + text[1:]
        text += draw.choice(("", "", ".", "!", "?"))
        if MIN_WORDS <= len(text.split()) <= MAX_WORDS:
            return text


def _wording(intent: str, draw: random.Random, *, relaunched: bool) -> str:
    if not relaunched or intent not in RENAMED or draw.random() >= RENAMED_SHARE:
        return draw.choice(WORDINGS[intent])
    if draw.random() < BORROWED_SHARE:
        return draw.choice(_ABOUT_ITEMS).replace("{item}", NAMES[intent])
    return draw.choice(RENAMED[intent])


def _expand(wording: str, draw: random.Random) -> str:
    text = _CHOICE.sub(lambda match: draw.choice(match[1].split("|")), wording)
    return _SLOT.sub(lambda match: _fill(match[1], draw), text)


def _fill(slot: str, draw: random.Random) -> str:
    if slot == "number":
        return str(draw.randrange(10_000, 1_000_000))
    if slot == "amount":
        cents = draw.choice(("", ".50", ".99"))
        return f"{draw.randrange(3, 400)}{cents} {draw.choice(('euros', 'pounds', 'dollars'))}"
    return draw.choice(SLOTS[slot])


def _mistype(text: str, draw: random.Random) -> str:
    """Swap, drop or double one letter of one longer word."""
    words = text.split(" ")
    long = [place for place, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    if not long:
        return text
    place = draw.choice(long)
    word = words[place]
    at = draw.randrange(1, len(word) - 2)
    words[place] = draw.choice(
        (
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
        )
    )
    return " ".join(words)
