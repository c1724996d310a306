"""Reads the user's own labelled texts: JSON lines or CSV, gzip or not, with every fault named.

Owns the file's format and checks; the order in which rows are streamed is `orders.py`'s. Must not
know events.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from learners.tasks import task_kind
from schemas.errors import LabelError, SettingsError
from schemas.fields import MAX_TEXT_CHARS, Label

MAX_PROBLEMS = 10  # named one by one; the others are counted
TEST_SPLIT = "test"
TEST_SHARE = 0.1  # of a file without a split column

Kind = Literal["classify", "multilabel"]


@dataclass(frozen=True, slots=True)
class DataFile:
    """Which file, and what in it is what.

    Attributes:
        path: JSON lines or CSV with a header; `.gz` at the end for gzip.
        text_column: the texts.
        label_column: the labels; lists make it a multilabel task.
        drop_labels: rows with one of these are left out.
        limit: rows that are streamed at most, drawn from the whole file, in its order; None: all.
    """

    path: Path
    text_column: str = "text"
    label_column: str = "label"
    drop_labels: tuple[str, ...] = ()
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One usable row.

    Attributes:
        line: in the file, from 1.
        domain: of the column `domain`; empty when there is none.
        time: of the column `timestamp`.
        user: of the column `user`; empty when there is none.
    """

    line: int
    text: str
    label: Label
    domain: str = ""
    time: datetime | None = None
    user: str = ""


@dataclass(frozen=True, slots=True)
class Data:
    """A whole file.

    Attributes:
        name: for people.
        kind: `multilabel` when labels are lists.
        stream: rows to stream, in file order.
        exam: rows kept for the end.
        dropped: rows left out because of their label.
    """

    name: str
    kind: Kind
    stream: tuple[Row, ...]
    exam: tuple[Row, ...]
    dropped: int


def read_data(file: DataFile) -> Data:
    """Read and check a file.

    Raises:
        SettingsError: the file cannot be used; every problem with its line number.
    """
    problems: list[str] = []
    found = list(_rows(file))
    if not found:
        raise SettingsError([f"{file.path}: there are no rows in it"])
    kind: Kind = "multilabel" if any(_is_list(raw, file) for _, raw in found) else "classify"
    stream: list[Row] = []
    exam: list[Row] = []
    dropped = 0
    has_split = any("split" in raw for _, raw in found)
    for line, raw in found:
        try:
            row = _row(line, raw, file, kind)
        except ValueError as error:
            problems.append(f"{file.path}, line {line}: {error}")
            continue
        if _is_dropped(row, file):
            dropped += 1
        elif _is_exam(raw, row, has_split=has_split):
            exam.append(row)
        else:
            stream.append(row)
    if not problems:
        problems = _too_little(file, stream, exam, kind)
    if problems:
        more = len(problems) - MAX_PROBLEMS
        raise SettingsError(
            problems[:MAX_PROBLEMS] + ([f"... and {more:,} more"] if more > 0 else [])
        )
    return Data(
        name=file.path.parent.name if file.path.name.startswith("data.") else file.path.name,
        kind=kind,
        stream=_some(stream, file.limit),
        exam=tuple(exam),
        dropped=dropped,
    )


def _too_little(file: DataFile, stream: list[Row], exam: list[Row], kind: Kind) -> list[str]:
    problems = []
    if not stream:
        problems.append(f"{file.path}: no row is left to stream")
    if not exam:
        problems.append(
            f"{file.path}: no row is left for the final exam (rows of split 'test'; every tenth "
            "row where there is no split column)"
        )
    labels = {row.label for row in stream}
    if kind == "classify" and len(labels) == 1:
        problems.append(f"{file.path}: every row has the label {labels.pop()!r}: nothing to learn")
    return problems


