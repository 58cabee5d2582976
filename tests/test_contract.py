"""
Rows, labels joined by id, and the folder of a run. A broken file is one clear line; a finished run is recognised.

python -m pytest tests/test_contract.py          # 10 s
"""
import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

import contract
from conftest import ROOT
from contract import (
    add_run_flags, code_fingerprints, describe_run, is_finished, lock_folder, model_folder, number, path_name,
    read_config, read_json, read_jsonl, read_labels, read_rows, read_task, reject_damaged, run_folder, task_name,
    typed_flags, what_differs, write_file, write_labels)
from warm import default_sigint

ROWS = [{"id": f"t-{k}"} for k in range(5)]


@pytest.fixture
def stops(capsys):
    """A function: this call ends with exit code 2 and one line that has these words. -> the line"""
    def assert_stops(words, function, *args, **kwargs):
        with pytest.raises(SystemExit) as stop:
            function(*args, **kwargs)
        error = capsys.readouterr().err
        assert stop.value.code == 2
        assert error.startswith("error: ") and error.count("\n") == 1, error
        assert all(word in error for word in words), error
        return error
    return assert_stops


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty project in a temporary folder, which is the current one."""
    monkeypatch.setattr(contract, "ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    os.makedirs(tmp_path / "data")
    return tmp_path


# --------------------------------------------------------------------------- labels


def test_pitfall_17_labels_are_joined_by_id_not_by_row(tmp_path):
    p_yes = np.random.default_rng(0).random(5).astype(np.float32)
    soft_labels = np.stack([1 - p_yes, p_yes], 1)
    write_labels(str(tmp_path), ROWS, soft_labels)
    lines = (tmp_path / "labels.jsonl").read_text().splitlines()
    (tmp_path / "labels.jsonl").write_text("\n".join(reversed(lines)))
    assert np.array_equal(read_labels(str(tmp_path), ROWS), soft_labels)


def test_pitfall_08_float32_labels_survive_the_file(tmp_path):
    soft_labels = np.random.default_rng(1).dirichlet([1, 1], 5).astype(np.float32)
    write_labels(str(tmp_path), ROWS, soft_labels)
    assert read_labels(str(tmp_path), ROWS).tobytes() == soft_labels.tobytes()


def test_extra_numbers_stand_beside_each_soft_label(tmp_path):
    write_labels(str(tmp_path), ROWS, np.full((5, 2), 0.5, np.float32), {"weight": [0.1, 0.2, 0.3, 0.4, 1 / 3]})
    lines = read_jsonl(tmp_path / "labels.jsonl")
    assert lines[0] == {"id": "t-0", "soft_label": [0.5, 0.5], "weight": 0.1}
    assert lines[4]["weight"] == 0.333333333               # nine digits


@pytest.mark.parametrize("line,words", [
    ('{"id": "t-0", "soft_label": [0.5, 0.5]}\n{"id": "t-0", "soft_label": [0.5, 0.5]}', ["line 2", "'t-0'", "twice"]),
    ('{"id": "t-0", "soft_label": [0.5, 0.5]}', ["4 of 5", "'t-1'"]),
    ('{"id": "t-0", "soft_label": [0.9, 0.9]}', ["line 1", "'t-0'", "sum to 1"]),
    ('{"id": "t-0", "soft_label": [NaN, 0.5]}', ["line 1", "'t-0'"]),
    ('{"id": "t-0", "soft_label": [-0.5, 1.5]}', ["line 1", "'t-0'"]),
    ('{"id": "t-0", "soft_label": "yes"}', ["line 1", "'t-0'"]),
    ('{"id": "t-0", "soft_label": [true, false]}', ["line 1", "'t-0'"]),
    ('{"soft_label": [0.5, 0.5]}', ["line 1", "'id'"]),
    ('[1, 2]', ["line 1"]),
    ('{"id": "t-0", "soft', ["line 1"]),
    ('', ["5 of 5"]),
])
def test_a_broken_label_file_is_one_line_that_names_the_place(tmp_path, stops, line, words):
    (tmp_path / "labels.jsonl").write_text(line)
    stops(words, read_labels, str(tmp_path), ROWS)


def test_labels_with_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    lines = [b'{"id": "t-%d", "soft_label": [0.25, 0.75]}' % k for k in range(5)]
    (tmp_path / "labels.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    assert read_labels(str(tmp_path), ROWS).tolist() == [[0.25, 0.75]] * 5


# --------------------------------------------------------------------------- files of JSON


@pytest.mark.parametrize("data,words", [
    (b'{"a": 1}\n\n{"a": 2}\n{"a"', ["line 4"]),           # blank lines count
    (b'{"a": 1}\n\xff\n{"a": 2}', ["line 2"]),
    (b'{"a": 1}\n{"a": \x00}', ["line 2"]),
    (b'\x89PNG\r\n\x1a\n', ["line 1"]),
    (b'{"a": 1}\n' + b"[" * 100_000, ["line 2"]),
    (b'{"a": 1}\n"a"', ["line 2", "not a {...} object"]),
])
def test_a_broken_line_is_named_by_its_number(tmp_path, stops, data, words):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(data)
    stops([str(path), *words], read_jsonl, str(path))


def test_blank_lines_and_a_missing_line_end_are_no_rows(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'\n{"a": 1}\n \n{"a": 2}')
    assert read_jsonl(tmp_path / "rows.jsonl") == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("data", [b"", b" \n", b"\xef\xbb\xbf", b"{}", b"\xef\xbb\xbf{}"])
def test_an_empty_json_file_is_an_empty_dict(tmp_path, data):
    (tmp_path / "task.json").write_bytes(data)
    assert read_json(tmp_path / "task.json") == {}


@pytest.mark.parametrize("data", [b"[]", b"null", b'{"a": 1} {"a": 2}', b"\x89PNG\r\n\x1a\n", b"\xff\xfe{\x00}\x00",
                                  b"[" * 100_000])
def test_a_broken_json_file_is_one_line(tmp_path, stops, data):
    path = tmp_path / "task.json"
    path.write_bytes(data)
    stops([str(path), "Make the file again"], read_json, str(path))


@pytest.mark.parametrize("read", [read_json, read_jsonl])
def test_a_missing_file_and_a_folder_in_its_place_are_one_line(tmp_path, stops, read):
    stops(["cannot read", "No such file", "Run the command that makes it first"], read, str(tmp_path / "missing"))
    stops(["cannot read", "Is a directory"], read, str(tmp_path))


def test_an_error_is_one_line_of_bounded_length_however_much_it_quotes(stops):
    error = stops(["begin", "end"], contract.fail, "begin\n" + "x " * 5000 + "\nend")
    assert len(error) < 1000


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
@pytest.mark.parametrize("read", [read_json, read_jsonl, contract.read_text, contract.fingerprint])
def test_a_pipe_a_device_and_a_circle_of_links_are_one_line_and_never_waited_for(tmp_path, stops, read):
    os.mkfifo(tmp_path / "pipe")
    os.symlink(tmp_path / "a", tmp_path / "b")
    os.symlink(tmp_path / "b", tmp_path / "a")
    stops(["cannot read", "pipe", "no ordinary file"], read, str(tmp_path / "pipe"))
    stops(["cannot read", "/dev/zero", "no ordinary file"], read, "/dev/zero")
    if read is not contract.fingerprint:                   # what is not there may be a model of the hub
        stops(["cannot read", "symbolic links"], read, str(tmp_path / "a"))


@pytest.mark.parametrize("text,words", [
    ('{"a": 1, "a": 2}', ["'a'", "twice"]),
    ('{"a": {"b": 1, "c": 2, "b": 3}}', ["'b'", "twice"]),
    (r'{"a": "\ud83d"}', ["half a character"]),
    (r'{"\uDC00": "b"}', ["half a character"]),
    ('[1]', ["not a {...} object"]),
])
def test_what_json_would_take_silently_is_refused(text, words):
    with pytest.raises(ValueError) as error:
        contract.parse_json_object(text)
    assert all(word in str(error.value) for word in words), error.value


def test_nothing_from_a_file_becomes_markup_of_a_report():
    for text in ("<script>alert(1)</script>", "![x](http://y/z.png)", "a | b", "`code`", "*x*", "[a](b:c)", "x\ny"):
        escaped = contract.escape_markdown(text)
        assert not re.search(r"<|(?<!\\)[|`*\[\]]|\n", escaped), escaped


def test_whole_characters_may_be_written_as_two_halves():
    assert contract.parse_json_object(r'{"a": "\ud83d\ude00", "b": "\\ud83d"}') == {"a": "\U0001f600", "b": r"\ud83d"}


# --------------------------------------------------------------------------- rows and tasks


def row_line(**changes):
    row = {"id": "a", "group": "g", "text": "t", "label": 1, **changes}
    return json.dumps({key: value for key, value in row.items() if value is not None})


@pytest.mark.parametrize("lines,words", [
    (row_line(label=2), ["line 1", "'a'", "0 or 1"]),
    (row_line() + "\n" + row_line(), ["line 2", "twice"]),
    (row_line(text=""), ["line 1", "'text'"]),
    (row_line(group=None), ["line 1", "'group'"]),
    ('', ["empty"]),
    ('\xff', ["line 1"]),
    (row_line(question=3), ["line 1", "'a'", "'question' must be a text"]),
    (row_line(answer=""), ["line 1", "'answer' must be a text"]),
    (row_line(support=["x"]), ["line 1", "'support' must be a text"]),
    (row_line(choices=["x", 3]), ["line 1", "'choices' must be a list of texts"]),
    (row_line(group="\ud800"), ["line 1", "half a character"]),
])
def test_broken_rows_are_one_line_that_names_the_place(root, stops, lines, words):
    os.makedirs(root / "data" / "mine")
    (root / "data" / "mine" / "train1.jsonl").write_bytes(lines.encode("latin1"))
    stops(words, read_rows, "mine", "train1")


def write_task(root, task_json="{}", **splits):
    """data/mine: four splits of four rows, or the rows given"""
    folder = root / "data" / "mine"
    os.makedirs(folder)
    for split in ("train1", "train2", "valid", "test"):
        names = [f"{split}-{k}" for k in range(4)]
        rows = [{"id": name, "group": name, "text": "t", "label": k % 2} for k, name in enumerate(names)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, splits.get(split, rows))))
    (folder / "task.json").write_text(task_json)


def test_pitfall_15_a_question_on_two_sides_is_refused_before_any_work(root, stops):
    write_task(root, test=[{"id": "a", "group": "train2-1", "text": "t", "label": 1}])
    stops(["'train2-1' is in train2 and in test"], read_task, "mine")


@pytest.mark.parametrize("task_json", ['{"label_words": [" ", " yes"]}',
                                       '{"label_words": " yes"}', '{"label_words": [" no"]}', '{"label_words": [1, 2]}',
                                       'null', '{"label_wo'])
def test_a_broken_task_json_is_one_line(root, stops, task_json):
    write_task(root, task_json)
    stops(["task.json"], read_task, "mine")


def test_a_task_json_may_be_written_over_many_lines(root):
    write_task(root, json.dumps({"label_words": [" bad", " good"]}, indent=2))
    assert read_task("mine")[1] == [" bad", " good"]


def test_the_label_words_are_no_and_yes_unless_task_json_names_others(root):
    write_task(root, "")
    paths, words = read_task("mine")
    assert words == [" no", " yes"]
    assert [os.path.relpath(path, root / "data" / "mine") for path in paths] == [
        "train1.jsonl", "train2.jsonl", "valid.jsonl", "test.jsonl", "task.json"]


def test_other_label_words_make_no_run_stale_but_those_that_read_them(root, stage):
    write_task(root, json.dumps({"task": "mine", "label_words": [" no", " yes"], "splits": {}}) + "\n")

    def configs():
        contract.LOADED.clear()
        contract.READ.clear()                              # another process
        paths, words = read_task("mine")
        return describe(stage, inputs=paths)[1], describe(stage, inputs=paths, words=words)[1]
    before, reads_before = configs()
    assert before == reads_before                          # the usual words are not recorded
    path = root / "data" / "mine" / "task.json"
    path.write_text(json.dumps({"task": "mine", "label_words": [" bad", " good"], "splits": {}}, indent=1) + "\n")
    after, reads_after = configs()
    assert after == before
    assert contract.what_differs(before, reads_after) == "words of the task (none) -> [' bad', ' good']"
    path.write_text(json.dumps({"task": "mine", "label_words": [" bad", " good"], "splits": {}, "text": "{a}"}) + "\n")
    assert contract.what_differs(after, configs()[0]) == "input changed: data/mine/task.json"


# --------------------------------------------------------------------------- names that a person types


def test_a_path_loses_the_slash_at_its_end():
    assert path_name("weak/") == "weak"
    assert path_name("data/tinyworld/seed0/weak//") == "data/tinyworld/seed0/weak"
    assert path_name("./weak") == "./weak"
    assert path_name("") == ""
    assert path_name("/") == "/"                           # not "", which would be the current folder


def test_a_task_may_be_typed_as_its_folder(root, monkeypatch):
    for name in ("mine", "mine/", "data/mine", "data/mine/", "./data/mine", f"{root}/data/mine/"):
        assert task_name(name) == "mine", name
    assert task_name("other/mine") == "other/mine"         # no folder of data/: it is refused later, by its full name
    assert task_name("") == ""
    os.makedirs(root / "data" / "mine")
    monkeypatch.chdir(root / "data" / "mine")
    assert task_name("../mine/") == "mine"
    assert task_name("../../data/mine") == "mine"


def test_a_task_is_recognised_where_the_project_is_reached_by_a_link(root, tmp_path_factory):
    link = tmp_path_factory.mktemp("links") / "project"
    os.symlink(root, link)
    assert task_name(f"{link}/data/mine") == "mine"


def test_a_bare_name_is_a_run_of_the_task_and_a_path_is_a_path(root):
    assert run_folder("weak", "mine", 3) == os.path.join(root, "data", "mine", "seed3", "weak")
    assert run_folder("weak/", "mine", 3) == os.path.join(root, "data", "mine", "seed3", "weak")
    for path in ("./weak", "data/mine/seed0/weak", "/elsewhere/weak"):
        assert run_folder(path, "mine", 3) == path
    for empty in ("", " "):                                 # as in --evaluator weak,
        with pytest.raises(SystemExit):
            contract.labels_folder(empty, "mine", 3)
        assert run_folder(path + "/", "mine", 3) == path


def test_a_run_and_an_annotator_of_one_name_are_told_apart(root, stops):
    """Fault: an annotator called weak gave way to the run weak as soon as there was one."""
    own = root / "data" / "mine" / "weak"
    run = root / "data" / "mine" / "seed0" / "weak"
    for folder in (own, run):
        os.makedirs(folder)
        if folder == run:
            assert contract.labels_folder("weak", "mine", 3) == str(own)
        (folder / "labels.jsonl").write_text("")
    stops(["'weak' is a run and an annotator", "data/mine/seed0/weak or data/mine/weak"], contract.labels_folder,
          "weak", "mine", 0)
    assert contract.labels_folder("data/mine/weak", "mine", 0) == "data/mine/weak"
    stops(["give the folder of this file, data/mine/weak"], contract.read_labels, "data/mine/weak/labels.jsonl", ROWS)


def test_no_run_takes_the_name_of_an_annotator(root, stage, stops):
    """Fault: from then on all that named it ended in "is a run and an annotator", the whole report too."""
    (root / "data" / "mine" / "ann").mkdir(parents=True)
    (root / "data" / "mine" / "ann" / "labels.jsonl").write_text("")
    stops(["--out 'ann' is the name of an annotator of data/mine"], describe, stage, "--out", "ann")
    assert describe(stage, "--out", "bob")


def test_a_split_that_was_emptied_is_one_line(root, stops):
    folder = root / "data" / "mine"
    os.makedirs(folder)
    for split in contract.SPLITS:
        row = {"id": split, "group": split, "text": "x", "label": 1}
        (folder / f"{split}.jsonl").write_text(json.dumps(row) + "\n" if split != "test" else "")
    (folder / "task.json").write_text(json.dumps({"splits": {"test": {"rows": 1}}}))
    stops(["data/mine/test.jsonl is empty, and had 1 rows", "prepare.py again"], read_task, "mine")
    (folder / "task.json").write_text(json.dumps({"splits": {"test": {"rows": 0}}}))
    read_task("mine")                                      # a table of one's own may have none


def test_a_model_is_a_shipped_name_a_folder_a_run_or_a_hub_name(root, stops):
    models = root / "data" / "tinyworld" / "models"
    run = root / "data" / "mine" / "seed0" / "student"
    for folder in (models / "tiny-1a", models / "tiny-4", models / "tokenizer", run / "checkpoint", root / "folder"):
        os.makedirs(folder)
    assert model_folder("tiny-4") == model_folder("tiny-4/") == str(models / "tiny-4")
    for name in ("data/mine/seed0/student", "data/mine/seed0/student/", "data/mine/seed0/student/checkpoint"):
        assert model_folder(name) == "data/mine/seed0/student/checkpoint"
    assert model_folder("folder/") == "folder"
    assert model_folder("gpt2") == "gpt2"
    assert model_folder("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert "tokenizer" not in stops(["'tiny-9'", "tiny-1a, tiny-4"], model_folder, "tiny-9")
    os.makedirs(root / "tiny-9")                           # a folder of the user's own may have such a name
    assert model_folder("tiny-9") == "tiny-9"


def test_a_missing_shipped_model_is_one_line_where_no_models_are_shipped(root, stops):
    stops(["'tiny-4'"], model_folder, "tiny-4")


def test_a_number_out_of_its_range_is_refused():
    parse = number(float, 1e-9, 1.0)
    assert parse("0.5") == 0.5
    for text in ("0", "2", "nan"):
        with pytest.raises(argparse.ArgumentTypeError, match="not between"):
            parse(text)


def make_parser():
    parser = argparse.ArgumentParser()
    add_run_flags(parser, out="weak", task="mine")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--lora", type=int, default=None)
    parser.add_argument("--models", nargs="+", default=["tiny-1a"])
    parser.add_argument("--shots", type=lambda text: [int(n) for n in text.split(",")], default=[4])
    parser.add_argument("--device", default="")
    return parser


@pytest.mark.parametrize("typed,shown", [
    ("", ""),
    ("--lr 1e-4 --task mine --models tiny-1a --shots 4", ""),                  # the defaults
    ("--lr 3e-4", "--lr 0.0003"),
    ("--max-rows 96 --force", "--max-rows 96 --force"),
    ("--models tiny-1a tiny-4 --lora 2", "--lora 2 --models tiny-1a tiny-4"),
    ("--shots 0,2,4", "--shots 0,2,4"),
    ("--task data/mine/", ""),
])
def test_flags_that_differ_from_their_defaults_are_shown_as_one_types_them(root, typed, shown):
    parser = make_parser()
    args = parser.parse_args(typed.split())
    assert typed_flags(parser, args) == shown
    assert parser.parse_args(shown.split()) == args


def test_flags_with_spaces_are_shown_with_the_quotes_that_a_shell_needs(root):
    parser = make_parser()
    args = parser.parse_args(["--out", "my run", "--models", "a b", "c"])
    assert typed_flags(parser, args) == "--out 'my run' --models 'a b' c"
    assert parser.parse_args(shlex.split(typed_flags(parser, args))) == args


# --------------------------------------------------------------------------- fingerprints of code

STAGE = '''
"""A stage."""
import os

from page import loss

def main(x):
    """Runs."""
    # the reason
    return loss(x, [1, 2])
'''
PAGE = '''
import deeper

def loss(x, y):
    return deeper.square(x) + sum(y)
'''


@pytest.fixture
def stage(tmp_path):
    """A stage that imports a page, which imports another; and a file beside them that nobody imports."""
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "page.py").write_text(PAGE)
    (tmp_path / "deeper.py").write_text("import page\n\n\ndef square(x):\n    return x * x\n")
    (tmp_path / "unused.py").write_text("this is no Python")
    return tmp_path / "stage.py"


def test_the_code_of_a_run_is_its_stage_and_all_pages_that_it_imports(stage):
    assert list(code_fingerprints(stage)) == ["deeper.py", "page.py", "stage"]


@pytest.mark.parametrize("old,new", [
    ("# the reason", "# another reason"),
    ("    # the reason\n", ""),
    ('"""A stage."""', '"""A page with\nanother header."""'),
    ('"""Runs."""', "'Does something else.'"),
    ('    """Runs."""\n', ""),
    ('"""A stage."""', ""),
    ('\n"""A stage."""', '\ufeff"""A stage, written by an editor that marks the byte order."""'),
    ("loss(x, [1, 2])", "loss(\n        x,\n        [1, 2],\n    )"),
    ("def main(x):", "\n\n\ndef main( x ):"),
])
def test_comments_docstrings_and_formatting_are_no_other_code(stage, old, new):
    before = code_fingerprints(stage)
    assert STAGE.count(old) == 1
    stage.write_text(STAGE.replace(old, new), encoding="utf-8")
    assert code_fingerprints(stage) == before


@pytest.mark.parametrize("old,new", [("[1, 2]", "[1, 3]"), ("loss(x,", "-loss(x,"), ("import os", "import os, re")])
def test_an_edited_stage_is_other_code(stage, old, new):
    before = code_fingerprints(stage)
    stage.write_text(STAGE.replace(old, new))
    after = code_fingerprints(stage)
    assert {name for name in after if after[name] != before[name]} == {"stage"}


def test_an_edited_page_is_other_code_also_where_the_stage_imports_it_through_another(stage):
    before = code_fingerprints(stage)
    (stage.parent / "deeper.py").write_text("def square(x):\n    return x ** 2\n")
    after = code_fingerprints(stage)
    assert {name for name in after if after[name] != before[name]} == {"deeper.py"}


def test_all_modules_of_an_import_line_count(stage):
    stage.write_text("import os, page\n")
    assert list(code_fingerprints(stage)) == ["deeper.py", "page.py", "stage"]


def test_a_page_in_a_folder_counts(stage):
    """Fault: an edit of data/tasks.py, which reads the true labels of people, repeated no run."""
    (stage.parent / "data").mkdir()
    (stage.parent / "data" / "tasks.py").write_text("import deeper\n")
    stage.write_text("from data.tasks import buy_labels\n")
    assert list(code_fingerprints(stage)) == ["data/tasks.py", "deeper.py", "page.py", "stage"]


def test_a_copy_of_a_stage_under_another_name_or_in_another_folder_has_the_same_code(stage, tmp_path_factory):
    before = code_fingerprints(stage)
    (stage.parent / "my_stage.py").write_text(STAGE)
    assert code_fingerprints(stage.parent / "my_stage.py") == before
    fork = tmp_path_factory.mktemp("fork")
    for name, text in (("my_stage.py", STAGE), ("page.py", PAGE)):
        (fork / name).write_text(text)
    (fork / "deeper.py").write_text((stage.parent / "deeper.py").read_text())
    assert code_fingerprints(fork / "my_stage.py") == before


def test_an_imported_page_with_a_syntax_error_is_no_silent_success(stage):
    (stage.parent / "page.py").write_text("def loss(:\n")
    with pytest.raises(SyntaxError):
        code_fingerprints(stage)


# --------------------------------------------------------------------------- the folder of a run


def describe(stage, *flags, inputs=(), sources=(), words=None):
    """describe_run of the stage above, in data/mine/seed0/weak. -> (folder, config)"""
    parser = make_parser()
    args = parser.parse_args(flags)
    return describe_run(stage, parser, args, {"role": "supervisor", **vars(args)}, inputs, sources, words)


def finish(folder, config, **changes):
    """What write_results leaves, without its import of torch."""
    os.makedirs(folder, exist_ok=True)
    write_labels(folder, ROWS, np.full((5, 2), 0.5, np.float32))
    results = {"config": config, "line": "supervisor 0.700", "outputs": contract.output_fingerprints(folder), **changes}
    write_file(os.path.join(folder, "results.json"), json.dumps(results))


def test_a_run_is_described_by_flags_inputs_and_code(root, stage, capsys):
    (root / "input.txt").write_text("x")
    folder, config = describe(stage, "--lr", "1e-3", "--force", "--device", "cpu",
                              inputs=[str(root / "input.txt"), "gpt2"])
    printed = capsys.readouterr().out
    assert printed == "stage.py --force --lr 0.001 --device cpu -> data/mine/seed0/weak\n"
    assert folder == str(root / "data" / "mine" / "seed0" / "weak")
    assert not os.path.exists(folder)
    assert not {"out", "device", "force"} & set(config)
    assert config["role"] == "supervisor"
    assert config["lr"] == 1e-3
    assert config["inputs"] == {"input.txt": contract.fingerprint(str(root / "input.txt")), "gpt2": "gpt2"}
    assert config["code"] == code_fingerprints(stage)
    describe(stage)
    assert "(all flags at their defaults) -> " in capsys.readouterr().out


@pytest.mark.parametrize("out", ["", " ", ".", "..", "./", "../", "/", "no UTF-8: \udcff", "half an emoji \ud83d",
                                 "data/mine/truth", "link"])
def test_an_out_that_is_no_name_or_would_overwrite_a_source_is_refused(root, stage, stops, out):
    truth = root / "data" / "mine" / "truth"
    os.makedirs(truth)
    os.makedirs(root / "data" / "mine" / "seed0")
    os.symlink(truth, root / "data" / "mine" / "seed0" / "link")
    stops(["--out", "choose another"], describe, stage, "--out", out, sources=[str(truth)])


def test_a_run_writes_only_into_a_folder_that_is_empty_or_a_runs(root, stage, stops):
    """A model, another program's results, rows: nothing of a user's is replaced, however the folder is named."""
    folder = root / "data" / "mine" / "seed0" / "weak"
    os.makedirs(folder / "checkpoint")
    (folder / "checkpoint" / "config.json").write_text('{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}')
    os.makedirs(root / "others")
    (root / "others" / "results.json").write_text('{"config": {"model": "x"}, "results": 1}')
    (root / "others" / "labels.jsonl").write_text("{}")
    os.symlink(folder / "checkpoint", root / "link")
    before = {path: path.read_text() for path in root.rglob("*.json*")}
    for out in (folder / "checkpoint", root / "others", root / "link", root / "data"):
        stops(["--out", "is no run's folder", "Choose another"], describe, stage, "--out", str(out))
    assert {path: path.read_text() for path in root.rglob("*.json*")} == before
    os.makedirs(root / "empty")
    describe(stage, "--out", str(root / "empty"))


def test_a_run_never_writes_over_the_model_that_it_starts_from(root, stage, stops):
    folder, config = describe(stage)
    finish(folder, config)
    os.makedirs(os.path.join(folder, "checkpoint"))
    stops(["would overwrite what this run reads"], describe, stage, inputs=[os.path.join(folder, "checkpoint")])


def test_a_killed_run_goes_on_in_its_folder(root, stage):
    folder, config = describe(stage)
    with pytest.raises(KeyboardInterrupt), contract.open_run(folder):
        write_labels(folder, ROWS, np.full((5, 2), 0.5, np.float32))
        raise KeyboardInterrupt
    assert sorted(os.listdir(folder)) == ["labels.jsonl", contract.UNFINISHED]
    assert describe(stage) == (folder, config)


def make_model(folder):
    os.makedirs(folder)
    for name in ("config.json", "model.safetensors", "vocab.json", "merges.txt", "tokenizer.model",
                 "special_tokens_map.json", "tokenizer_config.json", "chat_template.jinja", "README.md"):
        (folder / name).write_text(name)
    return str(folder)


def test_every_file_of_a_models_folder_counts_that_decides_what_it_computes(tmp_path, stops):
    model = make_model(tmp_path / "model")
    seen = {contract.fingerprint(model)}
    for name in sorted(os.listdir(model)):
        (tmp_path / "model" / name).write_text("other")
        seen.add(contract.fingerprint(model))
    assert len(seen) == len(os.listdir(model))             # all but README.md, and the first
    shutil.move(tmp_path / "model" / "merges.txt", tmp_path / "model" / "vocab.txt")
    assert contract.fingerprint(model) not in seen         # the same bytes under another name
    os.makedirs(tmp_path / "model" / "folder.json")
    stops(["cannot read", "Is a directory"], contract.fingerprint, model)


def test_what_is_fingerprinted_is_what_was_read(root, stage, stops):
    """Labels that are replaced before, while or after they are fingerprinted leave no results beside a false one."""
    supervisor = root / "data" / "mine" / "seed0" / "supervisor"
    os.makedirs(supervisor)
    path = supervisor / "labels.jsonl"
    words = ["labels.jsonl was changed while this run was working with it", "Start the same command again"]

    def write(p_yes):
        write_labels(str(root), ROWS, np.full((5, 2), [1 - p_yes, p_yes], np.float32))
        os.replace(root / "labels.jsonl", path)            # as another process does it
    write(0.25)
    read_labels(str(supervisor), ROWS)
    write(0.75)
    stops(words, describe, stage, inputs=[str(path)])      # read, replaced, fingerprinted
    read_labels(str(supervisor), ROWS)
    folder, config = describe(stage, inputs=[str(path)])
    write(0.25)
    read_labels(str(supervisor), ROWS)                     # fingerprinted, replaced, read
    write(0.75)
    stops(words, contract.check_unchanged, config["inputs"], at_end=True)
    folder, config = describe(stage, inputs=[str(path)])
    read_labels(str(supervisor), ROWS)
    contract.check_unchanged(config["inputs"], at_end=True)
    path.unlink()
    stops(words, contract.check_unchanged, config["inputs"], at_end=True)


def test_labels_that_were_edited_since_their_run_are_named(root, stage, capsys):
    folder, config = describe(stage)
    finish(folder, config)
    labels = os.path.join(folder, "labels.jsonl")
    describe(stage, "--out", "student", inputs=[labels])
    assert "note" not in capsys.readouterr().out
    contract.append_file(labels, '{"id": "more", "soft_label": [0.5, 0.5]}\n')
    describe(stage, "--out", "student", inputs=[labels])
    assert "note: data/mine/seed0/weak/labels.jsonl was changed since its run ended\n" in capsys.readouterr().out


def test_a_supervisor_whose_rows_were_changed_since_is_named(root, stage, capsys):
    """Fault: its labels taught a student without a word, and the report left the supervisor out as stale."""
    (root / "data" / "mine").mkdir(parents=True)
    rows = root / "data" / "mine" / "train1.jsonl"
    rows.write_text('{"label": 0}\n')
    folder, config = describe(stage, inputs=[str(rows)])
    finish(folder, config)
    for text, noted in (('{"label": 0}\n', False), ('{"label": 1}\n', True)):
        rows.write_text(text)
        describe(stage, "--out", "student", inputs=[os.path.join(folder, "labels.jsonl")])
        words = "note: changed since the run of data/mine/seed0/weak: data/mine/train1.jsonl. Repeat its command"
        assert (words in capsys.readouterr().out) == noted


def test_a_planted_link_is_not_followed(tmp_path, stops):
    """Whoever may write to a run's folder could otherwise make the run overwrite another file of its user."""
    from types import SimpleNamespace

    kept = tmp_path / "kept"
    os.makedirs(kept / "folder")
    (kept / "file").write_text("kept")
    folder = tmp_path / "run"
    os.makedirs(folder)
    os.symlink(kept / "file", folder / "labels.jsonl.tmp")
    os.symlink(kept / "file", folder / "labels.jsonl")
    os.symlink(kept / "folder", folder / "checkpoint.tmp")
    os.symlink(kept / "folder", folder / "checkpoint")
    os.symlink(kept / "file", folder / "log.jsonl")
    write_labels(str(folder), ROWS, np.full((5, 2), 0.5, np.float32))
    saved = SimpleNamespace(save_pretrained=lambda path, **_: write_file(os.path.join(path, "x"), "x")
                            if os.path.isdir(path) else os.makedirs(path))
    contract.save_checkpoint(str(folder), saved, saved)
    stops(["cannot write to", "it is a link"], contract.append_file, str(folder / "log.jsonl"), "x")
    assert (kept / "file").read_text() == "kept" and os.listdir(kept / "folder") == []
    assert len(read_jsonl(folder / "labels.jsonl")) == 5 and os.listdir(folder / "checkpoint") == ["x"]


