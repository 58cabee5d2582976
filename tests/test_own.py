"""
data/own/prepare.py: anybody's binary table becomes a task, and a broken one becomes one clear line.

python -m pytest tests/test_own.py               # 10 s
"""
import csv
import importlib.util
import json
import os
import subprocess
import sys

import pytest

from conftest import ROOT
from contract import read_json, read_jsonl

SCRIPT = os.path.join(ROOT, "data", "own", "prepare.py")
spec = importlib.util.spec_from_file_location("own_prepare", SCRIPT)
own = importlib.util.module_from_spec(spec)
spec.loader.exec_module(own)
SPLITS = ("train1", "train2", "valid", "test")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """run(file, *flags) -> the folder it wrote; the data folder is a temporary one."""
    monkeypatch.setattr(own, "DATA", str(tmp_path / "data"))

    def run(path, *flags):
        own.main(["--rows", str(path), "--text", "text", "--label", "label", "--task", "mine", *flags])
        return tmp_path / "data" / "mine"
    return run


def table(path, rows, columns=("text", "label")):
    with open(path, "w", encoding="utf-8", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


GOOD = [(f"request number {k} about {k * k}", k % 2) for k in range(300)]


def read(folder):
    return {split: read_jsonl(folder / f"{split}.jsonl") for split in SPLITS}


def test_a_csv_becomes_a_task(tmp_path, run):
    folder = run(table(tmp_path / "rows.csv", GOOD))
    splits = read(folder)
    assert sum(map(len, splits.values())) == 300
    assert read_json(folder / "task.json")["label_words"] == [" no", " yes"]
    for split, rows in splits.items():
        assert all(("label" in row) == (split in ("train1", "test")) for row in rows)
    truth = {r["id"]: r["soft_label"] for r in read_jsonl(folder / "truth" / "labels.jsonl")}
    assert set(truth) == {r["id"] for s in ("train2", "valid") for r in splits[s]}
    by_text = dict(GOOD)
    assert all(truth[r["id"]][1] == by_text[r["text"]] for s in ("train2", "valid") for r in splits[s])


def test_jsonl_and_parquet_give_the_same_splits_as_csv_and_row_order_does_not_matter(tmp_path, run):
    first = read(run(table(tmp_path / "rows.csv", GOOD)))
    lines = [json.dumps({"text": t, "label": bool(v)}) for t, v in reversed(GOOD)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    assert read(run(tmp_path / "rows.jsonl")) == first
    import pyarrow
    import pyarrow.parquet
    columns = {"text": [t for t, _ in GOOD], "label": [v for _, v in GOOD]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
    assert read(run(tmp_path / "rows.parquet")) == first


def test_pitfall_15_groups_and_doubles_stay_on_one_side(tmp_path, run, capsys):
    rows = [(f"row {k}", k % 2, f"author {k // 5}") for k in range(500)]
    rows.append(("ROW  1", 1, "author 99"))                # a duplicate of row 1 joins two authors
    rows.append(("row 2", 1, "author 7"))                  # row 2 contradicts itself
    splits = read(run(table(tmp_path / "rows.csv", rows, ("text", "label", "by")), "--group", "by"))
    where = {}
    for name, members in splits.items():
        for row in members:
            assert where.setdefault(row["group"], name) == name
    author = {t: a for t, _, a in rows}
    groups = {}
    for members in splits.values():
        for row in members:
            assert groups.setdefault(author[row["text"]], row["group"]) == row["group"]
    assert groups["author 0"] == groups["author 99"]
    assert sum(map(len, splits.values())) == 499
    assert "1 doubles, 2 rows whose text has both labels" in capsys.readouterr().out


@pytest.mark.parametrize("content,words", [
    (b"text,label\nhello,maybe\n", ["line 2", "'maybe'", "yes/no"]),
    (b"text,label\n  ,1\n", ["line 2", "empty text"]),
    (b"body,label\nhello,1\n", ["no column 'text'", "body, label"]),
    (b"text,truth\nhello,1\n", ["no column 'label'"]),
    (b"text,label\nhello\n", ["line 2", "None"]),
    (b"text,label\n" + b"".join(b"row %d,%d\n" % (k, k % 2) for k in range(20)), ["20 groups", "40 are needed"]),
    (b"text,label\n" + b"".join(b"row %d,1\n" % k for k in range(99)), ["one value only"]),
    (b"text,label\ncaf\xe9,1\n", ["UTF-8", "iconv"]),
    (b"", ["no column"]),
    (b'text,label\n"unclosed,1\n', ["line"]),
    (b"text,label\na\x00b,1\n", ["line"]),
])
def test_a_broken_csv_is_one_line(tmp_path, run, capsys, content, words):
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "rows.csv")
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and all(word in error for word in words), error
    assert not (tmp_path / "data" / "mine" / "task.json").exists() and (tmp_path / "rows.csv").read_bytes() == content


@pytest.mark.parametrize("name,content,words", [
    ("rows.jsonl", '{"text": "a", "label": 1}\n{"text": ', ["line 2"]),
    ("rows.jsonl", '[1]\n', ["line 1", "not a {...}"]),
    ("rows.txt", "hello", ["ending", ".csv", ".jsonl", ".parquet"]),
    ("rows.parquet", "no parquet at all", ["rows.parquet"]),
])
def test_other_broken_files_are_one_line(tmp_path, run, capsys, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / name)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and all(word in error for word in words), error


@pytest.mark.parametrize("task", ["../evil", "a/b", "", "-x y", ".hidden"])
def test_a_task_name_cannot_leave_the_data_folder(tmp_path, run, capsys, task):
    with pytest.raises(SystemExit) as stop:
        run(table(tmp_path / "rows.csv", GOOD), f"--task={task}")
    assert stop.value.code == 2 and "letters" in capsys.readouterr().err


def test_a_task_of_the_repository_is_not_overwritten(tmp_path):
    rows = str(table(tmp_path / "rows.csv", GOOD))
    command = [sys.executable, SCRIPT, "--rows", rows, "--text", "text", "--label", "label", "--task", "tinyworld"]
    out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode == 2 and "taken" in out.stderr
