"""The streams that learners are measured on, made of real rows.

Owns what comes in which order and what is tested when; must not know learners or measures.
Everything random follows from the seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.data import OUT_OF_SCOPE, Row, cut_down, labels_of, read, shuffled

FOREVER = 1_000_000
MAX_DELAY = 5_000  # events
SHIFT5 = ("yelp", "agnews", "dbpedia", "amazon", "yahoo2")


@dataclass(frozen=True, slots=True)
class Task:
    """A stretch of the stream; tests follow it.

    Attributes:
        name: for people.
        rows: in stream order, with the labels that are given.
    """

    name: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Test rows that are scored together.

    Attributes:
        name: for people.
        rows: with their true labels.
        first: number of the first task after which they are tested.
        last: number of the last one.
    """

    name: str
    rows: tuple[Row, ...]
    first: int = 0
    last: int = FOREVER


@dataclass(frozen=True, slots=True)
class Stream:
    """One order of one scenario.

    Attributes:
        name: of the scenario, and its variant where there are several.
        tasks: what is learned, in order.
        groups: what is tested.
        unknown: rows of no label, for the measure of unknown inputs.
        delays: events from each row's text to its label; empty: labels come with texts.
    """

    name: str
    tasks: tuple[Task, ...]
    groups: tuple[Group, ...]
    unknown: tuple[Row, ...] = ()
    delays: tuple[int, ...] = ()

    @property
    def train(self) -> list[Row]:
        """Every row to be learned, in stream order."""
        return [row for task in self.tasks for row in task.rows]

    @property
    def texts(self) -> list[str]:
        """Every text that is read."""
        tests = [row for group in self.groups for row in group.rows]
        return [row.text for row in (*self.train, *tests, *self.unknown)]