def test_several_processes_without_the_launcher_are_one_line(root, stage, stops, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    stops(["torchrun --nproc-per-node N distributed.py stage.py"], describe, stage)
    monkeypatch.setattr(contract, "LAUNCHED", True)
    describe(stage)


def test_a_finished_run_is_recognised_and_its_last_line_printed_again(root, stage, capsys):
    folder, config = describe(stage)
    assert not is_finished(folder, config)
    finish(folder, config)
    capsys.readouterr()
    assert is_finished(folder, config)
    assert capsys.readouterr().out == ("supervisor 0.700\nalready done: data/mine/seed0/weak/results.json "
                                       "(--force repeats it)\n")
    assert not is_finished(folder, config, force=True)
    assert capsys.readouterr().out == ""


def test_code_that_was_edited_after_its_import_is_refused_until_the_process_starts_again(root, stage, stops):
    """A notebook runs the code that it imported; the edited file's fingerprint must not stand beside its results."""
    describe(stage)
    describe(stage)
    (stage.parent / "page.py").write_text(PAGE + "\n# a comment\n")
    describe(stage)                                        # a comment is no code
    stage.write_text(STAGE + "\n\nmore = 1\n")
    stops(["stage.py was edited after this process had imported it", "Restart"], describe, stage)


def test_another_run_in_the_folder_is_described_by_what_differs(root, stage, capsys):
    (root / "input.txt").write_text("x")
    folder, config = describe(stage, inputs=[str(root / "input.txt")])
    finish(folder, config)
    (root / "input.txt").write_text("y")
    stage.write_text(STAGE.replace("[1, 2]", "[1, 3]"))
    contract.LOADED.clear()                                # another process
    folder, changed = describe(stage, "--lr", "1e-3", "--max-rows", "9", inputs=[str(root / "input.txt")])
    capsys.readouterr()
    assert not is_finished(folder, changed)
    assert capsys.readouterr().out == (
        "note: data/mine/seed0/weak holds another finished run (lr 0.0001 -> 0.001; max rows (none) -> 9; "
        "input changed: input.txt; code changed: this script). It stays until this run is complete, then it is "
        "replaced\n")
    assert read_config(folder) == config


def test_a_run_of_the_previous_version_of_the_project_is_repeated_with_a_note(root, stage, capsys):
    """Its config had the script's name in place of a role, and no fingerprints of code."""
    folder, config = describe(stage)
    old = {key: value for key, value in config.items() if key not in ("role", "code")}
    finish(folder, {"script": "stage.py", **old})
    capsys.readouterr()
    assert not is_finished(folder, config)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    difference = "role (none) -> supervisor; script stage.py -> (none); code changed: deeper.py, page.py, this script"
    assert difference in printed


@pytest.mark.parametrize("damage", ["labels", "no labels", "new checkpoint"])
def test_a_folder_that_has_changed_since_its_run_ended_is_made_again(root, stage, capsys, damage):
    folder, config = describe(stage)
    finish(folder, config)
    if damage == "labels":
        contract.append_file(os.path.join(folder, "labels.jsonl"), "{}\n")
    elif damage == "no labels":
        os.remove(os.path.join(folder, "labels.jsonl"))
    else:
        os.makedirs(os.path.join(folder, "checkpoint"))
    capsys.readouterr()
    assert not is_finished(folder, config)
    assert "has changed since its run ended; the stage runs again" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"config": ', '{"config": [1], "line": "x", "outputs": {}}',
                                  '{"config": null, "line": "x", "outputs": {}}', "[" * 100_000, "\x00"])
