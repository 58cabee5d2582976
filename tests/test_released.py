"""
Released labels become tasks: data/sciq/released.py on tables made here, in the formats of the real ones.

python -m pytest tests/test_released.py         # 3 s
"""
import importlib.util
import json
import os

import numpy as np
import pytest

import contract
import report
from conftest import ROOT
from contract import read_jsonl, read_labels, read_rows

spec = importlib.util.spec_from_file_location("released", os.path.join(ROOT, "data", "sciq", "released.py"))
released = importlib.util.module_from_spec(spec)
spec.loader.exec_module(released)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """data/ of an empty project, with tasks made of two of GPT-2's files and of Qwen's"""
    import pyarrow
    import pyarrow.parquet
    monkeypatch.setattr(contract, "ROOT", str(tmp_path))
    monkeypatch.setattr(released, "DATA", str(tmp_path / "data"))
    monkeypatch.setattr(released, "SIZES", {"valid": 10, "train2": 60})
    for name in ("data", "rows"):
        os.makedirs(tmp_path / name)
    for k in (0, 1):
        rows = [{"question": f"What is {n + 100 * k}? ", "answer": f"a{n % 7}", "label": n % 2, "gpt2": 0.25,
                 "gpt2-medium": 0.75, "gpt2-large": 0.5, "gpt2-xl": 0.125 + 0.75 * (n % 2)} for n in range(300)]
        table = pyarrow.Table.from_pylist(rows + rows[:1])                     # one row twice
        pyarrow.parquet.write_table(table, tmp_path / "rows" / f"sciq_gpt2_labels_seed{k}.parquet")
    with open(tmp_path / "rows" / "sciq_qwen_labels.jsonl", "w", encoding="utf-8") as f:
        for n in range(300):
            row = {"question": f"What is {n // 2}?", "answer": f"a{n % 2}", "label": n % 2, "plain": [0.25, 0.75],
                   "with_knowledge": [0.875, 0.125]}
            f.write(json.dumps(row) + "\n")
    released.main([str(tmp_path / "rows")])
    return tmp_path / "data"


def test_each_file_becomes_a_task_whose_questions_stay_in_one_split(data):
    tests = []
    for task, n_rows in (("sciq-gpt2-0", 300), ("sciq-gpt2-1", 300), ("sciq-qwen", 300)):
        splits = {split: read_rows(task, split) for split in ("train1", "train2", "valid", "test")}
        assert sum(map(len, splits.values())) == n_rows
        groups = [{row["group"] for row in rows} for rows in splits.values()]
        assert sum(map(len, groups)) == len(set.union(*groups))                # no question in two splits
        assert 60 <= len(splits["train2"]) <= 61 and 10 <= len(splits["valid"]) <= 11
        tests.append(groups[-1])
    assert tests[0].isdisjoint(tests[1])                   # though the files share 200 questions
    assert contract.read_task("sciq-qwen")[1] == [" no", " yes"]
    row = next(row for row in read_rows("sciq-gpt2-0", "test"))
    assert row["text"] == f"Q: {row['question'].strip()} A: {row['answer']}"
    assert row["group"] == released.short_hash(row["question"])


def test_labels_follow_their_rows(data):
    rows = read_rows("sciq-gpt2-1", "test")
    assert np.allclose(read_labels(data / "sciq-gpt2-1" / "gpt2", rows)[:, 1], 0.25)
    xl = read_labels(data / "sciq-gpt2-1" / "gpt2-xl", rows)
    assert np.allclose(xl[:, 1], [0.125 + 0.75 * row["label"] for row in rows])
    rows = read_rows("sciq-qwen", "train2")
    assert np.allclose(read_labels(data / "sciq-qwen" / "with_knowledge", rows), [0.875, 0.125])
    truth = {row["id"]: row["soft_label"][1] for row in read_jsonl(data / "sciq-qwen" / "truth" / "labels.jsonl")}
    parity = {row["id"]: int(row["answer"] == "a1") for row in rows}
    assert parity == {name: truth[name] for name in parity}


