"""
data/own/prepare.py: anybody's table becomes a task, whatever its dialect, and a broken one becomes one clear line.

python -m pytest tests/test_own.py               # 7 s
"""
import csv
import doctest
import gzip
import importlib.util
import io
import itertools
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


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(own).failed == 0 and doctest.testmod(sys.modules["tasks"]).failed == 0


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
    (b"text,label\n  ,1\n", ["0 groups", "40 are needed"]),
    (b"body,label\nhello,1\n", ["no column 'text'", "body, label"]),
    (b"text,truth\nhello,1\n", ["no column 'label'"]),
    (b"text,label\nhello, world,1\n", ["line 2", "3 fields, the header has 2", "double quotes"]),
    (b"text,label,text\nhello,1,you\n", ["line 1", "'text' twice"]),
    (b"text,label\n" + b"".join(b"row %d,%d\n" % (k, k % 2) for k in range(20)), ["20 groups", "40 are needed"]),
    (b"text,label\n" + b"".join(b"row %d,1\n" % k for k in range(99)), ["one value only"]),
    (b"text,label\ncaf\xe9,1\n", ["UTF-8", "iconv"]),
    (b"text,label\n" + b"long row,1\n" * 9999 + b"caf\xe9,1\n", ["UTF-8", "iconv"]),
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
    ("rows.jsonl", '{"text": "a", "label": 1, "text": "b"}\n', ["line 1", "'text' occurs twice"]),
    ("rows.json", '[{"text": "a", "label": 1, "label": 0}]', ["'label' occurs twice"]),
    ("rows.jsonl.gz", "no gzip at all", ["rows.jsonl.gz"]),
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


# --------------------------------------------------------------------------- dialects

DIALECT_ROWS = [(f'"{k}"; the price, in €, is {k * k}' + ("\nand more" if k % 7 == 0 else ""), k % 3 == 0)
                for k in range(60)]
WORDS = [("1", "0", []), ("yes", "No", []), ("TRUE", "false", []), ("spam", "ham", ["--yes", "SPAM"]),
         ("Relevant", "Irrelevant", ["--yes", "relevant"]), ("Y", "N", ["--yes", "Y"]), ("1", "-1", ["--yes", "1"])]
DIALECTS = list(itertools.product(["utf-8", "utf-8-sig", "utf-16", "utf-16-le"], [",", ";", "\t"],
                                  ["\n", "\r\n", "\r"]))


def test_36_dialects_of_one_table_give_the_same_splits(tmp_path, run):
    first = None
    for k, (encoding, delimiter, end) in enumerate(DIALECTS):
        yes, no, flags = WORDS[k % len(WORDS)]
        out = io.StringIO()
        quoting = csv.QUOTE_ALL if k % 2 else csv.QUOTE_MINIMAL
        writer = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting)
        writer.writerow(["label", " text "])
        writer.writerows([yes if label else no, text] for text, label in DIALECT_ROWS)
        path = tmp_path / (f"{k}.tsv" if delimiter == "\t" and k % 2 else f"{k}.csv" + ".gz" * (k % 5 == 0))
        (gzip.open if path.suffix == ".gz" else open)(path, "wb").write(out.getvalue().encode(encoding))
        splits = read(run(path, *flags))
        first = first or splits
        assert splits == first, path
    assert sum(map(len, first.values())) == 60


@pytest.mark.parametrize("end", [".json", ".jsonl", ".jsonl.gz", ".json.gz"])
def test_json_in_all_its_files_gives_the_same_splits(tmp_path, run, end):
    first = read(run(table(tmp_path / "rows.csv", [(text, int(label)) for text, label in DIALECT_ROWS])))
    rows = [{"text": text, "label": label} for text, label in DIALECT_ROWS]
    text = json.dumps(rows) if "jsonl" not in end else "".join(json.dumps(row) + "\n" for row in rows)
    path = tmp_path / f"rows{end}"
    (gzip.open if end.endswith("gz") else open)(path, "wb").write(text.encode("utf-8-sig"))
    assert read(run(path)) == first