def test_results_that_cannot_be_read_are_a_note_and_the_stage_runs_again(root, stage, capsys, text):
    folder, config = describe(stage)
    os.makedirs(folder)
    with open(os.path.join(folder, "results.json"), "w") as f:
        f.write(text)
    capsys.readouterr()
    assert not is_finished(folder, config)
    assert capsys.readouterr().out == "note: data/mine/seed0/weak/results.json is damaged; the stage runs again\n"


@pytest.mark.parametrize("old,new,line", [
    ({"lr": 1}, {"lr": 1}, ""),
    ({"lr": 1}, {"lr": 2}, "lr 1 -> 2"),
    ({"lr": 1}, {}, "lr 1 -> (none)"),
    ({}, {"max_rows": 9}, "max rows (none) -> 9"),
    ({}, {"lora": None}, ""),                              # a new flag at its default
    ({"inputs": {"a": "1"}}, {"inputs": {"a": "2", "b": "3"}}, "input changed: a, b"),
    ({"inputs": {"a": "1"}}, {"inputs": {}}, "input changed: a"),
    ({"code": None}, {"code": {"stage": "1"}}, "code changed: this script"),
    ({"inputs": [1], "b": 2, "a": 1}, {"inputs": {"x": "1"}, "b": 3, "a": 2}, "a 1 -> 2; b 2 -> 3; input changed: x"),
])
def test_what_differs_between_two_configurations(old, new, line):
    assert what_differs(old, {"inputs": {}, "code": {}, **new}) == line