def banking77(rows: Sequence[Row], seed: int) -> list[Stream]:
    """Bring new classes in tasks: 7 of 11, their order by seed."""
    chance = random.Random(seed)
    labels = labels_of(rows)
    chance.shuffle(labels)
    count = 7 if len(labels) >= 77 else 3
    pieces = [
        labels[n * len(labels) // count : (n + 1) * len(labels) // count] for n in range(count)
    ]
    names = [f"classes {n + 1}" for n in range(count)]
    return [_by_labels("banking77", rows, pieces, names, chance)]


def clinc150(rows: Sequence[Row], seed: int) -> list[Stream]:
    """Bring the 15 classes of each of 10 domains together, domains in an order by seed."""
    chance = random.Random(seed)
    known = _known(rows)
    domains = sorted({row.domain for row in known})
    chance.shuffle(domains)
    pieces = [labels_of(row for row in known if row.domain == domain) for domain in domains]
    stream = _by_labels("clinc150", known, pieces, domains, chance)
    unknown = tuple(row for row in rows if row.label == OUT_OF_SCOPE and row.split == "test")
    return [replace(stream, unknown=unknown)]


def shift5(rows: Sequence[Row], seed: int) -> list[Stream]:
    """Change the source of texts and the labels: five sources, in an order and its reverse."""
    sources = [name for name in SHIFT5 if any(row.domain == name for row in rows)]
    return [
        _by_domains(f"shift5 {name}", rows, order, random.Random(seed))
        for name, order in (("forward", sources), ("backward", sources[::-1]))
    ]


def airline(rows: Sequence[Row], seed: int) -> list[Stream]:
    """Follow time; what is tested is the last fifth, which comes after everything learned."""
    del seed  # time has one order
    train = [row for row in rows if row.split == "train"]
    later = tuple(row for row in rows if row.split == "test")
    return [Stream("airline", _stretches(train, 8), (Group("later", later),))]


def remap(rows: Sequence[Row], seed: int) -> list[Stream]:
    """Let a fifth of the labels (30 of 150) exchange their texts after four fifths of the rows."""
    chance = random.Random(seed)
    known = _known(rows)
    labels = labels_of(known)
    chosen = sorted(chance.sample(labels, max(2, len(labels) // 5)))
    new = dict(zip(chosen, chosen[1:] + chosen[:1], strict=True))
    by_label = {label: shuffled(_train(known, label), chance) for label in labels}
    early = [row for mine in by_label.values() for row in mine[: len(mine) * 4 // 5]]
    late = {label: mine[len(mine) * 4 // 5 :] for label, mine in by_label.items()}

    def renamed(row: Row) -> Row:
        return replace(row, label=new.get(row.label, row.label))

    tasks = [Task("before", tuple(shuffled(early, chance)))]
    for start, end in ((0, 5), (5, 10), (10, 20)):
        piece = [renamed(row) for mine in late.values() for row in mine[start:end]]
        if piece:
            tasks.append(Task(f"after {end}", tuple(shuffled(piece, chance))))
    test = [row for row in known if row.split == "test"]
    moved = tuple(row for row in test if row.label in new)
    groups = (
        Group("others", tuple(row for row in test if row.label not in new)),
        Group("remapped, old", moved, last=0),
        Group("remapped", tuple(renamed(row) for row in moved), first=1),
    )
    return [Stream("remap", tuple(tasks), groups)]


def recurring(rows: Sequence[Row], seed: int) -> list[Stream]:
    """Let every domain come twice, each time with half of its rows."""
    chance = random.Random(seed)
    known = _known(rows)
    domains = sorted({row.domain for row in known})
    chance.shuffle(domains)
    train = {
        domain: shuffled((r for r in known if r.domain == domain and r.split == "train"), chance)
        for domain in domains
    }
    first = [Task(domain, tuple(train[domain][::2])) for domain in domains]
    second = [Task(f"{domain} again", tuple(train[domain][1::2])) for domain in domains]
    groups = tuple(_test(known, domain, first=n) for n, domain in enumerate(domains))
    return [Stream("recurring", (*first, *second), groups)]


def imbalance(rows: Sequence[Row], seed: int) -> list[Stream]:
    """Give the most frequent label 50 rows for each of the rarest; the rarest third apart."""
    chance = random.Random(seed)
    known = _known(rows)
    labels = labels_of(known)
    chance.shuffle(labels)
    kept: list[Row] = []
    for n, label in enumerate(labels):
        mine = shuffled(_train(known, label), chance)
        share = 50.0 ** (-n / max(len(labels) - 1, 1))
        kept += mine[: max(1, round(len(mine) * share))]
    rare = set(labels[-(len(labels) // 3) :])
    test = [row for row in known if row.split == "test"]
    groups = (
        Group("rarest third", tuple(row for row in test if row.label in rare)),
        Group("others", tuple(row for row in test if row.label not in rare)),
    )
    return [Stream("imbalance", _stretches(shuffled(kept, chance), 5), groups)]


def noise(share: float) -> Callable[[Sequence[Row], int], list[Stream]]:
    """Make a scenario in which a share of the given labels is wrong; tests are clean."""

    def build(rows: Sequence[Row], seed: int) -> list[Stream]:
        chance = random.Random(seed)
        labels = labels_of(rows)
        train = [
            replace(row, label=chance.choice([other for other in labels if other != row.label]))
            if chance.random() < share
            else row
            for row in shuffled((row for row in rows if row.split == "train"), chance)
        ]
        test = tuple(row for row in rows if row.split == "test")
        name = f"noise{round(100 * share)}"
        return [Stream(name, _stretches(train, 5), (Group("clean", test),))]

    return build


def delay(rows: Sequence[Row], seed: int) -> list[Stream]:
    """Let labels come 0 to 5,000 events after their texts, or half the stream if it is shorter."""
    [stream] = banking77(rows, seed)
    chance = random.Random(seed)
    longest = min(MAX_DELAY, len(stream.train) // 2)
    delays = tuple(chance.randint(0, longest) for _ in stream.train)
    return [replace(stream, name="delay", delays=delays)]


@dataclass(frozen=True, slots=True)
class Scenario:
    """How to make streams.

    Attributes:
        files: of the data set.
        build: from its rows and a seed to its streams.
        meaning: one line for people.
    """

    files: tuple[str, ...]
    build: Callable[[Sequence[Row], int], list[Stream]]
    meaning: str

    def streams(self, folder: Path, *, seed: int, quick: bool) -> list[Stream]:
        """Read the data and make the streams of a seed; `quick` cuts the data down."""
        rows = read(folder, *self.files)
        if quick:
            domains = 1 if self.files == BANKING else 3
            labels = 12 if domains == 1 else 4
            rows = cut_down(rows, domains=domains, labels=labels, train_rows=30, test_rows=10)
        return self.build(rows, seed)


BANKING = ("banking77/data",)
CLINC = ("clinc150/data",)
SCENARIOS = {
    "banking77": Scenario(BANKING, banking77, "new classes: 77 intents, 7 tasks of 11"),
    "clinc150": Scenario(CLINC, clinc150, "new classes: 150 intents, 10 domains of 15"),
    "shift5": Scenario(
        tuple(f"shift5/{name}" for name in SHIFT5), shift5, "new sources and labels, two orders"
    ),
    "airline": Scenario(("airline_tweets/data",), airline, "sentiment, in the order of time"),
    "remap": Scenario(CLINC, remap, "30 of 150 labels change their meaning"),
    "recurring": Scenario(CLINC, recurring, "every domain comes twice"),
    "imbalance": Scenario(CLINC, imbalance, "150 labels, 50 rows to 1"),
    "noise10": Scenario(BANKING, noise(0.1), "a tenth of the labels is wrong"),
    "noise30": Scenario(BANKING, noise(0.3), "three tenths of the labels are wrong"),
    "delay": Scenario(BANKING, delay, "labels come up to 5,000 events late"),
}


def _known(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.label != OUT_OF_SCOPE]


def _train(rows: Sequence[Row], label: str) -> list[Row]:
    return [row for row in rows if row.split == "train" and row.label == label]


def _test(rows: Sequence[Row], domain: str, *, first: int) -> Group:
    mine = tuple(row for row in rows if row.domain == domain and row.split == "test")
    return Group(domain, mine, first=first)


def _stretches(rows: Sequence[Row], count: int) -> tuple[Task, ...]:
    ends = [n * len(rows) // count for n in range(count + 1)]
    return tuple(Task(f"part {n + 1}", tuple(rows[ends[n] : ends[n + 1]])) for n in range(count))


def _by_labels(
    name: str,
    rows: Sequence[Row],
    pieces: Sequence[Sequence[str]],
    names: Sequence[str],
    chance: random.Random,
) -> Stream:
    tasks, groups = [], []
    for n, (labels, title) in enumerate(zip(pieces, names, strict=True)):
        mine = [row for row in rows if row.label in set(labels)]
        train = shuffled((row for row in mine if row.split == "train"), chance)
        tasks.append(Task(title, tuple(train)))
        test = tuple(row for row in mine if row.split == "test")
        groups.append(Group(title, test, first=n))
    return Stream(name, tuple(tasks), tuple(groups))


def _by_domains(
    name: str, rows: Sequence[Row], domains: Sequence[str], chance: random.Random
) -> Stream:
    tasks = []
    for domain in domains:
        train = (row for row in rows if row.domain == domain and row.split == "train")
        tasks.append(Task(domain, tuple(shuffled(train, chance))))
    groups = tuple(_test(rows, domain, first=n) for n, domain in enumerate(domains))
    return Stream(name, tuple(tasks), groups)