def _rows(file: DataFile) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield line numbers and raw rows.

    Raises:
        SettingsError: the file is missing, is no text, or is of an unknown format.
    """
    path = file.path
    if not path.is_file():
        raise SettingsError([f"{path}: there is no such file"])
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in (".jsonl", ".ndjson", ".json", ".csv", ".tsv"):
        raise SettingsError(
            [f"{path}: its name must end in .jsonl, .ndjson, .csv or .tsv, with .gz or without"]
        )
    data = b""
    try:
        data = path.read_bytes()
        if path.name.endswith(".gz"):
            data = gzip.decompress(data)
        text = data.decode("utf-8-sig")
    except (OSError, EOFError, gzip.BadGzipFile) as error:
        raise SettingsError([f"{path}: cannot be read: {error}"]) from error
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise SettingsError([f"{path}, line {line}: is not UTF-8"]) from error
    if suffix in (".csv", ".tsv"):
        yield from _csv_rows(path, text, delimiter="\t" if suffix == ".tsv" else ",", file=file)
    else:
        yield from _json_rows(path, text)


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    problems = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            problems.append(f"{path}, line {number}: is not JSON: {error.msg} at {error.colno}")
            row = None
        else:
            if not isinstance(row, dict):
                problems.append(f"{path}, line {number}: a JSON object was expected")
        if len(problems) >= MAX_PROBLEMS:
            break
        if isinstance(row, dict):
            yield number, row
    if problems:
        raise SettingsError(problems)


def _csv_rows(
    path: Path, text: str, *, delimiter: str, file: DataFile
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns = reader.fieldnames or []
    missing = [c for c in (file.text_column, file.label_column) if c not in columns]
    if missing:
        raise SettingsError(
            [
                f"{path}, line 1: there is no column {name!r}; there are {', '.join(columns)}"
                for name in missing
            ]
        )
    try:
        for row in reader:
            if None in row:
                raise SettingsError(
                    [f"{path}, line {reader.line_num}: has more fields than the header"]
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise SettingsError([f"{path}, line {reader.line_num}: {error}"]) from error


def _is_list(raw: Mapping[str, Any], file: DataFile) -> bool:
    return isinstance(raw.get(file.label_column), list)


def _row(line: int, raw: Mapping[str, Any], file: DataFile, kind: Kind) -> Row:
    """Check one row.

    Raises:
        ValueError: it cannot be used, and why.
    """
    for column in (file.text_column, file.label_column):
        if raw.get(column) is None:
            raise ValueError(f"there is no {column!r}; there are {', '.join(map(str, raw))}")
    text = raw[file.text_column]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{file.text_column!r} is {text!r}: a text was expected")
    if len(text) > MAX_TEXT_CHARS:
        raise ValueError(
            f"{file.text_column!r} has {len(text):,} characters, at most {MAX_TEXT_CHARS:,} are "
            "allowed"
        )
    return Row(
        line=line,
        text=text,
        label=_label(raw[file.label_column], kind),
        domain=str(raw.get("domain") or ""),
        time=_time(raw.get("timestamp")),
        user=str(raw.get("user") or "")[:128],
    )


def _label(value: object, kind: Kind) -> Label:
    if kind == "classify" and isinstance(value, (int, float, bool)):
        value = str(value)  # a number is a name here
    try:
        return task_kind(kind).check_label(value)
    except LabelError as error:
        raise ValueError(error.reason) from error


def _time(value: object) -> datetime | None:
    """Read a time: RFC 3339 text or seconds since 1970; without an offset it is taken as UTC.

    Raises:
        ValueError: it is no time.
    """
    if value is None or value == "":
        return None
    try:
        if isinstance(value, (int, float)) or str(value).replace(".", "", 1).isdigit():
            return datetime.fromtimestamp(float(str(value)), UTC)
        time = datetime.fromisoformat(str(value))
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError(f"'timestamp' is {value!r}: a time was expected") from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _is_dropped(row: Row, file: DataFile) -> bool:
    labels = (row.label,) if isinstance(row.label, str) else row.label
    return any(label in file.drop_labels for label in labels)


def _is_exam(raw: Mapping[str, Any], row: Row, *, has_split: bool) -> bool:
    if has_split:
        return raw.get("split") == TEST_SPLIT
    digest = hashlib.sha256(row.text.encode()).digest()  # the same text is on one side only
    return int.from_bytes(digest[:8], "big") < TEST_SHARE * 2**64


def _some(rows: list[Row], limit: int | None) -> tuple[Row, ...]:
    if limit is None or limit >= len(rows):
        return tuple(rows)
    chosen = random.Random(0).sample(range(len(rows)), limit)  # a stride would meet patterns
    return tuple(rows[number] for number in sorted(chosen))