def test_results_go_before_the_labels_or_the_checkpoint_that_they_describe(root, stage):
    """A kill between two files must not leave the flags of one run beside the labels of another."""
    from types import SimpleNamespace

    folder, config = describe(stage)
    saves_nothing = SimpleNamespace(save_pretrained=lambda folder, **_: os.makedirs(folder, exist_ok=True))
    for replace in (lambda: write_labels(folder, ROWS, np.full((5, 2), 0.5, np.float32)),
                    lambda: contract.save_checkpoint(folder, saves_nothing, saves_nothing)):
        finish(folder, config)
        write_file(os.path.join(folder, "config.json"), "{}")
        replace()
        assert not {"results.json", "config.json"} & set(os.listdir(folder))


def test_a_run_without_a_configuration_has_none(tmp_path, stops):
    for text in ("{}", '{"config": "x"}', ""):
        (tmp_path / "results.json").write_text(text)
        assert read_config(tmp_path) == {}
    stops(["cannot read"], read_config, tmp_path / "missing")


def test_an_edited_file_of_an_earlier_run_is_one_line(stops):
    def use_rounds():
        with reject_damaged("data/mine/seed0/align"):
            return {}["rounds"]
    stops(["data/mine/seed0/align is not as its run left it (KeyError: 'rounds')", "--force"], use_rounds)


