"""Data files: every format, every order, every fault named with its line."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindstream.demo.dataset import Data, DataFile, Row, read_data
from mindstream.demo.orders import LATE_S, StreamOrder, labels_of, plan_data
from schemas import Feedback, Interaction
from schemas.errors import SettingsError

ROWS: list[dict[str, Any]] = [
    {
        "text": f"text {number}",
        "label": f"label {number % 4}",
        "split": "test" if number % 5 == 4 else "train",
    }
    for number in range(40)
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    name = path.name.removesuffix(".gz")
    if name.endswith("jsonl"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        plain = path.parent / "plain"
        with plain.open("w", newline="") as file:
            writer = csv.DictWriter(
                file, list(rows[0]), delimiter="\t" if name.endswith("tsv") else ","
            )
            writer.writeheader()
            writer.writerows(rows)
        text = plain.read_text()
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def problems(path: Path, **options: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        read_data(DataFile(path, **options))
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.csv.gz", "a.tsv", "a.tsv.gz"]
)
def test_every_format_reads_the_same(tmp_path: Path, name: str) -> None:
    data = read_data(DataFile(write(tmp_path / name, ROWS)))
    assert data.kind == "classify"
    assert [row.text for row in data.stream] == [r["text"] for r in ROWS if r["split"] == "train"]
    assert [row.label for row in data.exam] == [r["label"] for r in ROWS if r["split"] == "test"]


def test_columns_can_have_other_names(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [{"says": r["text"], "is": r["label"]} for r in ROWS])
    data = read_data(DataFile(path, text_column="says", label_column="is"))
    assert len(data.stream) + len(data.exam) == len(ROWS)
    assert "there is no column 'text'; there are says, is" in problems(path)


def test_lists_of_labels_make_a_multilabel_task(tmp_path: Path) -> None:
    rows = [{**row, "label": [row["label"], "all"]} for row in ROWS] + [
        {"text": "none", "label": [], "split": "train"}
    ]
    data = read_data(DataFile(write(tmp_path / "a.jsonl", rows)))
    assert data.kind == "multilabel"
    assert data.stream[0].label == ("all", "label 0")
    assert data.stream[-1].label == ()


def test_without_a_split_about_every_tenth_text_is_kept_and_none_is_on_both_sides(
    tmp_path: Path,
) -> None:
    rows = [{"text": f"t {n % 1_500}", "label": f"l{n % 3}"} for n in range(2_000)]
    data = read_data(DataFile(write(tmp_path / "a.jsonl", rows)))
    assert 0.06 < len(data.exam) / 2_000 < 0.14
    assert not {row.text for row in data.exam} & {row.text for row in data.stream}


def test_dropped_labels_and_the_limit_are_kept_to(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)
    data = read_data(DataFile(path, drop_labels=("label 1",), limit=10))
    assert data.dropped == 10
    assert len(data.stream) == 10
    assert "label 1" not in labels_of(data.stream) + labels_of(data.exam)
    assert len(labels_of(data.stream)) == 3


def test_numbers_are_labels_too(tmp_path: Path) -> None:
    rows = [{**row, "label": number % 2} for number, row in enumerate(ROWS)]
    assert set(labels_of(read_data(DataFile(write(tmp_path / "a.jsonl", rows))).stream)) == {
        "0",
        "1",
    }


def test_every_faulty_line_is_named(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        [
            {"text": "good", "label": "a"},
            {"text": "  ", "label": "a"},
            {"label": "a"},
            {"text": "x", "label": ""},
            {"text": "x" * 20_001, "label": "a"},
            {"text": "x", "label": "a", "timestamp": "soon"},
            {"text": 5, "label": "a"},
        ],
    )
    said = problems(path)
    assert "line 1" not in said
    assert "line 2: 'text' is '  ': a text was expected" in said
    assert "line 3: there is no 'text'; there are label" in said
    assert "line 4: label: '' is empty" in said
    assert "line 5: 'text' has 20,001 characters" in said
    assert "line 6: 'timestamp' is 'soon'" in said
    assert "line 7: 'text' is 5" in said


def test_many_faults_are_counted_not_listed(tmp_path: Path) -> None:
    said = problems(write(tmp_path / "a.jsonl", [{"text": "", "label": "a"}] * 50))
    assert said.count("\n") == 10
    assert said.endswith("... and 40 more")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.jsonl", b'{"text": "x", "label": "a"}\nnot json\n', "line 2: is not JSON"),
        ("a.jsonl", b'{"text": "x", "label": "a"}\n[1]\n', "line 2: a JSON object was expected"),
        ("a.jsonl", b'{"text": "x"}\n\xff\xfe\n', "line 2: is not UTF-8"),
        ("a.jsonl", b"", "there are no rows in it"),
        ("a.jsonl.gz", b"not gzip", "cannot be read"),
        ("a.jsonl.gz", gzip.compress(b"{}" * 500)[:20], "cannot be read"),
        ("a.parquet", b"", "its name must end in .jsonl"),
        ("a.csv", b"text,label\nx,a,b\n", "line 2: has more fields than the header"),
        ("a.csv", b'text,label\n"x,a\n', "unexpected end of data"),
        ("a.csv", b"text,label\nx,a\ny,a\n", "is left for the final exam"),
        ("a.csv", b"text,label,split\nx,a,test\n", "no row is left to stream"),
        ("a.csv", b"text,label,split\nx,a,train\ny,b,test\n", "nothing to learn"),
    ],
)
def test_a_file_that_cannot_be_used_is_said(
    tmp_path: Path, name: str, data: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(data)
    assert said in problems(tmp_path / name)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    assert "there is no such file" in problems(tmp_path / "absent.jsonl")


def made(*rows: tuple[str, str, str]) -> Data:
    stream = tuple(
        Row(number, text, label, domain) for number, (text, label, domain) in enumerate(rows, 1)
    )
    return Data("made", "classify", stream, stream[:4], 0)


def test_class_incremental_without_domains_groups_eleven_labels_a_wave() -> None:
    data = made(*[(f"t{n}", f"label {n % 77:02d}", "same") for n in range(770)])
    plan = plan_data(data, StreamOrder("class-incremental", seed=4))
    assert len(plan.waves) == 7
    labels: list[set[str]] = [set() for _ in plan.waves]
    for truth in plan.truths.values():
        labels[truth.wave].add(str(truth.label))
    assert [len(part) for part in labels] == [11] * 7
    assert len(set().union(*labels)) == 77
    waves = [truth.wave for truth in plan.truths.values()]
    assert waves == sorted(waves)
    other = plan_data(data, StreamOrder("class-incremental", seed=5))
    assert [t.label for t in other.truths.values()] != [t.label for t in plan.truths.values()]


def test_class_incremental_with_domains_makes_each_a_wave() -> None:
    data = made(*[(f"t{n}", f"label {n % 6}", f"domain {n % 3}") for n in range(60)])
    plan = plan_data(data, StreamOrder("class-incremental"))
    assert plan.waves == ("domain 0", "domain 1", "domain 2")
    assert [row.wave for row in plan.exam] == [0, 1, 2, 0]


def test_the_exam_of_any_order_asks_in_the_wave_that_shows_the_label() -> None:
    data = made(*[(f"t{n}", f"label {n // 10}", "") for n in range(40)])
    plan = plan_data(data, StreamOrder("file"))
    assert len(plan.waves) == 4
    assert {row.wave for row in plan.exam} == {0}


def test_file_order_is_the_file_s_and_shuffled_is_not(tmp_path: Path) -> None:
    data = read_data(DataFile(write(tmp_path / "a.jsonl", ROWS)))
    ids = [row.line for row in data.stream]
    assert list(plan_data(data, StreamOrder("file")).truths) == [f"row-{i:07d}" for i in ids]
    shuffled = list(plan_data(data, StreamOrder("shuffled")).truths)
    assert shuffled != [f"row-{i:07d}" for i in ids]
    assert sorted(shuffled) == [f"row-{i:07d}" for i in ids]


def test_time_order_goes_by_the_timestamp_and_needs_one(tmp_path: Path) -> None:
    rows = [{**row, "timestamp": 2_000_000_000 - n} for n, row in enumerate(ROWS)]
    plan = plan_data(read_data(DataFile(write(tmp_path / "a.jsonl", rows))), StreamOrder("time"))
    assert list(plan.truths) == sorted(plan.truths, reverse=True)
    without = read_data(DataFile(write(tmp_path / "b.jsonl", ROWS)))
    with pytest.raises(SettingsError, match="32 rows have no column 'timestamp'.*line 1"):
        plan_data(without, StreamOrder("time"))


def test_an_unknown_order_is_said() -> None:
    with pytest.raises(SettingsError, match="must be one of file, shuffled, class-incremental"):
        plan_data(made(("a", "b", "")), StreamOrder("random"))


@given(count=st.integers(1, 200), seed=st.integers(0, 99))
def test_every_row_is_sent_once_and_labelled_once_shortly_after(count: int, seed: int) -> None:
    data = made(*[(f"t{n}", f"label {n % 5}", "") for n in range(count)])
    plan = plan_data(data, StreamOrder("class-incremental", seed=seed))
    asked = {e.message.id: e for e in plan.events if isinstance(e.message, Interaction)}
    said = {e.message.interaction: e for e in plan.events if isinstance(e.message, Feedback)}
    assert len(asked) == len(plan.truths) == count
    assert len(plan.events) == len(asked) + len(said)
    for name, event in asked.items():
        assert isinstance(event.message, Interaction)
        assert (event.message.label is None) == (name in said)
        if name in said:
            assert 0.0 <= said[name].at_s - event.at_s <= LATE_S


@pytest.mark.data
def test_real_files_have_the_waves_they_should() -> None:
    folder = Path(__file__).parents[4] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the data sets are not beside the project")
    for name, drop, waves, labels, exam in (
        ("banking77", (), 7, 77, 3_080),
        ("clinc150", ("oos",), 10, 150, 4_500),
    ):
        data = read_data(DataFile(folder / name / "data.jsonl.gz", drop_labels=drop))
        plan = plan_data(data, StreamOrder("class-incremental"))
        assert (len(plan.waves), len(labels_of(data.stream)), len(plan.exam)) == (
            waves,
            labels,
            exam,
        )
