"""
data/hub.py and its five tasks, on rows invented here; a small local server stands in for the hub. And labels of a
foreign supervisor, through data/own/prepare.py: the real ones, where ../shared/data has them.

python -m pytest tests/test_data.py              # 20 s
"""
import csv
import doctest
import glob
import gzip
import hashlib
import http.server
import importlib.util
import json
import os
import random
import re
import shutil
import sys
import threading
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

import warm
from conftest import ROOT
from contract import read_json, read_jsonl, read_labels
from metrics import all_metrics

TASKS = ["sciq", "boolq", "cosmos_qa", "amazon_polarity", "anthropic_hh"]
SPLITS = ["train1", "train2", "valid", "test"]
SHARED = os.path.join(ROOT, "..", "shared", "data")
OFFICIAL = {"sciq": ["train", "validation", "test"], "boolq": ["train", "validation"],
            "cosmos_qa": ["train", "validation"], "amazon_polarity": ["train", "test"],
            "anthropic_hh": ["train", "test"]}

sys.path.insert(0, os.path.join(ROOT, "data"))
import hub  # noqa: E402
import tasks  # noqa: E402


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, os.path.join(ROOT, path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = {task: load(f"data/{task}/prepare.py", f"prepare_{task}") for task in TASKS}
own = load("data/own/prepare.py", "prepare_own")


# --------------------------------------------------------------------------- tinyworld's tables

@pytest.fixture
def world(tmp_path, monkeypatch):
    """tinyworld's prepare.py with its tables in a folder of their own, and a task made of them."""
    module = load("data/tinyworld/prepare.py", "prepare_tinyworld")
    monkeypatch.setattr(module, "HERE", str(tmp_path))
    shutil.copytree(os.path.join(ROOT, "data", "tinyworld", "facts"), tmp_path / "facts")
    module.main(["--out", str(tmp_path)])
    return module


def set_key(*keys, value):
    """-> a change of a JSON text: the value at these keys"""
    def change(text):
        whole = json.loads(text)
        place = whole
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        return json.dumps(whole)
    return change


@pytest.mark.parametrize("name,change,words", [
    ("body.json", lambda text: text[:200], ["body.json"]),
    ("body.json", lambda text: text.replace('"entities"', '"relations"', 1), ["'relations'", "twice"]),
    ("body.json", lambda text: "[]", ["body.json"]),
    ("body.json", set_key("relations", "system", "values", value=["a", "b", "a", "c"]), ["'system'", "four values"]),
    ("body.json", set_key("relations", "system", "questions", value=["What?"]), ["'system'", "{e}"]),
    ("body.json", set_key("relations", "system", "statements", value=["{e.x} {v}"]), ["'system'", "{e} and {v}"]),
    ("body.json", set_key("relations", "system", "values", value="x"), ["'system'", "a list of texts"]),
    ("body.csv", lambda text: text[:-30], ["body.csv", "whole line"]),
    ("body.csv", lambda text: "".join(text.splitlines(True)[:-9]), ["body.csv has 151 rows", '"entities": 160']),
    ("body.csv", lambda text: text + text.splitlines(True)[-1], ["body.csv has 161 rows"]),
    ("body.csv", lambda text: text.replace("\nliver,", "\nfemur,", 1), ["body.csv", "'femur'", "once"]),
    ("body.csv", lambda text: text.replace(",", ",x", 3), ["body.csv"]),
    ("body.csv", None, ["no file at"]),
])
def test_a_broken_table_is_one_line_and_leaves_the_task_as_it_was(world, tmp_path, capsys, name, change, words):
    before = read(tmp_path)
    path = tmp_path / "facts" / name
    text = path.read_text(encoding="utf-8")
    path.unlink() if change is None else path.write_text(change(text), encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        world.main(["--out", str(tmp_path)])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and all(word in error for word in words), error
    path.write_text(text, encoding="utf-8")
    assert read(tmp_path) == before


def test_rows_of_another_task_are_not_overwritten(world, tmp_path, capsys):
    other = tmp_path / "other"
    os.makedirs(other)
    (other / "test.jsonl").write_text('{"id": "mine-1", "group": "a", "text": "b", "label": 1}\n')
    with pytest.raises(SystemExit):
        world.main(["--out", str(other)])
    assert "test.jsonl there is another task's" in capsys.readouterr().err
    assert os.listdir(other) == ["test.jsonl"]


def test_a_small_gz_that_unpacks_to_something_huge_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tasks, "MOST_UNPACKED", 1 << 20)
    with gzip.open(tmp_path / "bomb.jsonl.gz", "wb") as f:
        f.write(b'{"a": "' + b"x" * 10_000_000 + b'"}')
    with pytest.raises(SystemExit):
        list(tasks.read_table(str(tmp_path / "bomb.jsonl.gz")))
    assert "unpacks to over" in capsys.readouterr().err


# --------------------------------------------------------------------------- invented raw rows

def invent(task, n, start=0):
    """n raw rows in the hub's format; passages, contexts and openings are shared by three rows each."""
    rows = []
    for k in range(start, start + n):
        rng = random.Random(f"{task} {k}")
        shared = f"story {k // 3} of a {['cat', 'dog', 'fox'][k // 3 % 3]}"
        if task == "sciq":
            names = [f"thing {k}-{letter}" for letter in rng.sample("abcdefgh", 4)]
            rows.append({"question": f"Which thing is number {k}?", "correct_answer": names[3],
                         "distractor1": names[1], "distractor2": names[2], "distractor3": names[0],
                         "support": f"Number {k} is {names[3]}." if k % 9 else ""})
        elif task == "boolq":
            rows.append({"question": f"is it number {k}", "answer": rng.random() < 0.62,
                         "passage": f"A passage: {shared}."})
        elif task == "cosmos_qa":
            answers = [f"Because of {k} {letter} ." for letter in "abc"] + ["None of the above choices ."]
            rng.shuffle(answers)
            rows.append({"id": str(k), "context": f"A context: {shared}.", "question": f"Why {k} ?",
                         "label": rng.randrange(4), **{f"answer{i}": answer for i, answer in enumerate(answers)}})
        elif task == "amazon_polarity":
            rows.append({"label": rng.randrange(2), "title": f"Review {k}" if k % 7 else "",
                         "content": f"I bought a {shared} and {k} more."})
        else:
            start_of = f"\n\nHuman: Tell me the {shared}\n\nAssistant: Once, {k}."
            rows.append({"chosen": start_of + " It was warm.", "rejected": start_of + f" No, {k} is enough."})
    return rows


def write(path, rows):
    """A list of raw rows in the format of the file's ending."""
    path = str(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    name = path.removesuffix(".gz")
    if name.endswith(".parquet"):
        import pyarrow
        import pyarrow.parquet
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    with (gzip.open if path.endswith(".gz") else open)(path, "wt", encoding="utf-8", newline="") as f:
        if name.endswith(".json"):
            f.write(json.dumps(rows))
        elif name.endswith(".jsonl"):
            f.write("".join(json.dumps(row) + "\n" for row in rows))
        else:
            writer = csv.DictWriter(f, list(rows[0]), delimiter="\t" if name.endswith(".tsv") else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of what the commands need."""
    folder = tmp_path_factory.mktemp("house")
    for name in os.listdir(ROOT):
        if name.endswith(".py"):
            shutil.copy(os.path.join(ROOT, name), folder)
    for name in ("hub.py", "tasks.py", "own/prepare.py", *(f"{task}/prepare.py" for task in TASKS)):
        os.makedirs(os.path.dirname(os.path.join(folder, "data", name)), exist_ok=True)
        shutil.copy(os.path.join(ROOT, "data", name), os.path.join(folder, "data", name))
    os.makedirs(folder / "data" / "tinyworld")
    os.symlink(os.path.join(ROOT, "data", "tinyworld", "models"), folder / "data" / "tinyworld" / "models")
    return folder


def call(house, *command, **environment):
    """With an environment of its own it is a new process: huggingface_hub reads that when it is imported."""
    return warm.run(house, *command, env={**os.environ, **environment} if environment else None)


def must(house, *command, **environment):
    finished = call(house, *command, **environment)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """run(task, raw or path, *flags) -> (rows by split with their truth, printed), in a temporary data folder."""
    monkeypatch.setattr(hub, "DATA", str(tmp_path / "data"))

    def run(task, raw, *flags):
        path = raw if isinstance(raw, str) else write(tmp_path / "raw" / "all.jsonl", raw)
        SCRIPT[task].main(["--from-file", path, *map(str, flags)])
        return read(tmp_path / "data" / task), capsys.readouterr().out
    return run


def read_splits(folder):
    return {name: read_jsonl(os.path.join(folder, name + ".jsonl")) for name in SPLITS}


def read(folder):
    """The four splits, with the truth put back into train2 and valid. The form of contract.py is checked on the way."""
    splits = read_splits(folder)
    truth = {row["id"]: row["soft_label"] for row in read_jsonl(os.path.join(folder, "truth", "labels.jsonl"))}
    assert set(truth) == {row["id"] for name in ("train2", "valid") for row in splits[name]}
    for name in ("train2", "valid"):
        assert not any("label" in row for row in splits[name])                 # pitfall 16
        splits[name] = [{**row, "label": int(truth[row["id"]][1])} for row in splits[name]]
    ids = [row["id"] for rows in splits.values() for row in rows]
    assert len(set(ids)) == len(ids)
    where = {}
    for name, rows in splits.items():
        assert 2 * sum(row["label"] for row in rows) == len(rows) > 0, f"{name} is not balanced"
        for row in rows:
            assert where.setdefault(row["group"], name) == name, "pitfall 15: a group is in two splits"
    return splits


def folder_of(path, task, sizes, start=0):
    """The official splits as files of a folder, with rows that do not overlap."""
    for split, n in zip(OFFICIAL[task], sizes):
        write(path / f"{split}-00000-of-00001.parquet", invent(task, n, start))
        start += n
    return str(path)


# --------------------------------------------------------------------------- texts and labels, by hand

FILES = sorted(glob.glob("data/*.py", root_dir=ROOT) + glob.glob("data/*/*.py", root_dir=ROOT))


@pytest.mark.parametrize("path", FILES)
def test_the_worked_examples_in_docstrings_hold(path):
    assert doctest.testmod(load(path, path.replace("/", "_").removesuffix(".py"))).failed == 0


def readme_of(task):
    with open(os.path.join(ROOT, "data", task, "README.md"), encoding="utf-8") as f:
        return f.read()


def json_objects(text):
    """JSON objects one after the other, each over any number of lines -> list"""
    objects = []
    while text := text.strip():
        found, end = json.JSONDecoder().raw_decode(text)
        objects.append(found)
        text = text[end:]
    return objects


@pytest.mark.parametrize("task", TASKS)
def test_each_readme_shows_what_its_script_makes(task):
    text = readme_of(task)
    raw, rows = (json_objects(block) for block in re.findall(r"```json\n(.*?)```", text, re.S))
    assert [hub.file_row(task, "train1", row) for row in SCRIPT[task].rows_of(raw[0])] == rows
    for row in rows:                                                           # and the header shows the same text
        assert json.dumps(row["text"])[1:25] in SCRIPT[task].__doc__.replace("\n", "\\n")
    assert "Licence" in text and f"--from-file {task}-raw" in text


def test_sciq_rows_by_hand():
    raw = {"question": "Q?", "correct_answer": "a", "distractor1": "b", "distractor2": "c", "distractor3": "d",
           "support": "S."}
    right, wrong = SCRIPT["sciq"].rows_of(raw)
    assert (right["text"], right["label"], wrong["label"]) == ("Q: Q? A: a", 1, 0)
    assert wrong["text"] in ("Q: Q? A: b", "Q: Q? A: c", "Q: Q? A: d")
    assert sorted(right["choices"]) == list("abcd") and right["choices"] == wrong["choices"]
    assert right["support"] == "S." == wrong["support"]
    with_support = SCRIPT["sciq"].rows_of(raw, True)
    assert [row["text"] for row in with_support] == ["Note: S.\n" + row["text"] for row in (right, wrong)]
    assert SCRIPT["sciq"].rows_of({**raw, "support": ""}, True)[0]["text"] == right["text"]
    assert SCRIPT["sciq"].rows_of({**raw, "distractor2": " A "}) == []           # the right answer once more
    drawn = [SCRIPT["sciq"].rows_of({**raw, "question": f"{k}?"})[1]["answer"] for k in range(900)]
    assert all(abs(drawn.count(letter) - 300) < 60 for letter in "bcd")          # four standard deviations
    places = [SCRIPT["sciq"].rows_of({**raw, "question": f"{k}?"})[0]["choices"].index("a") for k in range(900)]
    assert all(abs(places.count(i) - 225) < 60 for i in range(4))


def test_cosmos_qa_never_shows_none_of_the_above():
    rows = [(raw, row) for raw in invent("cosmos_qa", 2000) for row in SCRIPT["cosmos_qa"].rows_of(raw)]
    assert len(rows) == 2000
    for raw, row in rows:
        right = raw[f"answer{raw['label']}"]
        assert "None of" not in row["answer"] and row["text"].endswith(row["answer"])
        assert row["label"] == (row["answer"] == right)
    share = np.mean([row["label"] for raw, row in rows if "None of" not in raw[f"answer{raw['label']}"]])
    assert abs(share - 0.5) < 0.06                                             # the coin; four standard deviations


def test_hh_pairs_share_the_group_and_so_do_later_turns_of_a_dialogue():
    first = "\n\nHuman: Hi\n\nAssistant: A"
    longer = first + "\n\nHuman: more\n\nAssistant: B"
    rows = []
    for text in (first, longer):
        rows += SCRIPT["anthropic_hh"].rows_of({"chosen": text, "rejected": text + "x"})
    texts = [(row["text"], row["label"]) for row in rows]
    assert texts == [(first, 1), (first + "x", 0), (longer, 1), (longer + "x", 0)]
    assert {row["group"] for row in rows} == {"Hi"}


def test_halves_are_those_of_datasets():
    import datasets
    for n in (7, 200, 10_000):
        cut = datasets.Dataset.from_dict({"place": range(n)}).train_test_split(test_size=0.5, seed=42)
        assert SCRIPT["sciq"].halves(n) == (sorted(cut["train"]["place"]), sorted(cut["test"]["place"]))


# --------------------------------------------------------------------------- splits

def test_sciq_as_sang_et_al(tmp_path, run, monkeypatch):
    """Official splits with planted duplicates: found and counted; the next questions take their places in train."""
    monkeypatch.setattr(SCRIPT["sciq"], "FIRST", 100)
    train = invent("sciq", 120)
    valid = invent("sciq", 20, 1000)
    test = invent("sciq", 30, 2000)
    train[7] = {**train[3], "correct_answer": "another"}                       # twice in train
    train[11] = {**test[0], "question": test[0]["question"].upper() + " "}     # in test too, spelled otherwise
    train[12] = valid[0]
    valid[5] = test[1]
    valid[6] = valid[4]
    train[20] = {**train[20], "distractor1": train[20]["correct_answer"]}
    for name, rows in (("train", train), ("validation", valid), ("test", test)):
        write(tmp_path / "raw" / "data" / f"{name}-00000-of-00001.parquet", rows)
    splits, printed = run("sciq", str(tmp_path / "raw"))
    assert {name: len(rows) for name, rows in splits.items()} == {"train1": 100, "train2": 100, "valid": 36, "test": 60}
    left_out = read_json(tmp_path / "data" / "sciq" / "task.json")["left_out"]
    assert left_out == dict.fromkeys(
        ["questions without four usable answers", "questions twice in train", "questions of train that are in test",
         "questions of train that are in valid", "questions of valid that are in test", "questions twice in valid"], 1)
    assert "1 questions of train that are in test" in printed
    first, second = (set(places) for places in SCRIPT["sciq"].halves(100))
    number = {tasks.short_hash(row["question"]): k for k, row in reversed(list(enumerate(train)))}
    half = {name: {number[row["group"]] for row in splits[name]} for name in ("train1", "train2")}
    replaced = {7, 11, 12, 20}                                                 # by 100, 101, 102, 103, in this order
    assert half["train1"] == first - replaced | {100 + i for i, k in enumerate(sorted(replaced)) if k in first}
    assert half["train2"] == second - replaced | {100 + i for i, k in enumerate(sorted(replaced)) if k in second}
    both = {}
    for rows in splits.values():
        for row in rows:
            both.setdefault(row["group"], []).append(row["label"])
    assert all(sorted(labels) == [0, 1] for labels in both.values())           # one right and one wrong row each


def test_one_file_of_sciq_is_dealt_by_the_hash_of_the_question(tmp_path, run):
    raw = invent("sciq", 300)
    splits, _ = run("sciq", raw + [raw[3]])
    assert sum(map(len, splits.values())) == 600
    assert all(tasks.split_of_group(row["group"]) == name for name, rows in splits.items() for row in rows)


def test_with_support_the_text_changes_and_the_ids_do_not(tmp_path, run):
    plain, _ = run("sciq", invent("sciq", 300))
    with_support, _ = run("sciq", invent("sciq", 300), "--with-support", "--force")
    for name in SPLITS:
        assert [row["id"] for row in plain[name]] == [row["id"] for row in with_support[name]]
        for a, b in zip(plain[name], with_support[name]):
            note = f"Note: {a['support']}\n" if a["support"] else ""
            assert b["text"] == note + a["text"] and a["label"] == b["label"]


@pytest.mark.parametrize("task", TASKS)
def test_pitfall_21_the_order_of_the_source_changes_nothing(tmp_path, run, task):
    raw = invent(task, 400)
    sizes = ["--rows", 120, "--test-rows", 30] if task != "sciq" else []
    first, _ = run(task, raw, *sizes)
    random.Random(1).shuffle(raw)
    assert run(task, raw, *sizes, "--force")[0] == first


@pytest.mark.parametrize("task", TASKS[1:])
def test_pitfall_15_official_splits_with_planted_copies(tmp_path, run, task):
    """Train rows whose group is in test go; every row is accounted for; sizes and balance hold."""
    train = invent(task, 900 if task == "anthropic_hh" else 1400)
    test = invent(task, 240, 3000)
    train[50:53] = test[60:63]
    train[80] = train[90]
    for name, rows in zip(OFFICIAL[task], (train, test)):
        write(tmp_path / "raw" / f"{name}.jsonl", rows)
    splits, _ = run(task, str(tmp_path / "raw"), "--rows", 400, "--test-rows", 100)
    sizes = {name: len(rows) for name, rows in splits.items()}
    assert sizes == {"train1": 200, "train2": 200, "valid": 40, "test": 100}
    left_out = read_json(tmp_path / "data" / task / "task.json")["left_out"]
    rows_of = {name: [row for raw in rows for row in SCRIPT[task].rows_of(raw)]
               for name, rows in (("train", train), ("test", test))}
    assert sum(left_out.values()) + sum(sizes.values()) == sum(map(len, rows_of.values()))
    groups = {pool: [tasks.short_hash(row["group"]) for row in rows] for pool, rows in rows_of.items()}
    assert {row["group"] for row in splits["test"]} <= set(groups["test"])
    assert not {row["group"] for name in SPLITS[:3] for row in splits[name]} & set(groups["test"])
    n_shared = sum(group in set(groups["test"]) for group in groups["train"])
    assert left_out["of train whose group is in test"] == n_shared > 0
    assert left_out.get("doubles") == (2 if task == "anthropic_hh" else 1)


def test_unique_and_balance_by_hand():
    texts = [("a", 1), (" A", 1), ("b", 0), ("B", 1), ("c", 0)]
    rows = [{"group": "g", "text": text, "label": label} for text, label in texts]
    kept, doubles, contradictory = hub.drop_duplicates(rows)
    assert sorted(row["text"].lower().strip() for row in kept) == ["a", "c"] and (doubles, contradictory) == (1, 2)
    many = [{"group": str(k), "text": str(k), "label": int(k % 4 == 0)} for k in range(100)]
    assert [sum(row["label"] == v for row in hub.balance(many, 1000)) for v in (0, 1)] == [25, 25]
    fewer = hub.balance(many, 11)
    assert len(fewer) == 10 and {row["text"] for row in fewer} <= {row["text"] for row in hub.balance(many, 1000)}


def test_all_formats_give_the_same_rows(tmp_path, run):
    for task in ("sciq", "boolq"):
        found = []
        for ending in tasks.ENDINGS:
            splits, _ = run(task, write(tmp_path / "formats" / f"{task}{ending}", invent(task, 200)))
            found.append(splits)
        assert all(splits == found[0] for splits in found)


def test_hh_folders_of_the_hub(tmp_path, run):
    """harmless-base/train.jsonl.gz and the like; other files are left alone."""
    for name, start in (("harmless-base", 0), ("helpful-base", 900)):
        write(tmp_path / "raw" / name / "train.jsonl.gz", invent("anthropic_hh", 90, start))
        write(tmp_path / "raw" / name / "test.jsonl.gz", invent("anthropic_hh", 30, start + 300))
    write(tmp_path / "raw" / "red-team-attempts" / "red_team_attempts.jsonl.gz", [{"transcript": "x"}])
    splits, _ = run("anthropic_hh", str(tmp_path / "raw"))
    assert len(splits["test"]) == 120 and sum(len(splits[name]) for name in SPLITS[:3]) == 360
    source = read_json(tmp_path / "data" / "anthropic_hh" / "task.json")["source"]
    assert len(source["files"]) == 4 and all(re.fullmatch(r"[0-9a-f]{16}", value) for value in source["files"].values())


# --------------------------------------------------------------------------- done, undone, half done

def test_the_same_command_does_nothing_and_damage_is_made_good(tmp_path, run):
    raw = write(tmp_path / "raw" / "a.jsonl", invent("boolq", 300))
    _, printed = run("boolq", raw)
    folder = tmp_path / "data" / "boolq"
    before = {name: (folder / name).read_bytes() for name in ("train2.jsonl", "task.json", "truth/labels.jsonl")}
    assert "wrote" in printed and "already done" in run("boolq", raw)[1]
    for name in before:                                                        # one byte of any file, and it runs again
        with open(folder / name, "r+b") as f:
            f.write(b"#")
        assert "wrote" in run("boolq", raw)[1] and all((folder / n).read_bytes() == b for n, b in before.items())
    assert "wrote" in run("boolq", raw, "--rows", 100)[1]                      # other flags, another source: other rows
    assert "wrote" in run("boolq", write(tmp_path / "raw" / "a.jsonl", invent("boolq", 299)), "--rows", 100)[1]


def test_a_half_finished_task_is_never_taken(house, tmp_path):
    raw = write(tmp_path / "raw.jsonl", invent("sciq", 300))
    must(house, "data/sciq/prepare.py", "--from-file", raw, "--task", "half")
    code = ("import sys; sys.path[:0] = ['.', 'data']; import tasks, os, runpy\n"
            "old = tasks.write_jsonl\n"
            "tasks.write_jsonl = lambda path, rows: os._exit(9) if path.endswith('test.jsonl') else old(path, rows)\n"
            f"sys.argv = ['data/sciq/prepare.py', '--from-file', {raw!r}, '--task', 'half', '--force']\n"
            "runpy.run_path(sys.argv[0], run_name='__main__')")
    assert call(house, "-c", code).returncode == 9
    refused = call(house, "train_weak.py", "--task", "half", "--max-rows", "8")
    assert refused.returncode == 2 and "task.json" in refused.stderr and refused.stderr.count("\n") == 1
    assert "wrote" in must(house, "data/sciq/prepare.py", "--from-file", raw, "--task", "half")


def test_the_trainers_take_a_prepared_task(house, tmp_path):
    raw = write(tmp_path / "raw.jsonl", invent("sciq", 120))
    must(house, "data/sciq/prepare.py", "--from-file", raw)
    assert "supervisor 0." in must(house, "train_weak.py", "--task", "sciq", "--max-rows", "24", "--epochs", "1")


# --------------------------------------------------------------------------- the hub, and no hub

@pytest.mark.parametrize("task", TASKS)
def test_without_hub_and_file_one_line_says_what_to_fetch_and_where_to_put_it(tmp_path, monkeypatch, capfd, task):
    """conftest.py has switched the hub off; test_a_command_without_hub does the same from outside."""
    monkeypatch.setattr(hub, "DATA", str(tmp_path / "data"))
    with pytest.raises(SystemExit) as stop:
        SCRIPT[task].main([])
    error = capfd.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1, error
    repo = {"sciq": "allenai/sciq", "boolq": "google/boolq", "cosmos_qa": "allenai/cosmos_qa",
            "amazon_polarity": "fancyzhx/amazon_polarity", "anthropic_hh": "Anthropic/hh-rlhf"}[task]
    revision = "refs/convert/parquet" if task == "cosmos_qa" else "main"
    assert f"hf download {repo} --repo-type dataset --revision {revision} --local-dir {task}-raw" in error
    assert f"python data/{task}/prepare.py --from-file {task}-raw" in error
    assert not os.path.exists(tmp_path / "data")


def test_a_command_without_hub(house):
    done = call(house, "data/cosmos_qa/prepare.py", HF_HUB_OFFLINE="1")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout, done.stderr
    assert "Traceback" not in done.stderr


class FakeHub(http.server.BaseHTTPRequestHandler):
    """The few answers of the hub that `datasets` needs: the commit of a revision, its list of files, and the files."""
    repo = "google/boolq"
    commit = "c0ffee" + "0" * 34
    files = {}
    moved = []

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for key, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def entries(self):
        return [{"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
                for name, body in self.files.items()]

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if path.startswith(f"/api/datasets/{self.repo}/tree/"):
            inside = path.split(self.commit, 1)[1].strip("/")
            found = [entry for entry in self.entries() if entry["path"].startswith(inside)]
            names = {os.path.dirname(name) for name in self.files}
            folders = [{"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in names]
            body = found + folders if "recursive=True" in self.path or inside else folders
            return self.answer(200, json.dumps(body).encode(), Content_Type="application/json")
        if path.startswith(f"/api/datasets/{self.repo}"):
            sha = self.commit if self.commit in path or not self.moved else "f" * 40
            self.moved.append(path)                        # a push moves main as soon as it has been looked up
            siblings = [{"rfilename": name} for name in self.files]
            body = {"id": self.repo, "sha": sha, "siblings": siblings, "private": False}
            return self.answer(200, json.dumps(body).encode(), Content_Type="application/json")
        name = path.split(f"/resolve/{self.commit}/")[-1]
        if name not in self.files:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=self.commit)
        body = self.files[name]
        self.answer(200, body, X_Repo_Commit=self.commit, ETag=f'"{hashlib.sha1(body).hexdigest()}"')

    do_HEAD = do_GET

    def do_POST(self):
        paths = None
        if "json" in self.headers.get("Content-Type", ""):
            paths = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}").get("paths")
        body = [entry for entry in self.entries() if paths is None or entry["path"] in paths]
        self.answer(200, json.dumps(body).encode(), Content_Type="application/json")

    def log_message(self, *_):
        pass


def test_from_the_hub_the_commit_that_was_read_is_recorded(house, tmp_path):
    for name, n, start in (("train", 300, 0), ("validation", 90, 900)):
        path = write(tmp_path / "raw" / f"{name}-00000-of-00001.parquet", invent("boolq", n, start))
        with open(path, "rb") as f:
            FakeHub.files[f"data/{name}-00000-of-00001.parquet"] = f.read()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "cache"),
                   "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
                   "no_proxy": "127.0.0.1"}
    try:
        printed = must(house, "data/boolq/prepare.py", "--task", "from-hub", "--revision", "main", **environment)
    finally:
        server.shutdown()
        server.server_close()
    must(house, "data/boolq/prepare.py", "--task", "from-files", "--from-file", tmp_path / "raw")
    spec, other = (read_json(house / "data" / name / "task.json") for name in ("from-hub", "from-files"))
    assert spec["source"] == {"dataset": "google/boolq", "revision": "main", "commit": FakeHub.commit}
    assert FakeHub.commit in printed
    assert read(house / "data" / "from-hub") == read(house / "data" / "from-files") and spec["files"] == other["files"]
    again = must(house, "data/boolq/prepare.py", "--task", "from-hub", HF_HUB_OFFLINE="1")
    assert "already done" in again                         # and needs no network any more
    cached = must(house, "data/boolq/prepare.py", "--task", "offline", **{**environment, "HF_HUB_OFFLINE": "1"})
    assert "from the cache" in cached and FakeHub.commit in cached             # as on a cluster's nodes
    offline = read_json(house / "data" / "offline" / "task.json")
    assert offline["source"] == spec["source"] and read(house / "data" / "offline") == read(house / "data" / "from-hub")
    pinned = call(house, "data/boolq/prepare.py", "--task", "pinned", "--revision", "a" * 40,
                  **{**environment, "HF_HUB_OFFLINE": "1"})
    assert pinned.returncode == 2 and "from the cache instead" in pinned.stderr


@pytest.mark.parametrize("task,name,content,flags,words", [
    ("sciq", "a.json", '[{"question": "a"}]', [], ["row 1", "support", "question"]),
    ("sciq", "a.json", '{"question": "a"}', [], ["not a list"]),
    ("sciq", "a.json", '[{"question": ', [], ["a.json", "line 1"]),
    ("sciq", "a.jsonl.gz", "no gzip", [], ["a.jsonl.gz"]),
    ("sciq", "a.txt", "hello", [], ["ending", ".parquet"]),
    ("sciq", None, "", [], ["no such file"]),
    ("sciq", "folder/train.jsonl", "{}", [], ["validation"]),
    ("boolq", "a.jsonl", '{"passage": "p", "question": "q", "answer": "perhaps"}', [], ["row 1", "perhaps"]),
    ("boolq", "a.jsonl", '{"passage": "p", "question": "q", "answer": true}', [], ["both labels"]),
    ("cosmos_qa", "a.jsonl", json.dumps({**invent("cosmos_qa", 1)[0], "label": -1}), [], ["row 1", "-1"]),
    ("sciq", "a.json", "[]", ["--task", "../evil"], ["letters"]),
    ("boolq", "a.json", "[]", ["--task", "sciq"], ["another task"]),
    ("boolq", "a.json", "[]", ["--rows", "0"], ["not between"]),
])
def test_a_users_mistake_is_one_line(house, tmp_path, task, name, content, flags, words):
    path = tmp_path / (name or "nothing.json")
    if name:
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    source = path.parent if name and "/" in name else path
    done = call(house, f"data/{task}/prepare.py", "--from-file", source, *(flags or ["--task", "mistake"]))
    assert done.returncode == 2 and all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1 or "usage" in done.stderr
    assert not os.path.exists(house / "data" / "mistake" / "task.json")


# --------------------------------------------------------------------------- pitfall 20

def guess_from_answers(rows, folds=10):
    """Accuracy of a ridge classifier on the answer's lengths, first letter and letter counts; folds by question."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789 -.,()"
    features = []
    for row in rows:
        answer = row["answer"].lower()
        features.append([1, len(answer), len(answer.split()), *(answer.count(c) for c in letters),
                         *(answer[0] == c for c in letters)])
    x = np.array(features, float)
    x[:, 1:] = (x[:, 1:] - x[:, 1:].mean(0)) / (x[:, 1:].std(0) + 1e-9)
    y = np.array([2 * row["label"] - 1 for row in rows])
    fold = np.array([int(row["group"], 16) % folds for row in rows])
    hits = []
    for k in range(folds):
        a = x[fold != k]
        b = y[fold != k]
        w = np.linalg.solve(a.T @ a + 10 * np.eye(x.shape[1]), a.T @ b)
        hits += list((x[fold == k] @ w > 0) == (y[fold == k] > 0))
    return float(np.mean(hits))


def test_pitfall_20_the_probe_finds_a_leak_and_none_where_there_is_none(run):
    rows = [row for rows in run("sciq", invent("sciq", 300))[0].values() for row in rows]
    assert abs(guess_from_answers(rows) - 0.5) < 0.1
    assert guess_from_answers([{**row, "answer": row["answer"] + "!" * row["label"]} for row in rows]) > 0.9


def needs(name):
    return pytest.mark.skipif(not os.path.exists(os.path.join(SHARED, name)), reason=f"no ../shared/data/{name}")


@needs("sciq_sample.json")
def test_pitfall_20_answers_alone_do_not_tell_in_the_real_sample(run):
    splits, printed = run("sciq", os.path.join(SHARED, "sciq_sample.json"))
    rows = [row for rows in splits.values() for row in rows]
    assert len(rows) == 400 and "left out: nothing" in printed
    assert abs(guess_from_answers(rows) - 0.5) < 0.1                            # four standard errors of 400 rows


# --------------------------------------------------------------------------- a foreign supervisor

@pytest.fixture
def run_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(own, "DATA", str(tmp_path / "data"))

    def run_own(path, *flags):
        own.main(["--rows", str(path), "--task", "mine", *flags])
        return tmp_path / "data" / "mine", capsys.readouterr().out
    return run_own


PATTERN = ["--text", "Q: {question} A: {answer}", "--label", "label", "--group", "question"]


def test_foreign_labels_become_a_supervisors_folder(tmp_path, run_own):
    """Kept lines have the ids of their rows, duplicates and contradictions other ids; a student finds its rows."""
    rng = random.Random(0)
    table = []
    for k in range(200):
        for answer in ("yes", "no"):
            label = int((k % 2 == 0) == (answer == "yes"))
            table.append({"question": f"is {k} even", "answer": answer, "label": label, "p": round(rng.random(), 3)})
    table.append({**table[0], "p": 0.125})                                     # a duplicate
    table.append({**table[4], "label": 1 - table[4]["label"]})                 # a contradiction
    folder, printed = run_own(write(tmp_path / "rows.jsonl", table), *PATTERN, "--soft-label", "p")
    everything = read_jsonl(folder / "truth" / "table.jsonl")
    soft = read_labels(str(folder / "p"), everything)
    assert len(everything) == 402 and "1 doubles, 2 rows" in printed
    assert soft[:, 1].tolist() == pytest.approx([row["p"] for row in table])
    assert [row["label"] for row in everything] == [row["label"] for row in table]
    by_text = {row["text"]: row for row in everything if "-line-" not in row["id"]}
    splits = read_splits(folder)
    assert len(by_text) == 399 == sum(map(len, splits.values()))
    p_of = {f"Q: {row['question']} A: {row['answer']}": row["p"] for row in reversed(table)}   # the first of a text
    for rows in splits.values():
        p_yes = read_labels(str(folder / "p"), rows)[:, 1]
        assert p_yes.tolist() == pytest.approx([p_of[row["text"]] for row in rows])


@pytest.mark.parametrize("value,words", [(1.5, ["line 2", "1.5"]), ([0.2, 0.2], ["line 2"]), ("maybe", ["line 2"])])
def test_a_wrong_soft_label_is_named(tmp_path, run_own, capsys, value, words):
    table = [{"question": "a", "answer": "b", "label": 1, "p": 0.5},
             {"question": "a", "answer": "c", "label": 0, "p": value}]
    with pytest.raises(SystemExit) as stop:
        run_own(write(tmp_path / "rows.jsonl", table), *PATTERN, "--soft-label", "p")
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and all(word in error for word in words), error


@pytest.mark.parametrize("column", ["truth", "seed0", "a b", "../p"])
def test_a_supervisors_folder_has_a_harmless_name(tmp_path, run_own, capsys, column):
    path = write(tmp_path / "rows.jsonl", [{"question": "a", "answer": "b", "label": 1, column: 0.5}])
    with pytest.raises(SystemExit) as stop:
        run_own(path, *PATTERN, "--soft-label", column)
    assert stop.value.code == 2 and "rename the column" in capsys.readouterr().err


def test_the_rule_of_released_code_by_hand():
    assert own.released_accuracy_and_ece([0.5, 0.5, 0.9, 0.2], [0, 1, 1, 0]) == (0.75, 0.075)
    assert own.parse_soft_label("[0.25, 0.75]") == own.parse_soft_label(0.75) == [0.25, 0.75]
    assert own.parse_soft_label(True) is None


@needs("sciq_qwen_labels.jsonl")
def test_the_real_labels_of_qwen_chat_through_the_label_reader(run_own):
    """
    Sang et al.'s 10,000 rows of train2 with the labels of Qwen-1.8B-chat, read back by contract.read_labels over all
    lines.

    The labels are rounded to 8 bits: 241 and 116 of them are exactly 1/2. Released code counts such a tie as a no
    (72.93 and 76.11 % right). metrics.py counts it half: half of the tied yes more, and half of the tied no less.
    """
    path = os.path.join(SHARED, "sciq_qwen_labels.jsonl")
    folder, printed = run_own(path, *PATTERN, "--soft-label", "plain", "--soft-label", "with_knowledge")
    rows = read_jsonl(folder / "truth" / "table.jsonl")
    raw = read_jsonl(path)
    assert len(rows) == 10_000 == len({row["id"] for row in rows})
    assert "17 doubles, 4 rows whose text has both labels" in printed
    for name, accuracy, auroc, ece, ties, half in (("plain", 0.7293, 0.814, 0.030, 241, 0.73165),
                                                   ("with_knowledge", 0.7611, 0.866, 0.103, 116, 0.7639)):
        soft = read_labels(str(folder / name), rows)
        labels = np.array([row["label"] for row in rows])
        assert np.array_equal(soft, np.array([row[name] for row in raw], np.float32))
        assert labels.tolist() == [row["label"] for row in raw]
        found = all_metrics(soft, rows)
        tied = labels[soft[:, 1] == 0.5]
        released = own.released_accuracy_and_ece(soft[:, 1], labels)
        assert released == (pytest.approx(accuracy, abs=1e-9), pytest.approx(ece, abs=5e-4))
        assert found["auroc"] == pytest.approx(auroc, abs=5e-4) and found["n"] == 10_000 and len(tied) == ties
        assert found["accuracy"] == pytest.approx(half, abs=1e-9)
        from_ties = ((tied == 1).sum() - (tied == 0).sum()) / 2 / 10_000
        assert found["accuracy"] == pytest.approx(accuracy + from_ties, abs=1e-9)
        line = f"{name}: accuracy {accuracy:.2%} | AUROC {auroc:.3f} | ECE {ece:.3f} by the rule of released code"
        assert line in printed
    splits = read_splits(folder)
    assert sum(map(len, splits.values())) == 10_000 - 17 - 4
    for part in splits.values():                           # and a student finds a label for every row
        assert len(read_labels(str(folder / "plain"), part)) == len(part)