# --------------------------------------------------------------------------- locks


def test_a_lock_holds_for_every_name_of_the_folder_and_ends_with_its_block(tmp_path, stops):
    pytest.importorskip("fcntl")
    folder = str(tmp_path / "run")
    link = str(tmp_path / "link")

    def lock(path):
        with lock_folder(path):
            pass
    with lock_folder(folder):
        assert os.path.isdir(folder)
        os.symlink(folder, link)
        stops(["another run is writing to", link], lock, link)
        stops(["another run is writing to", folder], lock, folder)
    with lock_folder(link):
        stops(["another run is writing to", folder], lock, folder)
    with pytest.raises(ValueError), lock_folder(folder):
        raise ValueError("a run that fails")
    lock(folder)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, stops):
    def lock(path):
        with lock_folder(str(path)):
            pass
    (tmp_path / "file").write_text("x")
    os.symlink(tmp_path / "nowhere", tmp_path / "dangling")
    for path in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / "dangling"):
        stops(["cannot write to", str(path)], lock, path)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that not even root can write to")
def test_a_folder_that_cannot_be_written_to_is_one_line_before_any_work(stops):
    def lock(path):
        with lock_folder(path):
            pass
    stops(["cannot write to /proc/self"], lock, "/proc/self")


# --------------------------------------------------------------------------- how a script ends


