"""Augmentation: more wordings of a labelled text, the label unchanged.

Owns the four edits of EDA and the hooks that synonyms and paraphrases come in by; must not know
encoders, heads or streams. Randomness is an argument: the same draws give the same wordings.

EDA: Wei & Zou, "EDA: Easy Data Augmentation Techniques for Boosting Performance on Text
Classification Tasks", EMNLP 2019, section 2: replacement by synonyms, insertion of synonyms, swap,
deletion. Ours differs: synonyms come from where the caller says (the paper's from WordNet), each
wording takes one edit in turn, one that changed nothing is left out, and the words in `keep` are
never replaced or deleted. Words are what white space parts: a text written without spaces is one
word, and only paraphrases change it.

That a label survives is an assumption, and at a `share` of .1 mostly a true one. Compare with and
without on held-out rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, Protocol

Edit = Literal["replace", "insert", "swap", "delete"]
EDITS: tuple[Edit, ...] = ("replace", "insert", "swap", "delete")

# English words that carry no topic, and those that turn a sentence into its opposite.
# fmt: off
KEEP = frozenset({
    "a", "an", "the", "and", "or", "but", "if", "of", "to", "in", "on", "at", "by", "for", "from",
    "with", "as", "is", "are", "was", "were", "be", "been", "am", "do", "does", "did", "have",
    "has", "had", "i", "you", "he", "she", "it", "we", "they", "me", "my", "your", "his", "her",
    "its", "our", "their", "this", "that", "these", "those",
    "no", "not", "never", "nor", "none", "nothing", "without", "cannot", "can't", "don't",
    "doesn't", "didn't", "won't", "isn't", "wasn't",
})
# fmt: on

_WORD = re.compile(r"^(\W*)(\w(?:.*\w)?)(\W*)$", re.DOTALL)


class Synonyms(Protocol):
    """Where words of like meaning come from."""

    def of(self, word: str) -> Sequence[str]:
        """List words that may stand for a lower-case word, best first; none if it is not known."""
        ...


class Paraphraser(Protocol):
    """A way to say a whole text anew, such as translation to another language and back.

    Back-translation: Sennrich, Haddow & Birch, ACL 2016. None is built in, for it needs two
    translators.
    """

    def paraphrase(self, text: str, *, random: Random) -> Sequence[str]:
        """Say a text in other words; the same draws give the same answer."""
        ...


class NoSynonyms:
    """No word has a synonym: only swap and deletion change a text."""

    def of(self, word: str) -> Sequence[str]:
        """List nothing."""
        del word
        return ()


@dataclass(frozen=True, slots=True)
class AugmentationConfig:
    """How many wordings, and how far from the text.

    Attributes:
        wordings: of EDA's edits, at most this many a text; none by default.
        share: of a text's words that one wording edits, 0 to 1; at least one word.
        edits: taken in turn.
        keep: lower-case words that are never replaced or deleted.
    """

    wordings: int = 0
    share: float = 0.1
    edits: tuple[Edit, ...] = EDITS
    keep: frozenset[str] = KEEP


class Augmenter:
    """Makes other wordings of a text.

    Examples:
        >>> augmenter = Augmenter(AugmentationConfig(wordings=1, edits=("swap",)))
        >>> augmenter.wordings("money back", random=Random(1))
        ['back money']
    """

    def __init__(
        self,
        config: AugmentationConfig,
        *,
        synonyms: Synonyms | None = None,
        paraphrasers: Sequence[Paraphraser] = (),
    ) -> None:
        """Say where words come from.

        Args:
            config: how many wordings, and how far from the text.
            synonyms: for replacement and insertion; by default there are none.
            paraphrasers: each adds what it says to the edits' wordings.

        Raises:
            ValueError: a number is out of its range, or an edit unknown.
        """
        if config.wordings < 0:
            raise ValueError(f"wordings is {config.wordings}: it must not be negative")
        if not 0 <= config.share <= 1:
            raise ValueError(f"share is {config.share}: it must be 0 to 1")
        if not config.edits or not set(config.edits) <= set(EDITS):
            raise ValueError(f"edits are {config.edits}: one or more of {', '.join(EDITS)}")
        self.config = config
        self._synonyms = NoSynonyms() if synonyms is None else synonyms
        self._paraphrasers = tuple(paraphrasers)
        self._edits: dict[Edit, Callable[[list[str], int, Random], list[str]]] = {
            "replace": self._replace,
            "insert": self._insert,
            "swap": _swap,
            "delete": self._delete,
        }

    def wordings(self, text: str, *, random: Random) -> list[str]:
        """Make other wordings of a text.

        Args:
            text: any.
            random: what chance is drawn from.

        Returns:
            At most `wordings` edits, then every paraphrase; none equal to the text or to another.
        """
        words = text.split()
        count = max(1, int(self.config.share * len(words)))
        found: dict[str, None] = {}  # a set that keeps the order
        for turn in range(self.config.wordings if words else 0):
            edit = self._edits[self.config.edits[turn % len(self.config.edits)]]
            edited = edit(list(words), count, random)
            if edited != words:
                found[" ".join(edited)] = None
        for paraphraser in self._paraphrasers:
            found |= dict.fromkeys(paraphraser.paraphrase(text, random=random))
        return [wording for wording in found if wording != text and wording.strip()]

    def _replace(self, words: list[str], count: int, random: Random) -> list[str]:
        """Put synonyms in the place of up to `count` words."""
        places = [place for place, word in enumerate(words) if self._choices(word)]
        for place in random.sample(places, min(count, len(places))):
            before, word, after = _parts(words[place])
            synonym = random.choice(self._choices(words[place]))
            words[place] = before + _in_case_of(word, synonym) + after
        return words

    def _insert(self, words: list[str], count: int, random: Random) -> list[str]:
        """Put synonyms of words of the text at random places."""
        known = [word for word in words if self._choices(word)]
        for _ in range(count if known else 0):
            synonym = random.choice(self._choices(random.choice(known)))
            words.insert(random.randint(0, len(words)), synonym)
        return words

    def _delete(self, words: list[str], count: int, random: Random) -> list[str]:
        """Drop up to `count` words, never the last one left."""
        places = [place for place, word in enumerate(words) if not self._is_kept(word)]
        gone = set(random.sample(places, min(count, len(places), len(words) - 1)))
        return [word for place, word in enumerate(words) if place not in gone]

    def _choices(self, word: str) -> Sequence[str]:
        return () if self._is_kept(word) else self._synonyms.of(_parts(word)[1].lower())

    def _is_kept(self, word: str) -> bool:
        return _parts(word)[1].lower().replace("\u2019", "'") in self.config.keep


def _swap(words: list[str], count: int, random: Random) -> list[str]:
    """Swap two random words, `count` times."""
    for _ in range(count if len(words) > 1 else 0):
        one, other = random.sample(range(len(words)), 2)
        words[one], words[other] = words[other], words[one]
    return words


def _parts(word: str) -> tuple[str, str, str]:
    """Part a word from the punctuation around it."""
    match = _WORD.match(word)
    return (match[1], match[2], match[3]) if match else (word, "", "")


def _in_case_of(word: str, synonym: str) -> str:
    if len(word) > 1 and word.isupper():
        return synonym.upper()
    return synonym.capitalize() if word[:1].isupper() else synonym