def test_two_answers_to_a_question_become_a_pair_whose_label_is_the_difference_of_their_log_odds(data):
    rows = read_rows("sciq-qwen-pairs", "test")
    assert len(rows) * 2 == len(read_rows("sciq-qwen", "test")) and {row["label"] for row in rows} == {0, 1}
    assert all(row[("text_a", "text_b")[row["label"]]].endswith(" A: a1") for row in rows)       # a1 is right
    soft = read_labels(data / "sciq-qwen-pairs" / "plain", rows)
    assert np.allclose(soft, 0.5)                          # both answers have p(yes) 0.75
    row = {"group": "q", "text": "Q A: x", "label": 1, "soft": {"s": [0.2, 0.8]}}
    [pair] = released.pairs_of([row, {**row, "text": "Q A: y", "label": 0, "soft": {"s": [0.5, 0.5]}}])
    assert pair["soft"]["s"][pair["label"]] == pytest.approx(0.8)              # sigma(log 4 - log 1)
    assert released.pairs_of([row]) == []


def test_a_run_is_described_over_all_files_that_have_it(data, monkeypatch):
    """A student that is right on all of file 0 and on none of file 1, below a ceiling that is always right."""
    report.predictions_on_test.cache_clear()
    sizes = []
    for k in (0, 1):
        test = read_rows(f"sciq-gpt2-{k}", "test")
        sizes.append(len(test))
        for name, p_right in (("mine", 0.75 - 0.5 * k), ("ceiling", 0.75)):
            folder = data / f"sciq-gpt2-{k}" / f"seed{k}" / name
            os.makedirs(folder)
            soft = [p_right if row["label"] else 1 - p_right for row in test]
            contract.write_labels(str(folder), test, np.array([[1 - p, p] for p in soft], np.float32))
            config = {"max_rows": None} | ({"ceiling": "ceiling", "supervisor": "gpt2"} if name == "mine" else {})
            contract.write_file(str(folder / "results.json"), json.dumps({"config": config, "seconds": 90}))
    contract.write_file(str(data / "measured.json"), '{"other": {}}')
    released.main(["--measured"])
    measured = json.loads((data / "measured.json").read_text())
    assert measured["other"] == {} and measured["sciq-gpt2"].keys() == {*released.GPT2, "mine", "ceiling"}
    mine = measured["sciq-gpt2"]["mine"]
    assert mine["accuracy [95 %]"].startswith("0.500 [") and mine["minutes"] == "1.5" and mine["seeds"] == "2"
    assert mine["n"] == str(2 * min(sizes)) and mine["minus gpt2-xl [95 %]"].startswith("-0.500")
    gpt2 = float(measured["sciq-gpt2"]["gpt2"]["accuracy [95 %]"].split()[0])  # says no to everything
    assert mine["gpt2"] == f"{gpt2:.3f}" and 0.3 < gpt2 < 0.7
    assert float(mine["PGR [95 %]"].split()[0]) == pytest.approx((0.5 - gpt2) / (1 - gpt2), abs=0.01)
    assert measured["sciq-gpt2"]["ceiling"]["accuracy [95 %]"] == "1.000 [1.000, 1.000]"


def test_a_folder_without_such_files_is_one_line(data, tmp_path, capsys):
    with pytest.raises(SystemExit):
        released.main([str(tmp_path / "data")])
    assert "has neither sciq_gpt2_labels_seed0.parquet" in capsys.readouterr().err


@pytest.mark.parametrize("change,words", [
    ({"plain": [0.5, 0.6]}, "row 1: plain, with_knowledge must be p(yes)"),
    ({"label": "yes"}, "row 1: question and answer"), ({"answer": None}, "row 1")])
def test_a_damaged_table_is_one_line_that_names_the_row(data, tmp_path, capsys, change, words):
    row = {"question": "What?", "answer": "a", "label": 0, "plain": [0.25, 0.75], "with_knowledge": [0.5, 0.5]}
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "sciq_qwen_labels.jsonl").write_text(json.dumps({**row, **change}))
    with pytest.raises(SystemExit):
        released.main([str(tmp_path / "new")])
    assert words in capsys.readouterr().err