def run_main(tmp_path, body, **settings):
    """A script whose main() has this body. -> the running process"""
    lines = ["import os, sys, time", f"sys.path.insert(0, {ROOT!r})", "import contract", "def main():"]
    lines += ["    " + line for line in body]
    (tmp_path / "script.py").write_text("\n".join([*lines, "contract.run_script(main)", ""]))
    return subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, preexec_fn=default_sigint, **settings)


@pytest.mark.parametrize("files,line", [
    ([], "interrupted: nothing was written; the same command starts again\n"),
    (["a.txt", "b.txt"], "interrupted: files written and whole: 2, the last b.txt; the same command uses them\n"),
])
def test_ctrl_c_is_one_line_that_says_which_files_are_kept(tmp_path, files, line):
    body = [f"contract.append_file({name!r}, 'x')" for name in files for _ in range(3)]
    process = run_main(tmp_path, [*body, "print('ready', flush=True)", "time.sleep(60)"])
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert errors == line
    assert process.returncode == 130
    assert sorted(os.listdir(tmp_path)) == [*files, "script.py"]


def test_ctrl_c_in_the_backward_pass_of_torch_is_one_line(tmp_path):
    """The signal arrives in torch's own code, below a Python function that autograd calls."""
    process = run_main(tmp_path, ["import torch",
                                  "from torch.utils.checkpoint import checkpoint",
                                  "x = torch.ones(500, 500, requires_grad=True)",
                                  "print('ready', flush=True)",
                                  "while True:",
                                  "    y = checkpoint(lambda x: (x @ x).relu(), x, use_reentrant=False)",
                                  "    y.sum().backward()"])
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert errors == "interrupted: nothing was written; the same command starts again\n"
    assert process.returncode == 130


