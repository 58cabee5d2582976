"""
Rows, label files and task folders: joined by id, and a broken one is one clear line.

python -m pytest tests/test_contract.py          # 1 s
"""
import json
import os

import numpy as np
import pytest

import contract
from contract import read_labels, read_rows, read_task, write_labels

ROWS = [{"id": f"t-{k}"} for k in range(5)]


def test_pitfall_17_labels_are_joined_by_id_not_by_row(tmp_path):
    soft = np.random.default_rng(0).random(5).astype(np.float32)
    soft = np.stack([1 - soft, soft], 1)
    write_labels(str(tmp_path), ROWS, soft)
    lines = (tmp_path / "labels.jsonl").read_text().splitlines()
    (tmp_path / "labels.jsonl").write_text("\n".join(reversed(lines)))
    assert np.array_equal(read_labels(str(tmp_path), ROWS), soft)              # to the last bit: pitfall 8, labels are float32


def test_pitfall_08_float32_labels_survive_the_file(tmp_path):
    soft = np.random.default_rng(1).dirichlet([1, 1], 5).astype(np.float32)
    write_labels(str(tmp_path), ROWS, soft)
    assert read_labels(str(tmp_path), ROWS).tobytes() == soft.astype(np.float32).tobytes()


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
def test_a_broken_label_file_is_one_line_that_names_the_place(tmp_path, capsys, line, words):
    (tmp_path / "labels.jsonl").write_text(line)
    with pytest.raises(SystemExit) as stop:
        read_labels(str(tmp_path), ROWS)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and all(word in error for word in words), error


def test_labels_with_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    (tmp_path / "labels.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(b'{"id": "t-%d", "soft_label": [0.25, 0.75]}' % k for k in range(5)))
    assert read_labels(str(tmp_path), ROWS).tolist() == [[0.25, 0.75]] * 5


@pytest.mark.parametrize("lines,words", [
    ('{"id": "a", "group": "g", "text": "t", "label": 2}', ["line 1", "'a'", "0 or 1"]),
    ('{"id": "a", "group": "g", "text": "t", "label": 1}\n{"id": "a", "group": "g", "text": "t", "label": 1}', ["line 2", "twice"]),
    ('{"id": "a", "group": "g", "text": ""}', ["line 1", "'text'"]),
    ('{"id": "a", "text": "t", "label": 1}', ["line 1", "'group'"]),
    ('', ["empty"]),
    ('\xff', ["line 1"]),
])
def test_broken_rows_are_one_line_that_names_the_place(tmp_path, monkeypatch, capsys, lines, words):
    monkeypatch.setattr(contract, "ROOT", str(tmp_path))
    os.makedirs(tmp_path / "data" / "mine")
    (tmp_path / "data" / "mine" / "train1.jsonl").write_bytes(lines.encode("latin1"))
    with pytest.raises(SystemExit) as stop:
        read_rows("mine", "train1")
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and all(word in error for word in words), error


def task_folder(tmp_path, monkeypatch, **changes):
    monkeypatch.setattr(contract, "ROOT", str(tmp_path))
    folder = tmp_path / "data" / "mine"
    os.makedirs(folder)
    for split in ("train1", "train2", "valid", "test"):
        rows = [{"id": f"{split}-{k}", "group": f"{split}-{k}", "text": "t", "label": k % 2} for k in range(4)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, changes.get(split, rows))))
    (folder / "task.json").write_text(changes.get("task", "{}"))


def test_pitfall_15_a_question_on_two_sides_is_refused_before_any_work(tmp_path, monkeypatch, capsys):
    task_folder(tmp_path, monkeypatch, test=[{"id": "a", "group": "train2-1", "text": "t", "label": 1}])
    with pytest.raises(SystemExit):
        read_task("mine")
    assert "'train2-1' is in train2 and in test" in capsys.readouterr().err


@pytest.mark.parametrize("spec", ['{"label_words": " yes"}', '{"label_words": [" no"]}', '{"label_words": [1, 2]}', 'null', '{"label_wo'])
def test_a_broken_task_json_is_one_line(tmp_path, monkeypatch, capsys, spec):
    task_folder(tmp_path, monkeypatch, task=spec)
    with pytest.raises(SystemExit) as stop:
        read_task("mine")
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and "task.json" in error


def test_a_task_json_may_be_written_over_many_lines(tmp_path, monkeypatch):
    task_folder(tmp_path, monkeypatch, task=json.dumps({"label_words": [" bad", " good"]}, indent=2))
    assert read_task("mine")[1] == [" bad", " good"]
