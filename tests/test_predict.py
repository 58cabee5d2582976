"""
From a table of imperfect annotators to labels for new rows: prepare, fuse, train, predict, check up; and predict.py
killed, resumed and misused.

python -m pytest tests/test_predict.py           # 15 s, CPU, no network
"""
import contextlib
import csv
import doctest
import importlib.util
import io
import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import align_tasks
import contract
import ensemble
import predict
import report
import train_strong
from conftest import ROOT

spec = importlib.util.spec_from_file_location("own_prepare", os.path.join(ROOT, "data", "own", "prepare.py"))
own = importlib.util.module_from_spec(spec)
spec.loader.exec_module(own)
MODULES = (align_tasks, contract, ensemble, predict, report, train_strong)
TRAIN = ["--model", "tiny-1a", "--epochs", "1", "--device", "cpu"]
ANNOTATORS = ["--soft-label", "ann", "--soft-label", "bob", "--soft-label", "rule"]


def call(house, module, *flags):
    """A stage's main() in this process, as if it lay in that house"""
    out = io.StringIO()
    err = io.StringIO()
    code = 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(house)
        patch.setattr(own, "DATA", str(house / "data"))
        for place in MODULES:
            patch.setattr(place, "ROOT", str(house))
        try:
            module.main(list(map(str, flags)))
        except SystemExit as end:
            code = end.code or 0
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def must(house, module, *flags):
    done = call(house, module, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write_table(path, n_truths, n=240):
    """Texts of two kinds; `urgent` is known for the first rows, three annotators are wrong now and then, with gaps."""
    rng = np.random.default_rng(0)
    rows = []
    for k in range(n):
        urgent = k % 2
        text = f"{('Q: How is the gold? A: fine', 'Q: Is the lion out? A: yes')[urgent]}, number {k}"
        said = [("normal", "urgent")[urgent ^ (rng.random() < p)] if rng.random() < 0.8 else ""
                for p in (0.1, 0.3, 0.2)]
        rows.append([k, text, ("normal", "urgent")[urgent] if k < n_truths else "", *said])
    with open(path, "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([["id", "body", "urgent", "ann", "bob", "rule"], *rows])
    return path


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A task with 200 true labels of 240, the annotators fused, and a student of theirs"""
    house = tmp_path_factory.mktemp("house")
    os.makedirs(house / "data" / "tinyworld")
    os.symlink(os.path.join(ROOT, "data", "tinyworld", "models"), house / "data" / "tinyworld" / "models")
    rows = write_table(house / "tickets.csv", 200)
    must(house, own, "--rows", rows, "--text", "body", "--label", "urgent", "--yes", "urgent", *ANNOTATORS,
         "--task", "tickets")
    must(house, ensemble, "--task", "tickets", "--supervisors", "ann,bob,rule", "--combine", "dawid-skene", "--out",
         "fused")
    must(house, train_strong, "--task", "tickets", "--labels", "truth", "--out", "ceiling", *TRAIN)
    printed = must(house, train_strong, "--task", "tickets", "--labels", "fused", "--ceiling", "ceiling", *TRAIN)
    (house / "printed.txt").write_text(printed)
    return house


def student(house):
    return house / "data" / "tickets" / "seed0" / "student"


def read_csv(path, delimiter=","):
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f, delimiter=delimiter))


def label(house, rows, out, *flags):
    return call(house, predict, "--model", student(house), "--rows", rows, "--text", "body", "--out", out, "--device",
                "cpu", *flags)


def test_the_examples_in_the_docstrings():
    assert doctest.testmod(predict).failed == 0


def test_the_student_of_fused_annotators_is_compared_and_says_what_is_missing(house):
    printed = (house / "printed.txt").read_text()
    assert "supervisor 0." in printed and "| student 0." in printed and "| ceiling 0." in printed
    fused = {json.loads(line)["id"] for line in open(house / "data" / "tickets" / "seed0" / "fused" / "labels.jsonl")}
    train2 = [json.loads(line) for line in open(house / "data" / "tickets" / "train2.jsonl")]
    n_gaps = sum(row["id"] not in fused for row in train2)
    assert (f"note: {n_gaps:,} of {len(train2):,} rows of train2 have no label" in printed) == (n_gaps > 0)
    labels = [json.loads(line)["id"] for line in open(student(house) / "labels.jsonl")]
    assert {row["id"] for row in train2} <= set(labels)    # the student labels what nobody labelled


def test_one_annotator_with_gaps_can_supervise_too(house):
    printed = must(house, train_strong, "--task", "tickets", "--labels", "bob", "--out", "of-bob", *TRAIN)
    assert "rows of train2 have no label" in printed and "that the supervisor labels" in printed


def test_the_page_on_own_labels_shows_what_the_commands_print(house):
    example = os.path.join(ROOT, "data", "own", "example.csv")
    printed = must(house, own, "--rows", example, "--text", "Q: {question} A: {answer}", "--label", "mark", "--yes",
                   "right", "--soft-label", "ann,bob,rule", "--task", "quiz")
    printed += must(house, ensemble, "--task", "quiz", "--supervisors", "ann,bob,rule", "--combine", "dawid-skene",
                    "--out", "fused")
    with open(os.path.join(ROOT, "docs", "own-labels.md"), encoding="utf-8") as f:
        page = " ".join(f.read().split())
    starts = ("left out", "train", "true labels", "to label next", "ann", "verdicts", "bob  ", "rule  ", "supervisor (")
    shown = [" ".join(line.split()) for line in printed.splitlines() if line.startswith(starts)]
    assert len(shown) == 11 and [line for line in shown if line not in page] == []


@pytest.mark.parametrize("name,words", [
    ("constant", ["labels of constant: they are 0.7 on every row: nothing can be learned from them"]),
    ("shuffled", ["labels of shuffled: they may have nothing to do with the texts", "valid rows no better than"]),
    ("ties", ["--hard: ", "ties of exactly 0.5 and stay so", "labels of ties: "])])
def test_degenerate_supervisors_are_announced_in_the_last_line(house, name, words):
    """`shuffled` has the fused labels of other rows, `ties` says 0.5 on every third row."""
    folder = house / "data" / "tickets" / name
    fused = [json.loads(line) for line in open(house / "data" / "tickets" / "seed0" / "fused" / "labels.jsonl")]
    dealt = np.random.default_rng(0).permutation(len(fused))
    rows = []
    for k, row in enumerate(fused):
        p_yes = {"constant": 0.7, "shuffled": fused[dealt[k]]["soft_label"][1],
                 "ties": 0.5 if k % 3 == 0 else row["soft_label"][1]}[name]
        rows.append({"id": row["id"], "soft_label": [1 - p_yes, p_yes]})
    os.makedirs(folder)
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    hard = ["--hard"] if name == "ties" else []
    printed = must(house, train_strong, "--task", "tickets", "--labels", name, "--out", f"of-{name}", *TRAIN, *hard)
    assert all(word in printed for word in words), printed


def test_the_metric_of_a_pgr_can_be_chosen(house):
    flags = ["--task", "tickets", "--labels", "fused", "--ceiling", "ceiling", "--out", "by-auroc", *TRAIN]
    assert "\nAUROC: supervisor " in must(house, train_strong, *flags, "--metric", "auroc")
    assert "(AUROC)" in must(house, report, "--task", "tickets")


def test_a_checkpoint_labels_a_new_table_as_the_student_labelled_these_rows(house, tmp_path):
    known = {}
    soft = {row["id"]: row["soft_label"][1] for row in map(json.loads, open(student(house) / "labels.jsonl"))}
    for split in ("train2", "valid", "test"):
        for row in map(json.loads, open(house / "data" / "tickets" / f"{split}.jsonl")):
            known[row["text"]] = soft[row["id"]]
    done = label(house, house / "tickets.csv", tmp_path / "out.csv")
    assert done.returncode == 0, done.stderr
    rows = read_csv(tmp_path / "out.csv")
    assert [{key: row[key] for key in row if key not in ("p_yes", "label")} for row in rows] == \
        read_csv(house / "tickets.csv")
    for row in rows:
        if row["body"] in known:
            assert float(row["p_yes"]) == pytest.approx(known[row["body"]], abs=1e-5)
    threshold = float(done.stdout.split("threshold ")[1].split(",")[0])
    assert {row["label"] == "urgent" for row in rows if float(row["p_yes"]) > threshold + 1e-3} <= {True}
    assert {row["label"] for row in rows} <= {"urgent", "normal"}
    assert "labelled 240 rows | says urgent 0." in done.stdout and "valid rows" in done.stdout
    assert "rows/s" in done.stdout and "WARNING" not in done.stdout


@pytest.mark.parametrize("end", [".tsv", ".jsonl"])
def test_rows_without_text_and_other_formats(house, tmp_path, end):
    rows = [{"body": "is the lion ill?", "k": 1}, {"body": "  ", "k": 2}, {"k": 3}, {"body": 7, "k": 4}]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = label(house, tmp_path / "new.jsonl", tmp_path / f"out{end}", "--threshold", "0")
    assert done.returncode == 0, done.stderr
    assert "labelled 2 rows (2 more have no text)" in done.stdout and "threshold 0, by --threshold" in done.stdout
    if end == ".jsonl":
        out = [json.loads(line) for line in open(tmp_path / "out.jsonl")]
        assert [{key: row[key] for key in row if key in ("body", "k")} for row in out] == rows
    else:
        out = read_csv(tmp_path / "out.tsv", "\t")
    assert [row["label"] or None for row in out] == ["urgent", None, None, "urgent"]
    assert sorted(os.listdir(tmp_path)) == ["new.jsonl", f"out{end}"]


def test_killed_it_goes_on_and_ends_with_the_same_bytes(house, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "PIECE", 30)
    assert label(house, house / "tickets.csv", tmp_path / "whole.csv").returncode == 0
    whole = predict.label_rows
    pieces = []

    def stop_in_the_third(*args):
        pieces.append(len(args[0]))
        if len(pieces) == 3:
            raise KeyboardInterrupt
        return whole(*args)
    monkeypatch.setattr(predict, "label_rows", stop_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        label(house, house / "tickets.csv", tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()
    with open(tmp_path / "out.csv.part" / "rows", "ab") as f:
        f.write(b"half a row")
    pieces.clear()
    monkeypatch.setattr(predict, "label_rows", lambda *args: pieces.append(len(args[0])) or whole(*args))
    done = label(house, house / "tickets.csv", tmp_path / "out.csv")
    assert "going on after 60 rows" in done.stdout and pieces == [30] * 6
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["out.csv", "whole.csv"]


def test_what_a_killed_command_left_is_used_only_if_it_is_whole(house, tmp_path, monkeypatch):
    """
    A changed byte of the rows, or a changed count, begins the table anew with a note, and the bytes are those of a run
    without disturbance. Two commands never write to one file, and a table that is replaced meanwhile ends the run.
    """
    monkeypatch.setattr(predict, "PIECE", 20)
    lines = (house / "tickets.csv").read_text().splitlines(keepends=True)
    (tmp_path / "new.csv").write_text("".join(lines[:61]))
    out = tmp_path / "out.csv"
    part = tmp_path / "out.csv.part"
    assert label(house, tmp_path / "new.csv", out).returncode == 0
    whole = out.read_bytes()
    real = predict.label_rows

    def stop_in_the_third(*args):
        pieces.append(1)
        if len(pieces) == 3:
            raise KeyboardInterrupt
        return real(*args)

    def replace_the_table(*args):
        (tmp_path / "new.csv").write_text("".join(lines[:41]))
        return real(*args)
    for file, old, new in (("rows", b"gold", b"lead"), ("progress.json", b'"rows": 40', b'"rows": 20'),
                           ("progress.json", b"{", b"[")):
        out.unlink()
        pieces = []
        monkeypatch.setattr(predict, "label_rows", stop_in_the_third)
        with pytest.raises(KeyboardInterrupt):
            label(house, tmp_path / "new.csv", out)
        data = (part / file).read_bytes()
        assert old in data
        (part / file).write_bytes(data.replace(old, new, 1))
        monkeypatch.setattr(predict, "label_rows", real)
        done = label(house, tmp_path / "new.csv", out)
        assert "out.csv.part is damaged; the table is labelled from its first row" in done.stdout, done.stdout
        assert out.read_bytes() == whole and not part.exists()
    out.unlink()
    with contract.lock_folder(str(part)):
        assert "another run is writing to" in label(house, tmp_path / "new.csv", out).stderr
    monkeypatch.setattr(predict, "label_rows", replace_the_table)
    assert "new.csv was changed while this run was working" in label(house, tmp_path / "new.csv", out).stderr
    assert not out.exists()


@pytest.mark.parametrize("spec", [{"names": 7}, {"names": ["no"]}, {"text": 1.5}, {"text": " "}])
def test_a_damaged_task_json_is_one_line_and_an_edited_one_is_named(house, tmp_path, spec):
    """It names the classes and the column of the texts."""
    path = house / "data" / "tickets" / "task.json"
    before = path.read_text()
    flags = ["--model", student(house), "--rows", house / "tickets.csv", "--text", "none", "--out", tmp_path / "o.csv"]
    try:
        path.write_text(json.dumps({**json.loads(before), **spec}))
        assert "task.json: 'names' must be two texts, and 'text' one" in call(house, predict, *flags).stderr
        path.write_text(json.dumps({**json.loads(before), "names": json.loads(before)["names"][::-1]}))
        done = call(house, predict, *flags)                # p_yes would get the other word
        assert done.returncode == 2 and "Repeat that command" in done.stderr
        path.write_text(json.dumps({**json.loads(before), "more": 1}))
        noted = [line for line in call(house, predict, *flags).stdout.splitlines() if "changed since" in line]
        assert len(noted) == 1 and "the run of" in noted[0] and "task.json. Repeat its command" in noted[0]
        path.unlink()
        assert "note: no data/tickets/task.json" in call(house, predict, *flags).stdout
    finally:
        path.write_text(before)
    assert "changed" not in call(house, predict, *flags).stdout


def test_labels_that_were_edited_since_the_run_are_named(house, tmp_path):
    """The threshold is chosen on them."""
    shutil.copytree(student(house), tmp_path / "copy")
    path = tmp_path / "copy" / "labels.jsonl"
    first, rest = path.read_text().split("\n", 1)
    row = json.loads(first)
    path.write_text(json.dumps({**row, "soft_label": row["soft_label"][::-1]}) + "\n" + rest)
    done = call(house, predict, "--model", tmp_path / "copy", "--rows", house / "tickets.csv", "--text", "no column",
                "--out", tmp_path / "out.csv")
    assert "copy/labels.jsonl was changed since its run ended" in done.stdout


@pytest.mark.parametrize("results", ["", "{}", '{"config": []}'])
def test_a_run_that_does_not_say_how_it_was_made_is_refused(house, tmp_path, results):
    """Without its flags nothing is known of its texts or classes: no guess, and no file."""
    (tmp_path / "run" / "checkpoint").mkdir(parents=True)
    (tmp_path / "run" / "results.json").write_text(results)
    done = call(house, predict, "--model", tmp_path / "run", "--rows", house / "tickets.csv", "--out",
                tmp_path / "out.csv")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "results.json does not say how the run was made. Repeat the run's command with --force" in done.stderr
    assert os.listdir(tmp_path) == ["run"]


def test_texts_that_look_unlike_the_training_rows_are_announced(house, tmp_path):
    with open(tmp_path / "new.csv", "w", newline="") as f:
        csv.writer(f).writerows([["body"], *[["zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich"]] * 9])
    done = label(house, tmp_path / "new.csv", tmp_path / "out.csv")
    assert "WARNING: the texts look unlike the training rows: 100 % of their words are unknown" in done.stdout


@pytest.mark.parametrize("change,words", [
    ({"--text": "message"}, ["no column 'message'", "id, body, urgent"]), ({"--rows": "nothing.csv"}, ["no file at"]),
    ({"--rows": "empty.csv"}, ["empty.csv has no rows"]),
    ({"--out": "out.txt"}, [".csv, .tsv or .jsonl"]), ({"--model": "tiny-1a"}, ["no classifier", "train_strong.py"]),
    ({"--out": "there.csv"}, ["exists already"]), ({"--rows": "taken.csv"}, ["column 'label' already"]),
    ({"--model": "./nobody"}, ["no model", "./nobody"]),
    ({"--model": "student"}, ["--model student: give the run's folder, as in data/tickets/seed0/student"])])
def test_mistakes_are_one_line_and_leave_nothing(house, tmp_path, change, words):
    shutil.copy(house / "tickets.csv", tmp_path / "tickets.csv")
    (tmp_path / "there.csv").write_text("mine")
    (tmp_path / "taken.csv").write_text("body,label\nhello,1\n")
    (tmp_path / "empty.csv").write_text("id,body\n")
    before = sorted(os.listdir(tmp_path))
    flags = {"--model": student(house), "--rows": "tickets.csv", "--text": "body", "--out": "out.csv"} | change
    flags = {key: tmp_path / value if key in ("--rows", "--out") else value for key, value in flags.items()}
    done = call(house, predict, *[word for pair in flags.items() for word in pair], "--device", "cpu")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert sorted(os.listdir(tmp_path)) == before and (tmp_path / "there.csv").read_text() == "mine"


def test_without_any_truth_a_student_is_trained_and_nothing_is_claimed(house):
    rows = write_table(house / "dark.csv", 0)
    printed = must(house, own, "--rows", rows, "--text", "body", "--label", "urgent", "--yes", "urgent", *ANNOTATORS,
                   "--task", "dark")
    assert "true labels: none" in printed
    must(house, ensemble, "--task", "dark", "--supervisors", "all", "--combine", "dawid-skene", "--out", "fused")
    printed = must(house, train_strong, "--task", "dark", "--labels", "fused", *TRAIN)
    assert "nothing to do with the texts" not in printed   # a probe finds that they have
    assert "no true labels on test, so nothing can be said about its quality" in printed
    assert "data/dark/to-label.csv" in printed and (house / "data" / "dark" / "to-label.csv").exists()
    done = call(house, train_strong, "--task", "dark", "--labels", "truth", "--out", "ceiling", *TRAIN)
    assert done.returncode == 2 and "no true labels, no ceiling" in done.stderr
    done = call(house, train_strong, "--task", "dark", "--labels", "fused", "--early-stop", *TRAIN, "--out", "other")
    assert done.returncode == 2 and "need labels of valid" in done.stderr
    out = house / "dark-out.csv"
    printed = must(house, predict, "--model", house / "data" / "dark" / "seed0" / "student", "--rows", rows, "--text",
                   "body", "--out", out, "--device", "cpu")
    assert "threshold 0.5, valid has no true labels to choose it on" in printed and len(read_csv(out)) == 240


# --------------------------------------------------------------------------- the check-up of three label files


def label_files(folder, n=400):
    """Files of somebody else's: the student inherits the supervisor's errors, or makes its own as the ceiling does."""
    rng = np.random.default_rng(0)
    truth = np.arange(n) % 2
    supervisor = np.where(rng.random(n) < 0.3, 1 - truth, truth)
    imitator = np.where((supervisor != truth) & (rng.random(n) < 0.6), supervisor, truth)
    free = np.where(rng.random(n) < 0.15, 1 - truth, truth)
    ceiling = np.where(rng.random(n) < 0.05, 1 - truth, truth)
    models = {"supervisor": supervisor, "imitator": imitator, "free": free, "ceiling": ceiling,
              "constant": np.full(n, 0.7)}
    for name, p in models.items():
        rows = [{"id": f"r{k}", "soft_label": [1 - p_yes, p_yes]} for k, p_yes in enumerate(p.tolist())]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"id": f"r{k}", "label": int(y)} for k, y in enumerate(truth)]
    (folder / "truth.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("student,words", [
    ("imitator", ["there is a gap", "to halve this interval: 1,200 test groups more", "repeats them more than"]),
    ("free", ["there is a gap", "repeats them no more than", "errors: ceiling repeats"])])
def test_check_up_tells_inherited_errors_from_independent_ones(house, tmp_path, student, words):
    label_files(tmp_path)
    files = ",".join(str(tmp_path / f"{name}.jsonl") for name in ("supervisor", student, "ceiling"))
    printed = must(house, report, "--check", files, "--truth", tmp_path / "truth.jsonl")
    assert all(word in printed for word in words), printed
    assert "truth: 400 of 400 rows have all labels; 400 groups, 50% yes; compared by accuracy" in printed


def test_check_up_names_what_makes_a_result_worthless(house, tmp_path):
    label_files(tmp_path)
    files = ",".join(str(tmp_path / f"{name}.jsonl") for name in ("constant", "free", "ceiling"))
    assert "WARNING: the supervisor says yes on every row" in must(house, report, "--check", files, "--truth",
                                                                   tmp_path / "truth.jsonl")
    files = ",".join(str(tmp_path / f"{name}.jsonl") for name in ("ceiling", "free", "supervisor"))
    printed = must(house, report, "--check", files, "--truth", tmp_path / "truth.jsonl")
    assert "the ceiling is below the supervisor: no gap to recover" in printed
    files = ",".join(str(tmp_path / f"{name}.jsonl") for name in ("supervisor", "free", "supervisor"))
    assert "the gap is within its noise" in must(house, report, "--check", files, "--truth", tmp_path / "truth.jsonl")
    truth = [json.loads(line) for line in open(tmp_path / "truth.jsonl")]
    for more, words in ((truth[:1], "line 401, id 'r0' occurs twice"),
                        ([{"id": "new", "label": 1, "group": None}], "line 401: 'group' must be a text"),
                        ([{"id": "new", "label": 1, "group": [1]}], "line 401: 'group' must be a text")):
        (tmp_path / "twice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in truth + more))
        done = call(house, report, "--check", files, "--truth", tmp_path / "twice.jsonl")
        assert done.returncode == 2 and words in done.stderr
    for flags, words in ((["--check", "a,b"], "three label files"), (["--metric", "auroc"], "belong to --check")):
        done = call(house, report, *flags)
        assert done.returncode == 2 and words in done.stderr
    printed = must(house, report, "--task", "tickets", "--check", "fused,student,ceiling,bob")     # runs by name
    assert "errors: control 1 repeats" in printed


def test_the_report_of_a_task_with_annotators_leaves_out_what_cannot_be_measured(house):
    printed = must(house, report, "--task", "tickets")
    assert "| student | tiny-1a | fused |" in printed and "\n| fused | ann,bob,rule |" in printed
    assert "left out: data/dark/seed0/student" in must(house, report, "--task", "dark")