@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_leaves_ends_the_script_without_a_traceback(tmp_path, buffered):
    """python script.py | head -1. Buffered output fails at the end of main(), the other at once; files are whole."""
    process = run_main(tmp_path, ["contract.write_file('a.txt', 'x')", "print('a line')"],
                       env=os.environ | {"PYTHONUNBUFFERED": "" if buffered else "1"})
    process.stdout.close()                                 # before the first line
    assert process.stderr.read() == ""
    assert process.wait() == 1
    assert (tmp_path / "a.txt").read_text() == "x"
    process.stderr.close()


@pytest.mark.parametrize("buffered", [True, False])
def test_ctrl_c_that_ends_the_reader_too_is_still_one_line(tmp_path, buffered):
    """python script.py | tee log: Ctrl-C ends both."""
    process = run_main(tmp_path, ["print('a line')", "print('ready', file=sys.stderr, flush=True)", "time.sleep(60)"],
                       env=os.environ | {"PYTHONUNBUFFERED": "" if buffered else "1"})
    assert process.stderr.readline() == "ready\n"
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert process.stderr.read() == "interrupted: nothing was written; the same command starts again\n"
    assert process.wait()
    process.stderr.close()


def test_a_script_without_any_output_stream_ends_well(tmp_path):
    """python script.py >&-"""
    run_main(tmp_path, ["print('a line')"]).communicate()
    done = subprocess.run(["sh", "-c", f"{shlex.quote(sys.executable)} script.py >&-"], cwd=tmp_path,
                          stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_text_can_be_printed_on_any_terminal_and_does_nothing_to_it(tmp_path, encoding):
    body = ["print('0.7 ±0.1 → 0.8 \\ud83d\\x1b[31m\\r\\x9b2J\\u202e\\ttext')",
            "contract.fail('\\x1b]0;title\\x07 → \\ud83d')"]
    process = run_main(tmp_path, body, env=os.environ | {"PYTHONIOENCODING": encoding}, encoding="utf-8",
                       errors="replace")
    printed, errors = process.communicate()
    assert process.returncode == 2 and "Traceback" not in errors
    assert printed.endswith(r"\x1b[31m\r\x9b2J\u202e\ttext".replace(r"\r", r"\x0d").replace(r"\t", "\t") + "\n")
    assert errors.startswith(r"error: \x1b]0;title\x07") and errors.count("\n") == 1
    assert "→" in printed or encoding != "utf-8"


def test_other_errors_and_exit_codes_pass_unchanged(tmp_path):
    process = run_main(tmp_path, ["print('a line')", "contract.fail('no model')"])
    assert process.communicate() == ("a line\n", "error: no model\n")
    assert process.returncode == 2
    for error, line in (("MemoryError()", "out of memory: no memory is left"),
                        ("RuntimeError('CUDA out of memory. Tried to')", "out of memory: CUDA out of memory"),
                        ("PermissionError(13, 'Permission denied', '/x/y')", "cannot use /x/y: Permission denied")):
        process = run_main(tmp_path, [f"raise {error}"])
        assert process.communicate()[1].startswith("error: " + line) and process.returncode == 2
    for error in ("RuntimeError('a bug')", "OSError('a socket')"):
        process = run_main(tmp_path, [f"raise {error}"])
        assert "Traceback" in process.communicate()[1] and process.returncode == 1
    process = run_main(tmp_path, ["print('a line')", "raise ValueError('a bug')"])
    printed, errors = process.communicate()
    assert printed == "a line\n"
    assert "Traceback" in errors and errors.endswith("ValueError: a bug\n")
    assert process.returncode == 1