def fails(run, capsys, path, *flags):
    """The command ends in one line -> that line"""
    with pytest.raises(SystemExit) as stop:
        run(path, *flags)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1, error
    return error


def test_words_are_refused_with_the_flags_to_add(tmp_path, run, capsys):
    two = table(tmp_path / "two.csv", [(text, "spam" if label else "ham") for text, label in DIALECT_ROWS])
    assert "--yes 'ham' or --yes 'spam'" in fails(run, capsys, two)
    assert "'ham' (40), 'spam' (20)" in fails(run, capsys, two, "--yes", "maybe")
    three = table(tmp_path / "three.csv", [(text, ("low", "mid", "urgent")[k % 3])
                                           for k, (text, _) in enumerate(DIALECT_ROWS)])
    assert "--yes 'urgent' --one-vs-rest" in fails(run, capsys, three)
    error = fails(run, capsys, three, "--yes", "urgent")
    assert "3 classes" in error and "--yes urgent --one-vs-rest" in error
    folder = run(three, "--yes", "urgent", "--one-vs-rest")
    assert read_json(folder / "task.json")["names"] == ["not urgent", "urgent"]
    assert sum(r["label"] for r in read(folder)["train1"]) < len(read(folder)["train1"]) / 2


def test_a_numeric_column_in_a_pattern_is_text(tmp_path, run):
    rows = [{"q": f"How much is {k} and {k}?", "a": 2 * k if k % 2 else 2.5, "label": k % 2} for k in range(80)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = {row["text"] for part in read(run(tmp_path / "rows.jsonl", "--text", "Q: {q} A: {a}")).values()
             for row in part}
    assert {"Q: How much is 7 and 7? A: 14", "Q: How much is 8 and 8? A: 2.5"} <= texts


def test_an_empty_text_is_left_out_and_counted_up_to_a_limit(tmp_path, run, capsys):
    one = table(tmp_path / "one.csv", [*GOOD, ("  ", 1)])
    assert sum(map(len, read(run(one)).values())) == 300
    assert "1 with an empty text" in capsys.readouterr().out
    many = table(tmp_path / "many.csv", [*GOOD, *[("", 1)] * 100])
    error = fails(run, capsys, many)
    assert "100 of 400 rows would be left out" in error and "--max-left-out 0.25" in error
    assert sum(map(len, read(run(many, "--max-left-out", "0.25")).values())) == 300


def test_short_lines_are_noted_and_rare_classes_reach_every_split(tmp_path, run, capsys):
    """300 rows with 12 yes, in 20 draws of texts: train1 and test always have both classes."""
    for draw in range(20):
        rows = [(f"draw {draw} row {k}", int(k % 25 == 0)) for k in range(300)]
        splits = read(run(table(tmp_path / "rows.csv", rows)))
        assert [sum(row["label"] for row in splits[name]) for name in ("train1", "test")] == [4, 3] or \
            all(sum(row["label"] for row in splits[name]) >= 2 for name in ("train1", "test"))
    (tmp_path / "short.csv").write_text("text,label\n" + "".join(f"row {k},{k % 2}\n" for k in range(60)) + "last\n")
    run(tmp_path / "short.csv")
    assert "1 lines have fewer fields than the header, first line 62" in capsys.readouterr().out


# --------------------------------------------------------------------------- rows without a label, annotators

MISSING = [None, "", "NaN", float("nan"), "n/a"]


def partly_labelled(path, n_labelled, n=400, **more):
    """Rows of which the first n_labelled have a true label; the others have an empty cell, nan, or no such column."""
    rows = []
    for k in range(n):
        row = {"text": f"request number {k}", "label": k % 2 if k < n_labelled else MISSING[k % 5]}
        if k >= n_labelled and k % 7 == 0:
            del row["label"]
        rows.append(row | {name: values[k] for name, values in more.items()})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("n,known", [(400, (139, 141, 41, 79)), (330, (140, 70, 40, 80)), (87, (26, 0, 17, 44)),
                                     (30, (0, 0, 0, 30)), (0, (0, 0, 0, 0))])
def test_rows_without_a_label_go_to_train2_alone(tmp_path, run, capsys, n, known):
    flags = ["--soft-label", "ann"]
    folder = run(partly_labelled(tmp_path / "rows.jsonl", n, ann=["yes", "no"] * 200), *flags)
    splits = read(folder)
    printed = capsys.readouterr().out
    assert sum(map(len, splits.values())) == 400
    truth = {row["id"] for row in read_jsonl(folder / "truth" / "labels.jsonl")}
    counts = [len(splits["train1"]), sum(row["id"] in truth for row in splits["train2"]), len(splits["valid"]),
              len(splits["test"])]
    assert counts == pytest.approx(known, abs=3) and sum(counts) == n
    assert all(row["id"] in truth for row in splits["valid"])
    assert ("true labels: none" in printed) == (n == 0) and ("nothing can be said" in printed) == (n == 0)
    assert ("to-label.csv" in printed) == (n < 400)
    if n == 87:
        assert "±0.33 or wider; for ±0.10 label some 870 rows more" in printed or "±0.3" in printed


def test_an_audit_gives_true_labels_to_rows_that_had_none(tmp_path, run, capsys):
    rows = partly_labelled(tmp_path / "rows.jsonl", 0, ann=["yes", "no"] * 200)
    folder = run(rows, "--soft-label", "ann")
    to_label = list(csv.DictReader(open(folder / "to-label.csv", encoding="utf-8-sig")))
    assert len(to_label) == 100 and all(row["label"] == "" for row in to_label)
    known = [(row["text"], int(row["text"].split()[-1]) % 2, f"note {k}") for k, row in enumerate(to_label)]
    filled = table(folder / "to-label.csv", known, ("text", "label", "note"))
    before = filled.read_bytes()
    run(rows, "--soft-label", "ann")
    assert filled.read_bytes() == before                   # it was not read yet, so it stays
    audit = ["--soft-label", "ann", "--audit", str(filled)]
    splits = read(run(rows, *audit))
    assert [len(splits[name]) for name in SPLITS] == pytest.approx([30, 300, 20, 50], abs=2)
    assert "audit: 100 true labels" in capsys.readouterr().out
    assert all(row["label"] == int(row["text"].split()[-1]) % 2 for row in splits["test"])
    # the second round: a hundred rows of train2 follow, and the same command reads them all
    grown = list(csv.DictReader(open(filled, encoding="utf-8-sig")))
    assert [(row["text"], int(row["label"]), row["note"]) for row in grown[:100]] == known
    new = {row["text"] for row in grown[100:] if row["label"] == ""}
    truth = {row["id"] for row in read_jsonl(folder / "truth" / "labels.jsonl")}
    assert len(new) == 100 and new <= {row["text"] for row in splits["train2"] if row["id"] not in truth}
    again = filled.read_bytes()
    run(rows, *audit)
    assert filled.read_bytes() == again
    table(filled, [(row["text"], int(row["text"].split()[-1]) % 2) for row in grown])
    run(rows, *audit)
    assert "audit: 200 true labels" in capsys.readouterr().out


def ask(monkeypatch, tmp_path, rows, truth, **spec):
    """buy_labels of rows whose truth/ has `truth` {id: p(yes)}"""
    tasks = sys.modules["tasks"]
    monkeypatch.setattr(tasks, "DATA", str(tmp_path))
    os.makedirs(tmp_path / "mine" / "truth", exist_ok=True)
    with open(tmp_path / "mine" / "task.json", "w", encoding="utf-8") as f:
        json.dump({"splits": {"train2": {"rows": len(rows), "labelled": len(truth)}}, **spec}, f)
    with open(tmp_path / "mine" / "truth" / "labels.jsonl", "w", encoding="utf-8") as f:
        f.writelines(json.dumps({"id": name, "soft_label": [1 - p, p]}) + "\n" for name, p in truth.items())
    return tasks.buy_labels("mine", rows)


def test_people_give_true_labels_on_request(tmp_path, monkeypatch, capsys):
    rows = [{"id": name, "group": name, "text": f'text "{name}", of two lines\nwith; all,'} for name in "abcd"]
    asked = tmp_path / "mine" / "true-labels.csv"
    task = {"names": ["wrong", "right"]}
    assert ask(monkeypatch, tmp_path, rows[:1], {"a": 1.0}, **task).tolist() == [[0, 1]] and not asked.exists()
    with pytest.raises(SystemExit):
        ask(monkeypatch, tmp_path, rows[:2], {"a": 1.0}, **task)
    assert "people must give 1 true label(s): write 'right' or 'wrong'" in capsys.readouterr().err
    with open(asked, encoding="utf-8-sig", newline="") as f:
        assert list(csv.DictReader(f)) == [{"id": "b", "text": rows[1]["text"], "label": ""}]
    # Excel has saved it with semicolons, and somebody has added a column: what people wrote is kept
    table = "id;text;label;who\nb;t;Wrong;Ann\n"
    asked.write_text(table, encoding="utf-8-sig")
    assert ask(monkeypatch, tmp_path, rows[:2], {"a": 1.0}, **task).tolist() == [[0, 1], [1, 0]]
    with pytest.raises(SystemExit):
        ask(monkeypatch, tmp_path, rows, {"a": 1.0}, **task)
    with open(asked, encoding="utf-8-sig", newline="") as f:
        table = [(row["id"], row["label"], row["who"]) for row in csv.DictReader(f)]
    assert table == [("b", "Wrong", "Ann"), ("c", "", ""), ("d", "", "")]
    # a task without words of its own: yes and no
    asked.write_text("id,text,label\nb,t,0\nc,t,yes\nd,t,\n", encoding="utf-8")
    assert ask(monkeypatch, tmp_path, rows[:3], {"a": 1.0}).tolist() == [[0, 1], [1, 0], [0, 1]]


def test_numbers_that_name_classes_mean_these_also_as_excel_writes_them(tmp_path, monkeypatch, capsys):
    """Fault: of the classes "1.0" and "2.0", as pandas writes them, a person's 1 was taken for the usual yes."""
    rows = [{"id": name, "group": name, "text": name} for name in "bc"]
    os.makedirs(tmp_path / "mine")
    cases = (["1.0", "2.0"], "12", [0, 1]), (["1.0", "0.0"], "01", [1, 0]), (["2", "1"], "12", [1, 0])
    for names, cells, told in cases:
        (tmp_path / "mine" / "true-labels.csv").write_text(f"id,label\nb,{cells[0]}\nc,{cells[1]}.0\n")
        assert ask(monkeypatch, tmp_path, rows, {}, names=names)[:, 1].tolist() == told
    with pytest.raises(SystemExit):                        # no would be 1, and what is 0?
        (tmp_path / "mine" / "true-labels.csv").write_text("id,label\nb,0\n")
        ask(monkeypatch, tmp_path, rows, {}, names=["1", "2"])
    assert "the label '0' is neither '2' nor '1'" in capsys.readouterr().err


def test_of_a_pair_people_say_which_text_is_better(tmp_path, monkeypatch, capsys):
    pairs = [{"id": "p", "group": "p", "text_a": "one", "text_b": "two"}]
    with pytest.raises(SystemExit):
        ask(monkeypatch, tmp_path, pairs, {}, names=["first", "second"])      # of the person's table: it may be turned
    assert "write 'b' or 'a'" in capsys.readouterr().err
    asked = tmp_path / "mine" / "true-labels.csv"
    assert asked.read_text(encoding="utf-8-sig").split() == ["id,text_a,text_b,label", "p,one,two,"]
    asked.write_text("id,text_a,text_b,label\np,one,two,B\n", encoding="utf-8")
    assert ask(monkeypatch, tmp_path, pairs, {}).tolist() == [[0, 1]]


@pytest.mark.parametrize("content, words", [
    ("id,label\nb,maybe\n", "line 2, id 'b': the label 'maybe' is neither 'yes' nor 'no'"),
    ("id,label\nb,1\nb,0\n", "line 3: id 'b' occurs twice"), ("text,label\nb,1\n", "line 2: no id"),
    ("id,label\nb,1,2\n", "3 fields, the header has 2"),
])
def test_a_wrong_answer_is_one_line_and_stays(tmp_path, monkeypatch, capsys, content, words):
    rows = [{"id": name, "group": name, "text": name} for name in "bc"]
    os.makedirs(tmp_path / "mine")
    asked = tmp_path / "mine" / "true-labels.csv"
    asked.write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit):
        ask(monkeypatch, tmp_path, rows, {})
    assert words in capsys.readouterr().err and asked.read_text(encoding="utf-8") == content


