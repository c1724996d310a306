"""The laws of replay memory: what stays, what is drawn, and the words for both.

Owns rows, reports, policies, shares and the grid of losses; must not know where rows are kept.

What stays, by policy, when the memory is full:
    class-balanced: every row comes in; a row drawn at random from the largest class goes, the new
        one counted (the greedy balancing sampler of GDumb, Prabhu et al., ECCV 2020; ours draws the
        victim among the rows that were there before).
    reservoir: the n-th offer stays with probability size/n and replaces a row drawn at random
        (Algorithm R, Vitter, ACM TOMS 11(1), 1985).
    recency-mixed: the newest `recent_rows` rows stay; those that leave this window are the stream
        of a reservoir that fills the rest (the short- and the long-term memory of Isele and Cosgun,
        "Selective Experience Replay for Lifelong Learning", AAAI 2018, matching the distribution;
        ours are within one bound, and share no row).
    loss-aware: offers come in as to a reservoir; the row that goes is drawn with a chance inverse
        to its priority (loss-aware reservoir of Buzzega et al., "Rethinking Experience Replay: a
        Bag of Tricks", ICPR 2020; ours has no term for class balance and reads the last told loss).

What is drawn is a mixture of laws, each with its share; without shares, the policy's own:
    class-balanced: uniform over classes, then within the class (own law of class-balanced).
    uniform: over rows (own law of reservoir; half of recency-mixed's).
    recent: uniform over the newest `recent_rows` rows (the other half of recency-mixed's).
    loss: in proportion to priority (proportional prioritisation of Schaul et al., "Prioritized
        Experience Replay", ICLR 2016; ours takes no importance weights; own law of loss-aware).

A row's priority is its last told loss to the power 0.6, both on a grid of quarter octaves from 2^-8
to 2^8, so that equal priorities share a bucket, all sums are of whole numbers, and a draw costs no
more in a large memory than in a small one. A row of which no loss was told has the priority of the
most urgent level in memory, so that it is seen soon.

Laws that count offers are exact while rows are the bound that binds and no row was erased or
revised; close to it otherwise. A revised row is new: the newest, and of no known loss.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import msgspec

from schemas.fields import Label

Policy = Literal["class-balanced", "reservoir", "recency-mixed", "loss-aware"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
Law = Literal["class-balanced", "uniform", "recent", "loss"]
LAWS: tuple[Law, ...] = get_args(Law)

OWN_SHARES: Mapping[Policy, Mapping[Law, float]] = {
    "class-balanced": {"class-balanced": 1.0},
    "reservoir": {"uniform": 1.0},
    "recency-mixed": {"uniform": 0.5, "recent": 0.5},
    "loss-aware": {"loss": 1.0},
}

RECENT_ROWS = 2_000
LAST_LEVEL = 32  # of the grid of losses, both ways from loss 1
STEPS_OF_OCTAVE = 4
PRIORITY_POWER = 0.6  # Schaul et al., section 4: proportional variant
PLACE_BYTES = 26  # of a row's name, place and number of its class, stored beside it

_decoder = msgspec.msgpack.Decoder()  # untyped: the last field may be missing
_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class ReplayRow:
    """One example in memory.

    Attributes:
        id: the interaction's id.
        user: whose it is, so that it can be erased.
        label: canonical label; its first text, or "" for an empty list, is the class to balance.
        text: the input as the task's kind wrote it.
        revision: of the label; a newer one replaces the row.
        held_out: kept apart for the gate, never sampled.
    """

    id: str
    user: str
    label: Label
    text: str
    revision: int = 1
    held_out: bool = False

    @property
    def balanced_class(self) -> str:
        """The class that this row counts for."""
        return self.label if isinstance(self.label, str) else next(iter(self.label), "")


class OfferReport(NamedTuple):
    """What became of offered rows; `added + replaced + known + passed` are all of them.

    Attributes:
        added: new in memory.
        replaced: a newer revision of a row in memory.
        known: in memory already with this revision or a newer one.
        passed: not admitted by the law, or too large to fit.
        evicted: rows that made room.
    """

    added: int
    replaced: int
    known: int
    passed: int
    evicted: int


class ReplaySize(NamedTuple):
    """What is in memory.

    Attributes:
        rows: rows that train.
        bytes: of all rows as stored, with their names and places; lists of names, and what the
            server needs for itself, come on top.
        held_out_rows: rows kept apart.
    """

    rows: int
    bytes: int
    held_out_rows: int


class Cut(NamedTuple):
    """Which draws belong to a law: those in [start, start + width), stretched to [0, 1)."""

    law: Law
    start: float
    width: float


@dataclass(frozen=True, slots=True)
class ReplayLaws:
    """Which rows stay and which are drawn.

    Attributes:
        policy: what stays, one of `POLICIES`.
        shares: share of the draws by each law of `LAWS`, together 1; empty: the policy's own.
        recent_rows: how many of the newest rows are recent, 1 or more.

    Example:
        >>> ReplayLaws("reservoir", {"recent": 0.25, "loss": 0.75}).cuts()
        (Cut(law='recent', start=0.0, width=0.25), Cut(law='loss', start=0.25, width=0.75))
        >>> ReplayLaws("reservoir").cuts()
        (Cut(law='uniform', start=0.0, width=1.0),)
    """

    policy: Policy = "class-balanced"
    shares: Mapping[Law, float] = field(default_factory=dict)
    recent_rows: int = RECENT_ROWS

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"policy is {self.policy!r}: it must be one of {', '.join(POLICIES)}")
        if self.recent_rows < 1:
            raise ValueError(f"recent_rows is {self.recent_rows}: it must be 1 or more")
        check_shares(self.shares)

    def cuts(self) -> tuple[Cut, ...]:
        """Cut [0, 1) into the laws that have a share, in the order of `LAWS`."""
        shares = self.shares or OWN_SHARES[self.policy]
        laws = [law for law in LAWS if shares.get(law, 0.0) > 0.0]
        cuts: list[Cut] = []
        start = 0.0
        for law in laws:
            width = 1.0 - start if law == laws[-1] else shares[law]
            cuts.append(Cut(law, start, width))
            start += width
        return tuple(cuts)


def check_shares(shares: Mapping[Law, float]) -> None:
    """Refuse shares that are none.

    Raises:
        ValueError: a law is unknown, a share is outside 0 to 1, or they are not 1 together.
    """
    for law, share in shares.items():
        if law not in LAWS:
            raise ValueError(f"shares name the law {law!r}: it must be one of {', '.join(LAWS)}")
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"the share of {law} is {share:g}: it must be between 0 and 1")
    total = math.fsum(shares.values())
    if shares and not math.isclose(total, 1.0, abs_tol=1e-6):
        raise ValueError(f"shares are {total:g} together: they must be 1 together")


def check_bounds(**bounds: int) -> None:
    """Refuse bounds under zero.

    Raises:
        ValueError: naming the bound.
    """
    for name, value in bounds.items():
        if value < 0:
            raise ValueError(f"{name} is {value}: it must not be negative")


def check_draws(rows: int, draws: Sequence[float]) -> None:
    """Refuse draws that do not fit.

    Raises:
        ValueError: the draws are not `rows` numbers in [0, 1).
    """
    if len(draws) != rows or not all(0.0 <= draw < 1.0 for draw in draws):
        raise ValueError(f"{len(draws)} draws for {rows} rows: one each is needed, in [0, 1)")


def chances(row: ReplayRow) -> tuple[float, int]:
    """Derive a row's chances from its id and revision, so that offers need no randomness.

    Returns:
        Its draw of admission, in [0, 1), and the seed of a minimal standard generator.
    """
    digest = hashlib.blake2b(f"{row.id}\n{row.revision}".encode(), digest_size=12).digest()
    admit = (int.from_bytes(digest[:8], "big") >> 11) / 2**53
    return admit, 1 + int.from_bytes(digest[8:], "big") % 2_147_483_646


def levels_told(ids: Sequence[str], losses: Sequence[float]) -> dict[str, int]:
    """Put told losses on the grid; of an id told twice the last counts.

    Raises:
        ValueError: there is not one loss an id, or one is negative or not finite.

    Example:
        >>> levels_told(["a", "b", "c"], [0.0, 1.0, 2.0])
        {'a': -32, 'b': 0, 'c': 4}
    """
    if len(ids) != len(losses):
        raise ValueError(f"{len(losses)} losses for {len(ids)} ids: one each is needed")
    told: dict[str, int] = {}
    for id_, loss in zip(ids, losses, strict=True):
        if not (math.isfinite(loss) and loss >= 0.0):
            raise ValueError(f"the loss of {id_!r} is {loss}: it must be finite and not negative")
        exact = STEPS_OF_OCTAVE * math.log2(loss) if loss > 0.0 else -LAST_LEVEL
        told[id_] = max(-LAST_LEVEL, min(LAST_LEVEL, round(exact)))
    return told


def id_bytes(id_: str) -> bytes:
    r"""Give an id as it is stored: of a UUID as it is usually written, the 16 bytes it stands for.

    Example:
        >>> id_bytes("00000000-0000-4000-8000-0000000000ff")[-2:], id_bytes("a")
        (b'\x00\xff', b'a')
    """
    return _uuid_bytes(id_) or id_.encode()


def _uuid_bytes(id_: str) -> bytes:
    return bytes.fromhex(id_.replace("-", "")) if _UUID.fullmatch(id_) else b""


def written(row: ReplayRow) -> bytes:
    """Write a row as it is stored, without its class, which is stored once for all of its rows.

    Returns:
        How many bytes of the id come first (16, or 0), these, and MessagePack: the id if they are
        0, and the other fields in their order; the label where it is a list.
    """
    short = _uuid_bytes(row.id)
    fields = ("" if short else row.id, row.user, row.text, row.revision, row.held_out)
    labels = () if isinstance(row.label, str) else (row.label,)
    return bytes((len(short),)) + short + msgspec.msgpack.encode((*fields, *labels))


def read_back(data: bytes, class_: str) -> ReplayRow:
    """Read what `written` wrote.

    Args:
        data: what it wrote.
        class_: the row's `balanced_class`.

    Example:
        >>> read_back(written(ReplayRow("a", "u", ("x", "y"), "text", revision=2)), "x")
        ReplayRow(id='a', user='u', label=('x', 'y'), text='text', revision=2, held_out=False)
        >>> read_back(written(ReplayRow("a", "u", "x", "text")), "x").label
        'x'
    """
    start = 1 + data[0]
    id_, user, text, revision, held_out, *labels = _decoder.decode(data[start:])
    if start > 1:  # as str(uuid.UUID(...)) writes it, in a third of the time
        hexes = data[1:start].hex()
        id_ = f"{hexes[:8]}-{hexes[8:12]}-{hexes[12:16]}-{hexes[16:20]}-{hexes[20:]}"
    label = tuple(labels[0]) if labels else class_
    return ReplayRow(id_, user, label, text, revision, held_out)


def row_bytes(row: ReplayRow) -> int:
    """Count what a row takes of the bound in bytes: as it is stored, with its name and place."""
    return len(written(row)) + PLACE_BYTES


def priority(level: int) -> int:
    """Weigh a level of the grid, in thousandths of the priority of loss 1.

    The weight of the opposite level is the inverse, up to rounding.

    Example:
        >>> priority(-32), priority(0), priority(32)
        (36, 1000, 27858)
    """
    power = PRIORITY_POWER / STEPS_OF_OCTAVE
    return math.floor(1000 * math.pow(2.0, power * level) + 0.5)


DEFAULT_LAWS = ReplayLaws()
