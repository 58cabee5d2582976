"""
data/hub.py and its five tasks, on rows invented here; the hub is played by a small server of ours. And labels of a foreign supervisor,
through data/own/prepare.py: the real ones, where ../shared/data has them.

python -m pytest tests/test_data.py              # 20 s
"""
import csv
import gzip
import hashlib
import http.server
import importlib.util
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

from conftest import ROOT

TASKS = ["sciq", "boolq", "cosmos_qa", "amazon_polarity", "anthropic_hh"]
SPLITS = ["train1", "train2", "valid", "test"]
SHARED = os.path.join(ROOT, "..", "shared", "data")
THEIRS = {"sciq": ["train", "validation", "test"], "boolq": ["train", "validation"], "cosmos_qa": ["train", "validation"],
          "amazon_polarity": ["train", "test"], "anthropic_hh": ["train", "test"]}

sys.path.insert(0, os.path.join(ROOT, "data"))
import hub                                                                     # noqa: E402


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, os.path.join(ROOT, path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = {task: load(f"data/{task}/prepare.py", f"prepare_{task}") for task in TASKS}
own = load("data/own/prepare.py", "prepare_own")


# --------------------------------------------------------------------------- invented raw rows

def invent(task, n, start=0):
    """n raw rows in the hub's format; passages, contexts and openings are shared by three rows each."""
    rows = []
    for k in range(start, start + n):
        rng, shared = random.Random(f"{task} {k}"), f"story {k // 3} of a {['cat', 'dog', 'fox'][k // 3 % 3]}"
        if task == "sciq":
            names = [f"thing {k}-{letter}" for letter in rng.sample("abcdefgh", 4)]
            rows.append({"question": f"Which thing is number {k}?", "distractor3": names[0], "distractor1": names[1], "distractor2": names[2],
                         "correct_answer": names[3], "support": f"Number {k} is {names[3]}." if k % 9 else ""})
        elif task == "boolq":
            rows.append({"question": f"is it number {k}", "answer": rng.random() < 0.62, "passage": f"A passage: {shared}."})
        elif task == "cosmos_qa":
            answers = [f"Because of {k} {letter} ." for letter in "abc"] + ["None of the above choices ."]
            rng.shuffle(answers)
            rows.append({"id": str(k), "context": f"A context: {shared}.", "question": f"Why {k} ?", "label": rng.randrange(4),
                         **{f"answer{i}": answer for i, answer in enumerate(answers)}})
        elif task == "amazon_polarity":
            rows.append({"label": rng.randrange(2), "title": f"Review {k}" if k % 7 else "", "content": f"I bought a {shared} and {k} more."})
        else:
            start_of = f"\n\nHuman: Tell me the {shared}\n\nAssistant: Once, {k}."
            rows.append({"chosen": start_of + " It was warm.", "rejected": start_of + f" No, {k} is enough."})
    return rows


def write(path, rows):
    """A list of raw rows in the format of the file's ending."""
    path = str(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if path.endswith(".json"):
        text = json.dumps(rows)
    elif path.endswith((".jsonl", ".jsonl.gz")):
        text = "".join(json.dumps(row) + "\n" for row in rows)
    elif path.endswith(".csv"):
        with open(path, "w", encoding="utf-8", newline="") as f:
            writer = csv.DictWriter(f, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path
    else:
        import pyarrow
        import pyarrow.parquet
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    with (gzip.open if path.endswith(".gz") else open)(path, "wt", encoding="utf-8") as f:
        f.write(text)
    return path


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of what the commands need."""
    folder = tmp_path_factory.mktemp("house")
    for name in os.listdir(ROOT):
        if name.endswith(".py"):
            shutil.copy(os.path.join(ROOT, name), folder)
    for name in ("hub.py", "own/prepare.py", *(f"{task}/prepare.py" for task in TASKS)):
        os.makedirs(os.path.dirname(os.path.join(folder, "data", name)), exist_ok=True)
        shutil.copy(os.path.join(ROOT, "data", name), os.path.join(folder, "data", name))
    os.makedirs(folder / "data" / "tinyworld")
    os.symlink(os.path.join(ROOT, "data", "tinyworld", "models"), folder / "data" / "tinyworld" / "models")
    return folder


def call(house, *command, **environment):
    return subprocess.run([sys.executable, *map(str, command)], cwd=house, capture_output=True, text=True, env={**os.environ, **environment})


def must(house, *command, **environment):
    finished = call(house, *command, **environment)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """run(task, raw or path, *flags) -> (rows by split with their truth, printed); in this process, into a temporary data folder."""
    monkeypatch.setattr(hub, "DATA", str(tmp_path / "data"))

    def run(task, raw, *flags):
        path = raw if isinstance(raw, str) else write(tmp_path / "raw" / "all.jsonl", raw)
        monkeypatch.setattr(sys, "argv", ["prepare.py", "--from-file", path, *map(str, flags)])
        SCRIPT[task].main()
        return read(tmp_path / "data" / task), capsys.readouterr().out
    return run


def lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def read(folder):
    """The four splits, with the truth put back into train2 and valid; the form of contract.py is checked on the way."""
    splits = {name: lines(os.path.join(folder, name + ".jsonl")) for name in SPLITS}
    truth = {row["id"]: row["soft_label"] for row in lines(os.path.join(folder, "truth", "labels.jsonl"))}
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
    for split, n in zip(THEIRS[task], sizes):
        write(path / f"{split}-00000-of-00001.parquet", invent(task, n, start))
        start += n
    return str(path)


# --------------------------------------------------------------------------- texts and labels, by hand

@pytest.mark.parametrize("task", TASKS)
def test_each_readme_shows_what_its_script_makes(task):
    text = open(os.path.join(ROOT, "data", task, "README.md"), encoding="utf-8").read()
    raw, rows = [[json.loads(line) for line in block.splitlines()] for block in re.findall(r"```json\n(.*?)```", text, re.S)]
    assert [hub.named(task, "train1", row) for row in SCRIPT[task].rows_of(raw[0])] == rows
    for row in rows:                                                           # and the header shows the same text
        assert json.dumps(row["text"])[1:25] in SCRIPT[task].__doc__.replace("\n", "\\n")
    assert "Licence" in text and f"--from-file {task}-raw" in text


def test_sciq_rows_by_hand():
    raw = {"question": "Q?", "correct_answer": "a", "distractor1": "b", "distractor2": "c", "distractor3": "d", "support": "S."}
    right, wrong = SCRIPT["sciq"].rows_of(raw)
    assert (right["text"], right["label"], wrong["label"]) == ("Q: Q? A: a", 1, 0) and wrong["text"] in ("Q: Q? A: b", "Q: Q? A: c", "Q: Q? A: d")
    assert sorted(right["choices"]) == list("abcd") and right["choices"] == wrong["choices"] and right["support"] == "S." == wrong["support"]
    assert [row["text"] for row in SCRIPT["sciq"].rows_of(raw, True)] == ["Note: S.\n" + row["text"] for row in (right, wrong)]
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
        assert "None of" not in row["answer"] and row["text"].endswith(row["answer"]) and row["label"] == (row["answer"] == right)
    share = np.mean([row["label"] for raw, row in rows if "None of" not in raw[f"answer{raw['label']}"]])
    assert abs(share - 0.5) < 0.06                                             # the coin; four standard deviations


def test_hh_pairs_share_the_group_and_so_do_later_turns_of_a_dialogue():
    first, longer = "\n\nHuman: Hi\n\nAssistant: A", "\n\nHuman: Hi\n\nAssistant: A\n\nHuman: more\n\nAssistant: B"
    rows = [row for text in (first, longer) for row in SCRIPT["anthropic_hh"].rows_of({"chosen": text, "rejected": text + "x"})]
    assert [(row["text"], row["label"]) for row in rows] == [(first, 1), (first + "x", 0), (longer, 1), (longer + "x", 0)]
    assert {row["group"] for row in rows} == {"Hi"}


def test_halves_are_those_of_datasets():
    import datasets
    for n in (7, 200, 10_000):
        cut = datasets.Dataset.from_dict({"place": range(n)}).train_test_split(test_size=0.5, seed=42)
        assert SCRIPT["sciq"].halves(n) == (sorted(cut["train"]["place"]), sorted(cut["test"]["place"]))


# --------------------------------------------------------------------------- splits

def test_sciq_as_sang_et_al(tmp_path, run, monkeypatch):
    """Official splits with planted duplicates: found, counted, and their places in train taken by the questions that come next."""
    monkeypatch.setattr(SCRIPT["sciq"], "FIRST", 100)
    train, valid, test = invent("sciq", 120), invent("sciq", 20, 1000), invent("sciq", 30, 2000)
    train[7] = {**train[3], "correct_answer": "another"}                       # twice in train
    train[11] = {**test[0], "question": test[0]["question"].upper() + " "}     # in test too, spelled otherwise
    train[12], valid[5], valid[6] = valid[0], test[1], valid[4]
    train[20] = {**train[20], "distractor1": train[20]["correct_answer"]}
    for name, rows in (("train", train), ("validation", valid), ("test", test)):
        write(tmp_path / "raw" / "data" / f"{name}-00000-of-00001.parquet", rows)
    splits, printed = run("sciq", str(tmp_path / "raw"))
    assert {name: len(rows) for name, rows in splits.items()} == {"train1": 100, "train2": 100, "valid": 36, "test": 60}
    left = json.load(open(tmp_path / "data" / "sciq" / "task.json", encoding="utf-8"))["left_out"]
    assert left == {"questions without four usable answers": 1, "questions twice in train": 1, "questions of train that are in test": 1,
                    "questions of train that are in valid": 1, "questions of valid that are in test": 1, "questions twice in valid": 1}
    assert "1 questions of train that are in test" in printed
    first, second = (set(places) for places in SCRIPT["sciq"].halves(100))
    number = {hub.short(row["question"]): k for k, row in reversed(list(enumerate(train)))}
    half = {name: {number[row["group"]] for row in splits[name]} for name in ("train1", "train2")}
    replaced = {7, 11, 12, 20}                                                 # by 100, 101, 102, 103, in this order
    assert half["train1"] == first - replaced | {100 + i for i, k in enumerate(sorted(replaced)) if k in first}
    assert half["train2"] == second - replaced | {100 + i for i, k in enumerate(sorted(replaced)) if k in second}
    both = {}
    for rows in splits.values():
        for row in rows:
            both.setdefault(row["group"], []).append(row["label"])
    assert all(sorted(labels) == [0, 1] for labels in both.values())           # one right and one wrong row of each question


def test_one_file_of_sciq_is_dealt_by_the_hash_of_the_question(tmp_path, run):
    raw = invent("sciq", 300)
    splits, _ = run("sciq", raw + [raw[3]])
    assert sum(map(len, splits.values())) == 600
    assert all(own.split_of(row["group"]) == name for name, rows in splits.items() for row in rows)


def test_with_support_the_text_changes_and_the_ids_do_not(tmp_path, run):
    plain, _ = run("sciq", invent("sciq", 300))
    with_support, _ = run("sciq", invent("sciq", 300), "--with-support", "--force")
    for name in SPLITS:
        assert [row["id"] for row in plain[name]] == [row["id"] for row in with_support[name]]
        for a, b in zip(plain[name], with_support[name]):
            assert b["text"] == (f"Note: {a['support']}\n" if a["support"] else "") + a["text"] and a["label"] == b["label"]


@pytest.mark.parametrize("task", TASKS)
def test_pitfall_21_the_order_of_the_source_changes_nothing(tmp_path, run, task):
    raw = invent(task, 400)
    first, _ = run(task, raw, *(["--rows", 120, "--test-rows", 30] if task != "sciq" else []))
    random.Random(1).shuffle(raw)
    assert run(task, raw, *(["--rows", 120, "--test-rows", 30, "--force"] if task != "sciq" else ["--force"]))[0] == first


@pytest.mark.parametrize("task", TASKS[1:])
def test_pitfall_15_official_splits_with_planted_copies(tmp_path, run, task):
    """Train rows whose group is in test go; every row is accounted for; sizes and balance hold."""
    theirs, sizes = THEIRS[task], (900 if task == "anthropic_hh" else 1400, 240)
    train, test = invent(task, sizes[0]), invent(task, sizes[1], 3000)
    train[50:53] = test[60:63]
    train[80] = train[90]
    for name, rows in zip(theirs, (train, test)):
        write(tmp_path / "raw" / f"{name}.jsonl", rows)
    splits, _ = run(task, str(tmp_path / "raw"), "--rows", 400, "--test-rows", 100)
    assert {name: len(rows) for name, rows in splits.items()} == {"train1": 200, "train2": 200, "valid": 40, "test": 100}
    spec = json.load(open(tmp_path / "data" / task / "task.json", encoding="utf-8"))
    made = {name: [row for raw in rows for row in SCRIPT[task].rows_of(raw)] for name, rows in (("train", train), ("test", test))}
    assert sum(spec["left_out"].values()) + sum(map(len, splits.values())) == sum(map(len, made.values()))
    of = {pool: {hub.short(row["group"]) for row in rows} for pool, rows in made.items()}
    assert {row["group"] for row in splits["test"]} <= of["test"]
    assert not {row["group"] for name in SPLITS[:3] for row in splits[name]} & of["test"]
    assert spec["left_out"]["of train whose group is in test"] == sum(hub.short(row["group"]) in of["test"] for row in made["train"]) > 0
    assert spec["left_out"].get("doubles") == (2 if task == "anthropic_hh" else 1)


def test_unique_and_balance_by_hand():
    rows = [{"group": "g", "text": text, "label": label} for text, label in (("a", 1), (" A", 1), ("b", 0), ("B", 1), ("c", 0))]
    kept, doubles, contradictory = hub.unique(rows)
    assert sorted(row["text"].lower().strip() for row in kept) == ["a", "c"] and (doubles, contradictory) == (1, 2)
    many = [{"group": str(k), "text": str(k), "label": int(k % 4 == 0)} for k in range(100)]
    assert [sum(row["label"] == v for row in hub.balance(many, 1000)) for v in (0, 1)] == [25, 25]
    fewer = hub.balance(many, 11)
    assert len(fewer) == 10 and {row["text"] for row in fewer} <= {row["text"] for row in hub.balance(many, 1000)}


def test_all_formats_give_the_same_rows(tmp_path, run):
    for task in ("sciq", "boolq"):
        found = []
        for ending in hub.ENDINGS:
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
    source = json.load(open(tmp_path / "data" / "anthropic_hh" / "task.json", encoding="utf-8"))["source"]
    assert len(source["files"]) == 4 and all(re.fullmatch(r"[0-9a-f]{16}", value) for value in source["files"].values())


# --------------------------------------------------------------------------- done, undone, half done

def test_the_same_command_does_nothing_and_damage_is_made_good(tmp_path, run):
    raw = write(tmp_path / "raw" / "a.jsonl", invent("boolq", 300))
    _, printed = run("boolq", raw)
    folder = tmp_path / "data" / "boolq"
    before = {name: open(folder / name, "rb").read() for name in ("train2.jsonl", "task.json", "truth/labels.jsonl")}
    assert "wrote" in printed and "already done" in run("boolq", raw)[1]
    for name in before:                                                        # one byte of any file, and it runs again
        with open(folder / name, "r+b") as f:
            f.write(b"#")
        assert "wrote" in run("boolq", raw)[1] and all(open(folder / n, "rb").read() == b for n, b in before.items())
    assert "wrote" in run("boolq", raw, "--rows", 100)[1]                      # other flags, another source: other rows
    assert "wrote" in run("boolq", write(tmp_path / "raw" / "a.jsonl", invent("boolq", 299)), "--rows", 100)[1]


def test_a_half_finished_task_is_never_taken(house, tmp_path):
    raw = write(tmp_path / "raw.jsonl", invent("sciq", 300))
    must(house, "data/sciq/prepare.py", "--from-file", raw, "--task", "half")
    code = ("import sys; sys.path.insert(0, 'data'); import own.prepare, hub, os, runpy\n"
            "old = own.prepare.write_lines\n"
            "own.prepare.write_lines = lambda path, rows: os._exit(9) if path.endswith('test.jsonl') else old(path, rows)\n"
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
    monkeypatch.setattr(sys, "argv", ["prepare.py"])
    with pytest.raises(SystemExit) as stop:
        SCRIPT[task].main()
    error = capfd.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1, error
    repo = {"sciq": "allenai/sciq", "boolq": "google/boolq", "cosmos_qa": "allenai/cosmos_qa", "amazon_polarity": "fancyzhx/amazon_polarity",
            "anthropic_hh": "Anthropic/hh-rlhf"}[task]
    revision = "refs/convert/parquet" if task == "cosmos_qa" else "main"
    assert f"hf download {repo} --repo-type dataset --revision {revision} --local-dir {task}-raw" in error
    assert f"python data/{task}/prepare.py --from-file {task}-raw" in error
    assert not os.path.exists(tmp_path / "data")


def test_a_command_without_hub(house):
    done = call(house, "data/cosmos_qa/prepare.py", HF_HUB_OFFLINE="1")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr and not done.stdout, done.stderr


class FakeHub(http.server.BaseHTTPRequestHandler):
    """The few answers of the hub that `datasets` needs: which commit a revision is, which files it has, and the files."""
    repo, files, commit, moved = "google/boolq", {}, "c0ffee" + "0" * 34, []

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for key, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def entries(self):
        return [{"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()} for name, body in self.files.items()]

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if path.startswith(f"/api/datasets/{self.repo}/tree/"):
            inside = path.split(self.commit, 1)[1].strip("/")
            found = [entry for entry in self.entries() if entry["path"].startswith(inside)]
            folders = [{"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in {os.path.dirname(n) for n in self.files}]
            body = found + folders if "recursive=True" in self.path or inside else folders
            return self.answer(200, json.dumps(body).encode(), Content_Type="application/json")
        if path.startswith(f"/api/datasets/{self.repo}"):
            sha = self.commit if self.commit in path or not self.moved else "f" * 40
            self.moved.append(path)                                            # somebody pushes to main as soon as it has been looked up
            body = {"id": self.repo, "sha": sha, "siblings": [{"rfilename": name} for name in self.files], "private": False}
            return self.answer(200, json.dumps(body).encode(), Content_Type="application/json")
        name = path.split(f"/resolve/{self.commit}/")[-1]
        if name not in self.files:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=self.commit)
        body = self.files[name]
        self.answer(200, body, X_Repo_Commit=self.commit, ETag='"%s"' % hashlib.sha1(body).hexdigest())

    do_HEAD = do_GET

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}") if "json" in self.headers.get("Content-Type", "") else {}
        paths = asked.get("paths")
        body = [entry for entry in self.entries() if paths is None or entry["path"] in paths]
        self.answer(200, json.dumps(body).encode(), Content_Type="application/json")

    def log_message(self, *_):
        pass


def test_from_the_hub_the_commit_that_was_read_is_recorded(house, tmp_path):
    for name, n, start in (("train", 300, 0), ("validation", 90, 900)):
        path = write(tmp_path / "raw" / f"{name}-00000-of-00001.parquet", invent("boolq", n, start))
        FakeHub.files[f"data/{name}-00000-of-00001.parquet"] = open(path, "rb").read()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0",
                   "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "no_proxy": "127.0.0.1"}
    try:
        printed = must(house, "data/boolq/prepare.py", "--task", "from-hub", "--revision", "main", **environment)
    finally:
        server.shutdown()
        server.server_close()
    must(house, "data/boolq/prepare.py", "--task", "from-files", "--from-file", tmp_path / "raw")
    spec, other = (json.load(open(house / "data" / name / "task.json", encoding="utf-8")) for name in ("from-hub", "from-files"))
    assert spec["source"] == {"dataset": "google/boolq", "revision": "main", "commit": FakeHub.commit} and FakeHub.commit in printed
    assert read(house / "data" / "from-hub") == read(house / "data" / "from-files") and spec["files"] == other["files"]
    assert "already done" in must(house, "data/boolq/prepare.py", "--task", "from-hub", HF_HUB_OFFLINE="1")      # and needs no network any more


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
    done = call(house, f"data/{task}/prepare.py", "--from-file", path.parent if name and "/" in name else path, *(flags or ["--task", "mistake"]))
    assert done.returncode == 2 and "Traceback" not in done.stderr and all(word in done.stderr for word in words), done.stderr
    assert done.stderr.count("\n") == 1 or "usage" in done.stderr
    assert not os.path.exists(house / "data" / "mistake" / "task.json")


@pytest.mark.parametrize("task", TASKS)
def test_help_is_instant_and_needs_neither_datasets_nor_numpy(task):
    code = (f"import sys, runpy; sys.modules.update(torch=None, transformers=None, datasets=None, numpy=None, pyarrow=None, huggingface_hub=None)\n"
            f"sys.argv = ['prepare.py', '--help']; runpy.run_path({os.path.join(ROOT, 'data', task, 'prepare.py')!r}, run_name='__main__')")
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 0 and "--from-file" in shown.stdout, shown.stderr
    documents = SCRIPT[task].__doc__ + open(os.path.join(ROOT, "data", task, "README.md"), encoding="utf-8").read()
    for command in re.findall(rf"^\$? ?python data/{task}/prepare.py([^#\n]*)", documents, re.M):
        assert all(flag in shown.stdout for flag in re.findall(r"--[\w-]+", command)), command     # pitfall 36


# --------------------------------------------------------------------------- pitfall 20

def guess_from_answers(rows, folds=10):
    """Accuracy of a ridge classifier that sees only the answer's lengths, first letter and counts of letters; folds by question."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789 -.,()"
    x = np.array([[1, len(r["answer"]), len(r["answer"].split()), *(r["answer"].lower().count(c) for c in letters),
                   *(r["answer"].lower()[0] == c for c in letters)] for r in rows], float)
    x[:, 1:] = (x[:, 1:] - x[:, 1:].mean(0)) / (x[:, 1:].std(0) + 1e-9)
    y, fold = np.array([2 * r["label"] - 1 for r in rows]), np.array([int(r["group"], 16) % folds for r in rows])
    hits = []
    for k in range(folds):
        a, b = x[fold != k], y[fold != k]
        w = np.linalg.solve(a.T @ a + 10 * np.eye(x.shape[1]), a.T @ b)
        hits += list((x[fold == k] @ w > 0) == (y[fold == k] > 0))
    return float(np.mean(hits))


def test_pitfall_20_the_probe_finds_a_leak_and_none_where_there_is_none(run):
    rows = [row for rows in run("sciq", invent("sciq", 300))[0].values() for row in rows]
    assert abs(guess_from_answers(rows) - 0.5) < 0.1
    assert guess_from_answers([{**row, "answer": row["answer"] + "!" * row["label"]} for row in rows]) > 0.9


@pytest.mark.skipif(not os.path.exists(os.path.join(SHARED, "sciq_sample.json")), reason="no ../shared/data/sciq_sample.json")
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
        monkeypatch.setattr(sys, "argv", ["prepare.py", "--rows", str(path), "--task", "mine", *flags])
        own.main()
        return tmp_path / "data" / "mine", capsys.readouterr().out
    return run_own


PATTERN = ["--text", "Q: {question} A: {answer}", "--label", "label", "--group", "question"]


def test_foreign_labels_become_a_supervisors_folder(tmp_path, run_own):
    """Kept lines by the ids of their rows, doubles and contradictions by ids of their own; a student finds what it needs."""
    import contract
    rng = random.Random(0)
    table = [{"question": f"is {k} even", "answer": answer, "label": int((k % 2 == 0) == (answer == "yes")), "p": round(rng.random(), 3)}
             for k in range(200) for answer in ("yes", "no")]
    table += [{**table[0], "p": 0.125}, {**table[4], "label": 1 - table[4]["label"]}]          # a double, and a contradiction
    folder, printed = run_own(write(tmp_path / "rows.jsonl", table), *PATTERN, "--soft-label", "p")
    everything = lines(folder / "truth" / "table.jsonl")
    soft = contract.read_labels(str(folder / "p"), everything)
    assert len(everything) == 402 and "1 doubles, 2 rows" in printed
    assert soft[:, 1].tolist() == pytest.approx([row["p"] for row in table])
    assert [row["label"] for row in everything] == [row["label"] for row in table]
    by_text = {row["text"]: row for row in everything if "-line-" not in row["id"]}
    splits = read_unbalanced(folder)
    assert len(by_text) == 399 == sum(map(len, splits.values()))
    for name, rows in splits.items():
        assert contract.read_labels(str(folder / "p"), rows)[:, 1].tolist() == pytest.approx(
            [next(t["p"] for t in table if row["text"] == f"Q: {t['question']} A: {t['answer']}") for row in rows])


def read_unbalanced(folder):
    return {name: lines(folder / f"{name}.jsonl") for name in SPLITS}


@pytest.mark.parametrize("value,words", [(1.5, ["line 2", "'p'", "1.5"]), ([0.2, 0.2], ["line 2", "p_yes"]), ("maybe", ["line 2"]),
                                         (None, ["line 2"]), (True, ["line 2"])])
def test_a_wrong_soft_label_is_named(tmp_path, run_own, capsys, value, words):
    with pytest.raises(SystemExit) as stop:
        run_own(write(tmp_path / "rows.jsonl", [{"question": "a", "answer": "b", "label": 1, "p": 0.5},
                                                {"question": "a", "answer": "c", "label": 0, "p": value}]), *PATTERN, "--soft-label", "p")
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and all(word in error for word in words), error


@pytest.mark.parametrize("column", ["truth", "seed0", "a b", "../p"])
def test_a_supervisors_folder_has_a_harmless_name(tmp_path, run_own, capsys, column):
    with pytest.raises(SystemExit) as stop:
        run_own(write(tmp_path / "rows.jsonl", [{"question": "a", "answer": "b", "label": 1, column: 0.5}]), *PATTERN, "--soft-label", column)
    assert stop.value.code == 2 and "rename the column" in capsys.readouterr().err


def test_the_rule_of_released_code_by_hand():
    assert own.as_published([0.5, 0.5, 0.9, 0.2], [0, 1, 1, 0]) == (0.75, 0.075)
    assert own.read_soft("[0.25, 0.75]") == own.read_soft(0.75) == [0.25, 0.75] and own.read_soft(True) is None


@pytest.mark.skipif(not os.path.exists(os.path.join(SHARED, "sciq_qwen_labels.jsonl")), reason="no ../shared/data/sciq_qwen_labels.jsonl")
def test_the_real_labels_of_qwen_chat_through_the_label_reader(run_own):
    """
    Sang et al.'s 10,000 rows of train2 with the labels that Qwen-1.8B-chat gave, read back by contract.read_labels over all lines.

    The labels are rounded to 8 bits: 241 and 116 of them are exactly 1/2. Released code takes such a tie for a no (72.93 and 76.11 % right);
    train_weak.metrics counts it half, so it is half of the tied yes more, and half of the tied no less.
    """
    import contract
    from train_weak import metrics
    folder, printed = run_own(os.path.join(SHARED, "sciq_qwen_labels.jsonl"), *PATTERN, "--soft-label", "plain", "--soft-label", "with_knowledge")
    rows = lines(folder / "truth" / "table.jsonl")
    raw = lines(os.path.join(SHARED, "sciq_qwen_labels.jsonl"))
    assert len(rows) == 10_000 == len({row["id"] for row in rows}) and "17 doubles, 4 rows whose text has both labels" in printed
    for name, accuracy, auroc, ece, ties, half in (("plain", 0.7293, 0.814, 0.030, 241, 0.73165),
                                                   ("with_knowledge", 0.7611, 0.866, 0.103, 116, 0.7639)):
        soft = contract.read_labels(str(folder / name), rows)
        labels = np.array([row["label"] for row in rows])
        assert np.array_equal(soft, np.array([row[name] for row in raw], np.float32)) and labels.tolist() == [row["label"] for row in raw]
        found, tied = metrics(soft, rows), soft[:, 1] == 0.5
        assert own.as_published(soft[:, 1], labels) == (pytest.approx(accuracy, abs=1e-9), pytest.approx(ece, abs=5e-4))
        assert found["auroc"] == pytest.approx(auroc, abs=5e-4) and found["n"] == 10_000 and tied.sum() == ties
        assert found["accuracy"] == pytest.approx(half, abs=1e-9) == accuracy + (labels[tied] == 1).sum() / 2e4 - (labels[tied] == 0).sum() / 2e4
        assert f"{name}: accuracy {accuracy:.2%} | AUROC {auroc:.3f} | ECE {ece:.3f} by the rule of released code" in printed
    splits = {name: lines(folder / f"{name}.jsonl") for name in SPLITS}
    assert sum(map(len, splits.values())) == 10_000 - 17 - 4
    for part in splits.values():                                               # and a student finds a label for every row
        assert len(contract.read_labels(str(folder / "plain"), part)) == len(part)