def test_an_audit_leaves_a_column_called_label_alone_and_must_fit_the_table(tmp_path, run, capsys):
    """Without --label, the table's column "label" may be an annotator: here it is always wrong."""
    rows = table(tmp_path / "rows.csv", [(text, 1 - label) for text, label in GOOD])
    audit = table(tmp_path / "audit.csv", GOOD[:60])
    own.main(["--rows", str(rows), "--text", "text", "--soft-label", "label", "--audit", str(audit), "--task", "mine"])
    printed = capsys.readouterr().out
    assert "audit: 60 true labels" in printed and "true labels: 60 of 300 rows" in printed
    assert "label: accuracy 0.00%" in printed
    for name, columns in (("no-text.csv", ("body", "label")), ("no-label.csv", ("text", "truth"))):
        wrong = table(tmp_path / name, GOOD[:60], columns)
        error = fails(run, capsys, rows, "--audit", str(wrong))
        assert name in error and "with the columns text, label" in error


def test_unlabelled_rows_of_a_group_in_train1_or_test_are_left_out(tmp_path, run, capsys):
    """Each author has nine labelled rows and one without a label: it must not be in another split than they are."""
    rows = [{"text": f"row {k}", "by": f"author {k // 10}", "label": "" if k % 10 == 0 else k % 2} for k in range(600)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = read(run(tmp_path / "rows.jsonl", "--group", "by"))
    left_out = 600 - sum(map(len, splits.values()))
    groups = [{row["group"] for row in part} for part in splits.values()]
    assert sum(map(len, groups)) == len(set().union(*groups)) == 60
    assert left_out == len(groups[0]) + len(groups[3])
    assert f"{left_out} without a label in groups of train1 or test" in capsys.readouterr().out


def test_an_annotator_may_be_soft_hard_or_silent(tmp_path, run, capsys):
    ann = [("spam", "ham", "", None)[k % 4] for k in range(400)]
    bob = [(0.25, [0.5, 0.5], "0.75", "[0.1, 0.9]", "")[k % 5] for k in range(400)]
    rows = partly_labelled(tmp_path / "rows.jsonl", 400, ann=ann, bob=bob)
    rows.write_text(rows.read_text().replace('"label": 1', '"label": "spam"').replace('"label": 0', '"label": "ham"'))
    folder = run(rows, "--yes", "spam", "--soft-label", "ann", "--soft-label", "bob")
    ids = {row["text"]: row["id"] for part in read(folder).values() for row in part}
    for name, values in (("ann", [1.0, 0.0, None, None]), ("bob", [0.25, 0.5, 0.75, 0.9, None])):
        found = {row["id"]: row["soft_label"][1] for row in read_jsonl(folder / name / "labels.jsonl")}
        for k in range(400):
            assert found.get(ids[f"request number {k}"]) == values[k % len(values)]
    printed = capsys.readouterr().out
    assert "labels 200 of 400 lines" in printed and "80 ties" in printed
    rows.write_text(rows.read_text().replace('"ann": "spam"', '"ann": "span"', 1))
    error = fails(run, capsys, rows, "--yes", "spam", "--soft-label", "ann")
    assert "3 classes" in error and "'span' (1)" in error


def test_the_long_format_of_crowd_platforms_equals_columns(tmp_path, run, capsys):
    columns = {name: [("1", "0", "")[(k * step) % 3] for k in range(400)] for name, step in (("ann", 1), ("b-b", 2))}
    wide = partly_labelled(tmp_path / "rows.jsonl", 100, **columns, item=list(range(400)))
    first = {name: read_jsonl(run(wide, "--soft-label", "ann", "--soft-label", "b-b") / name / "labels.jsonl")
             for name in columns}
    wide = partly_labelled(tmp_path / "plain.jsonl", 100, item=list(range(400)))
    votes = [(k, worker, columns[name][k]) for k in range(400) for name, worker in (("ann", "ann"), ("b-b", "b/b"))]
    votes += [(9999, "ann", 1), (3, "torn", 1), (3, "torn", 0), (4, "torn", 1)]
    path = table(tmp_path / "votes.csv", votes, ("item", "worker", "judgment"))
    long = ["--votes", str(path), "--votes-columns", "item,worker,judgment"]
    folder = run(wide, *long)
    assert {name: read_jsonl(folder / name / "labels.jsonl") for name in columns} == first
    assert len(read_jsonl(folder / "torn" / "labels.jsonl")) == 1
    assert read_json(folder / "task.json")["annotators"] == ["ann", "b-b", "torn"]
    printed = capsys.readouterr().out
    assert "1 votes on 1 rows that --rows does not have, first '9999'" in printed and "1 left out" in printed
    # one table for both: a line for each vote, with the text in each
    lines = [(k, f"request number {k}", k % 2 if k < 100 else "", *vote) for k, *vote in votes if k < 400]
    both = table(tmp_path / "both.csv", lines, ("item", "text", "label", "worker", "judgment"))
    folder = run(both, "--votes", str(both), *long[2:])
    assert {name: read_jsonl(folder / name / "labels.jsonl") for name in columns} == first
    assert "three names" in fails(run, capsys, wide, "--votes", str(path), "--votes-columns", "item")
    assert "no column 'row'" in fails(run, capsys, wide, "--votes", str(path), "--id", "item")


def test_the_example_shows_every_case(tmp_path, run, capsys):
    """docs/own-labels.md walks through this table."""
    example = os.path.join(ROOT, "data", "own", "example.csv")
    folder = run(example, "--text", "Q: {question} A: {answer}", "--label", "mark", "--yes", "right",
                 "--soft-label", "ann", "--soft-label", "bob", "--soft-label", "rule")
    printed = capsys.readouterr().out
    assert "1 doubles, 2 rows whose text has both labels, 1 with an empty text" in printed
    assert "true labels: 20 of 54 rows" in printed
    assert [len(part) for part in read(folder).values()] == [0, 34, 0, 20]


# --------------------------------------------------------------------------- ids and numbers are what is written

def test_votes_are_joined_by_the_id_as_it_is_written(tmp_path, run, capsys):
    """Ids that agree in six digits, or but for case, zeros in front or an exponent, are different rows."""
    ids = ["NA", "aB3", "ab3", "007", "7", "12e4", "120000", *range(1234500, 1234550), *range(10**18, 10**18 + 50)]
    rows = table(tmp_path / "rows.csv", [(key, f"text {k}", k % 2) for k, key in enumerate(ids)],
                 ("row", "text", "label"))
    votes = [(f"{key}.0" if k > 60 else key, "ann", k % 3 % 2) for k, key in enumerate(ids)]
    votes.append((1234500 + 300, "ann", 1))
    folder = run(rows, "--votes", str(table(tmp_path / "votes.csv", votes, ("row", "annotator", "label"))))
    printed = capsys.readouterr().out
    assert f"votes: {len(ids)} by 1 annotators" in printed and "1 votes on 1 rows that --rows does not have" in printed
    text = {row["id"]: int(row["text"].split()[1]) for part in read(folder).values() for row in part}
    said = {text[row["id"]]: row["soft_label"][1] for row in read_jsonl(folder / "ann" / "labels.jsonl")}
    assert said == {k: float(k % 3 % 2) for k in range(len(ids))}


def test_numbers_that_are_classes_are_no_probabilities(tmp_path, run, capsys):
    """1 and 2, or one to five stars: 1 is not p_yes = 1. A column is judged alone, the votes of a file together."""
    rows = [(k, f"text {k}", 1 + k % 2, 1 + k % 5, k % 10 / 10) for k in range(60)]
    path = table(tmp_path / "rows.csv", rows, ("row", "text", "ann", "stars", "p"))
    votes = table(tmp_path / "votes.csv", [(k, f"w{1 + k % 2}", 1 + k % 2) for k in range(60)],
                  ("row", "annotator", "label"))

    def p_yes(*flags):
        own.main(["--rows", str(path), "--text", "text", "--task", "mine", *flags])
        folder = tmp_path / "data" / "mine"
        text = {row["id"]: int(row["text"].split()[1]) for row in read(folder)["train2"]}
        return {name: {text[row["id"]]: row["soft_label"][1] for row in read_jsonl(folder / name / "labels.jsonl")}
                for name in read_json(folder / "task.json")["annotators"]}
    said = p_yes("--soft-label", "ann,p", "--yes", "2")
    assert said["ann"] == {k: float(k % 2) for k in range(60)}
    assert said["p"] == pytest.approx({k: k % 10 / 10 for k in range(60)})
    said = p_yes("--soft-label", "stars", "--yes", "5", "--one-vs-rest")
    assert said["stars"] == {k: float(k % 5 == 4) for k in range(60)}
    said = p_yes("--votes", str(votes), "--yes", "2")      # w1 says 1 alone, w2 says 2 alone
    assert said == {"w1": {k: 0.0 for k in range(0, 60, 2)}, "w2": {k: 1.0 for k in range(1, 60, 2)}}
    table(path, [*rows, (60, "text 60", 1, 1, 1.5)], ("row", "text", "ann", "stars", "p"))
    error = fails(run, capsys, path, "--label", "ann", "--soft-label", "p", "--yes", "2", "--one-vs-rest")
    assert "line 62: 1.5 in column 'p'" in error
    # 1 alone is a class where another column has it as one, and p_yes where no column has numbers above 1
    five = [(f"text {k}", 2 + k % 4, 1 + k % 5, 1, k % 2) for k in range(60)]
    path = table(path, five, ("text", "gold", "stars", "ones", "binary"))
    said = p_yes("--soft-label", "stars,ones,binary", "--yes", "5", "--one-vs-rest")
    assert set(said["ones"].values()) == {0.0} and said["binary"] == {k: float(k % 2) for k in range(60)}
    assert set(p_yes("--soft-label", "ones")["ones"].values()) == {1.0}
    gold = ["--label", "gold", "--soft-label", "ones", "--yes", "5", "--one-vs-rest"]
    error = fails(run, capsys, path, *gold)
    assert "line 2" in error and "the only number in column 'ones'" in error and "beside 2, 3, 4?" in error
    assert "--yes 1" in error and "'1 star'" in error
    for k, (written, more) in enumerate((("1", ["--yes", "1"]), ("1 star", []))):
        path = table(path, [(*row[:3], written, row[4]) for row in five], ("text", "gold", "stars", "ones", "binary"))
        folder = run(path, *gold, *more)
        assert {row["soft_label"][1] for row in read_jsonl(folder / "ones" / "labels.jsonl")} == {1.0 - k}
    codes = table(tmp_path / "codes.csv", [(f"text {k}", 1234567 + k % 2) for k in range(60)])
    assert sum(row["label"] for row in read(run(codes, "--yes", "1234568"))["test"]) == 6


def test_what_is_taken_for_missing_is_said(tmp_path, run, capsys):
    """Faults: initials NA, a country NA, and -1 for "no label" were lost, or became a "no", without a word."""
    rows = [(k, f"text {k}", ("spam", "ham", "#N/A", "<NA>")[k % 4], "NA" if k < 10 else f"by {k}") for k in range(200)]
    path = table(tmp_path / "rows.csv", rows, ("row", "text", "label", "by"))
    votes = table(tmp_path / "votes.csv", [(k, ("ann", "NA")[k % 2], "spam") for k in range(60)],
                  ("row", "annotator", "label"))
    folder = run(path, "--yes", "spam", "--group", "by", "--votes", str(votes))
    printed = capsys.readouterr().out
    assert "10 rows have 'NA' in column 'by' and count as rows without a group" in printed
    assert "30 votes have no annotator" in printed
    assert sum(row["label"] is not None for row in read(folder)["test"] + read(folder)["train1"]) + len(
        read_jsonl(folder / "truth" / "labels.jsonl")) == 100                  # #N/A and <NA> are no labels
    codes = table(tmp_path / "codes.csv", [(f"text {k}", (1, 0, -1)[k % 3]) for k in range(200)])
    assert "Empty the cells that mean neither; or" in fails(run, capsys, codes)
    run(codes, "--yes", "1", "--one-vs-rest")
    assert "no means: '0' (67), '-1' (66). Empty the cells that mean neither" in capsys.readouterr().out


def test_labels_of_an_audit_whose_texts_are_not_there_are_counted(tmp_path, run, capsys):
    rows = partly_labelled(tmp_path / "rows.jsonl", 0)
    filled = table(tmp_path / "to-label.csv", [(f"request number {k}" if k < 60 else f"Ã¼ {k}", k % 2)
                                               for k in range(90)])
    run(rows, "--audit", str(filled))
    printed = capsys.readouterr().out
    assert "audit: 60 true labels" in printed and "WARNING: 30 labels of" in printed and "first 'ã¼ 60'" in printed


def test_rows_that_a_model_chose_make_no_test_set(tmp_path, run, capsys):
    """Fault: true-labels.csv was taken by --audit, so rows on which models disagree became the test set."""
    rows = partly_labelled(tmp_path / "rows.jsonl", 0)
    chosen = table(tmp_path / "true-labels.csv", [("m-train2-0", "request number 1", 1)], ("id", "text", "label"))
    assert "would make a biased test set. Fill in to-label.csv" in fails(run, capsys, rows, "--audit", str(chosen))


def test_what_excel_adds_is_understood_or_named(tmp_path, run, capsys):
    lines = [f"text {k}; more;{k % 2}" for k in range(80)]
    (tmp_path / "ROWS.CSV").write_text("sep=;\r\ntext;other;label\r\n" + "\r\n".join(lines) + "\r\n")
    assert sum(map(len, read(run(tmp_path / "ROWS.CSV")).values())) == 80
    (tmp_path / "book.csv").write_bytes(b"PK\x03\x04 and so on")
    assert "is an Excel workbook" in fails(run, capsys, tmp_path / "book.csv")


def test_a_group_that_is_written_as_missing_is_no_group(tmp_path, run, capsys):
    rows = [(f"text {k}", k % 2, ("NaN", f"author {k % 25}")[k // 50]) for k in range(100)]
    splits = read(run(table(tmp_path / "rows.csv", rows, ("text", "label", "by")), "--group", "by"))
    assert len({row["group"] for part in splits.values() for row in part}) == 50 + 25
