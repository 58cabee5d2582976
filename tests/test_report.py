"""
report.py: numbers against a by-hand world, README's tables against what was measured.

python -m pytest tests/test_report.py        # 10 s, CPU, no network
"""
import json
import os
import re
import subprocess
import sys

import pytest

import report
from test_commands import ROOT

TEST = [{"id": f"t{i}", "group": f"g{i // 2}", "text": "Q", "label": i % 2} for i in range(40)]


def run(world, name, seed, p_yes, **config):
    """A finished run of the made-up task t."""
    folder = world / "data" / "t" / f"seed{seed}" / name
    folder.mkdir(parents=True)
    (folder / "labels.jsonl").write_text("".join(json.dumps({"id": r["id"], "soft_label": [1 - p, p]}) + "\n" for r, p in zip(TEST, p_yes)))
    config = {"role": "student", "model": "tiny-4", "max_rows": None, "task": "t", "seed": seed, "inputs": {}} | config
    (folder / "results.json").write_text(json.dumps({"config": config, "line": "x", "seconds": 10.0 * (seed + 1)}))


def judged(wrong, sure=0.9):
    """p(yes) of a judge that is wrong on the first `wrong` rows"""
    return [sure if (row["label"] == 1) != (i < wrong) else 1 - sure for i, row in enumerate(TEST)]


@pytest.fixture
def world(tmp_path, monkeypatch):
    import contract
    for module in (report, contract, report.debate):
        monkeypatch.setattr(module, "ROOT", str(tmp_path))
    (tmp_path / "data" / "t").mkdir(parents=True)
    (tmp_path / "data" / "t" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TEST))
    report.predictions_on_test.cache_clear()
    for seed in (0, 1):
        run(tmp_path, "weak", seed, judged(20), role="supervisor", model="tiny-1a")
        run(tmp_path, "ceiling", seed, judged(0), labels="truth", role="ceiling")
        run(tmp_path, "student", seed, judged(8 + 4 * seed), labels="weak", ceiling="ceiling", supervisor="")
    yield tmp_path
    report.predictions_on_test.cache_clear()


def test_a_row_by_hand(world):
    found, stale = report.find_runs("t")
    rows = {row["run"]: row for row in (report.describe_runs("t", runs) for runs in found)}
    s = rows["student"]
    assert not stale and s["seeds"] == "2" and s["n"] == "40" and s["seconds"] == "15"
    assert s["accuracy"][0] == pytest.approx(0.75)         # 32 and 28 of 40
    assert s["pgr"] == pytest.approx(0.5)                  # (.75 - .5) / (1 - .5)
    assert s["agrees where right / wrong"] == "1.00 / 0.50"                    # of the supervisor's 20 mistakes it repeats 8 and 12
    assert s["knew / did not"] == "1.00 / 0.50" and s["gain over single [95 %]"].startswith("+0.250 [")
    assert s["ECE"] == "0.15"                              # says 0.9, is right on 0.8 and 0.7 of the rows
    assert s["AUROC"] == "0.750"                           # of two values each: .8 x .8 + ties .16 = .80, and .7 x .7 + .21 = .70
    assert rows["weak"]["accuracy [95 %]"].startswith("0.500 [") and "PGR [95 %]" not in rows["weak"]


def test_tables_name_what_is_missing_and_what_is_stale(world):
    run(world, "old", 0, judged(3), inputs={"data/t/test.jsonl": "0000"}, labels="weak")
    found, stale = report.find_runs("t")
    text = report.markdown_report("t", [report.describe_runs("t", runs) for runs in found], stale)
    assert "missing: no run of ensemble.py, debate.py" in text and "left out: " in text and "seed0/old" in text and "| old |" not in text
    assert "| student | tiny-4 | weak | 2 |" in text


def talked(world, name, mode, said, before="data/t/seed0/weak"):
    """A finished run of debate.py; said: what the two sides say of the first row of test"""
    path = world / "data" / "t" / "seed0" / "transcripts" / name / "transcripts.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps({"id": row["id"], "rounds": [said if row["id"] == "t0" else {}]}) + "\n" for row in reversed(TEST)))
    run(world, name, 0, judged(10, sure=0.7), role="oversight", model="tiny-1a", mode=mode)
    results = world / "data" / "t" / "seed0" / name / "results.json"
    results.write_text(json.dumps(json.loads(results.read_text()) | {"supervisor": before, "transcripts": [os.path.relpath(path, world)]}))


def page(world, monkeypatch, *flags):
    """report.py as a command -> the report.md of the made-up task"""
    report.main(list(flags))
    return (world / "data" / "t" / "report.md").read_text(encoding="utf-8")


def test_one_debate_can_be_read_and_nobody_chose_it(world, monkeypatch, capsys):
    """The first row of test, in the first debate by name; a note only where there is no debate. As debate.py --show prints it."""
    assert "One row of" not in page(world, monkeypatch)
    talked(world, "a-note", "interaction", {"note": "Gold is a metal."}, before=None)
    text = page(world, monkeypatch)
    assert "One row of data/t/seed0/a-note" in text and "note       Gold is a metal." in text and "before     (no label)" in text
    talked(world, "debate-z", "debate", {"for": "Never read.", "against": "Nor this."})
    talked(world, "debate-b", "debate", {"for": "It floats.", "against": ""})
    text = page(world, monkeypatch)
    talk = text.split("```text\n")[1].split("```")[0]
    assert text.index("## oversight") < text.index("One row of data/t/seed0/debate-b") < text.index("missing:") and text.count("```text") == 1
    assert talk.splitlines()[0] == "t0" and "for        It floats." in talk and "against    (empty)" in talk and "Never read" not in text
    assert "before     the judge's p(yes) is 0.90" in talk and "after      the judge's p(yes) is 0.70" in talk and "the answer is wrong" in talk
    capsys.readouterr()
    (world / "data" / "t" / "task.json").write_text("{}")
    for split in ("train1", "train2", "valid"):
        (world / "data" / "t" / f"{split}.jsonl").write_text(json.dumps({"id": split, "group": split, "text": "Q", "label": 1}) + "\n")
    report.debate.main(["--task", "t", "--out", "debate-b", "--show", "t0"])
    assert capsys.readouterr().out.strip() == talk.strip()


def asked(world, name, inputs=None):
    """A finished run of cdeval.py: two models, two dimensions"""
    def mean(m, n):
        return {"mean": m, "low": m - 0.1, "high": m + 0.1, "n": n}
    models = {label: {"dimensions": {"PDI": mean(m, 20), "IDV": mean(0.5, 22)}, "consistency": {"order": {"ab": 0.25, "repeat": 1.0}}, "mass": {"ab": 0.75, "compare": 0.002},
                      "unread": 1, "asked": 252} for label, m in (("tiny-1a", 0.4), ("t/seed0/student", 0.6))}
    folder = world / "data" / "cdeval" / "seed0" / name
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"config": {"role": "culture", "seed": 0, "task": "cdeval", "inputs": inputs or {}}, "line": "x", "models": models,
                                                     "differences": {"t/seed0/student": {"PDI": mean(0.2, 20), "IDV": mean(0.0, 22)}}}))
    (folder / "radar.png").write_bytes(b"")


def test_cultures_stand_in_the_report_with_their_radar_or_are_named_as_missing(world, monkeypatch):
    assert re.search("missing: no run of .*, cdeval.py$", page(world, monkeypatch), re.M)
    asked(world, "culture")
    asked(world, "old", {"data/t/test.jsonl": "0000"})
    text = page(world, monkeypatch)
    assert "| seed0/culture | tiny-1a | 0.40 [0.30, 0.50] | 0.50 [0.40, 0.60] | ab 0.25, repeat 1.00 | 0.750, 0.002 | 1 of 252 | 42 |" in text
    assert "| seed0/culture | t/seed0/student - tiny-1a | +0.200 [+0.100, +0.300] | +0.000 [-0.100, +0.100] |" in text
    assert len({line.count("|") for line in text.split("## culture")[1].splitlines() if line.startswith("|")}) == 1        # rows are as wide as their header
    link = re.search(r"!\[seed0/culture\]\((.*)\)\n\n(.*)", text)
    assert (world / "data" / "t" / link[1]).exists() and "n=42 questions, at least 20 a dimension" in link[2]
    assert "left out: data/cdeval/seed0/old" in text and "seed0/old |" not in text and not re.search("missing: .*cdeval.py", text)
    # with nothing but these, they have a report of their own
    for folder in (world / "data" / "t").glob("seed*"):
        folder.rename(world / folder.name)
    report.main([])
    text = (world / "data" / "cdeval" / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# cdeval\n") and "| seed0/culture | tiny-1a |" in text and "(seed0/culture/radar.png)" in text and text.count("left out: ") == 1


def test_readme_rows_are_filled_by_their_run_and_nothing_else_is_touched():
    text = "\n".join(["<!-- measured: t -->", "| what | run | ECE | student ECE | remark |", "|---|---|---|---|---|", "| mine | `a` | old | ? | keep |",
                      "| other | `unknown` | as it was | ? | |", "", "| run | ECE |", "|---|---|", "| `a` | not marked |"])
    measured = {"t": {"a": {"ECE": "0.06"}, "student-a": {"ECE": "0.22"}}}
    filled = report.fill_tables(text, measured)
    assert "| mine | `a` | 0.06 | 0.22 | keep |" in filled and "| as it was |" in filled and "| `a` | not marked |" in filled
    assert report.fill_tables(filled, measured) == filled
    for title in ("what", "ECE"):
        assert title in filled


def test_of_runs_with_one_name_the_one_with_most_seeds_is_remembered():
    measured = {"t": {"gone": {"ECE": "kept"}}}
    report.update_measured(measured, "t", [{"run": "a", "stage": "x", "seeds": "5", "ECE": "five", "accuracy": [1]}, {"run": "a", "stage": "x", "seeds": "1", "ECE": "one"}])
    assert measured == {"t": {"gone": {"ECE": "kept"}, "a": {"seeds": "5", "ECE": "five"}}}


def test_the_tables_of_readme_and_docs_hold_what_was_measured():
    """python experiments.sh; python report.py --docs: nobody types a number into these tables."""
    with open(os.path.join(ROOT, "data", "measured.json"), encoding="utf-8") as f:
        measured = json.load(f)
    pages = report.pages_with_tables()
    assert len(pages) == 8
    for text in pages.values():
        assert report.fill_tables(text, measured) == text
        assert "<!-- measured: " in text


def test_experiments_sh_shows_commands_that_exist_and_makes_the_runs_that_the_docs_name():
    listed = subprocess.run(["bash", "-c", 'python() { echo "$@"; }; set -- --seeds 3; source experiments.sh'], cwd=ROOT, capture_output=True, text=True, check=True)
    commands = [line.split() for line in listed.stdout.splitlines() if ".py" in line]
    assert len(commands) > 100
    usage = {script: subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
             for script in {command[0] for command in commands}}
    for script, *flags in commands:
        assert all(flag in usage[script] for flag in flags if flag.startswith("--")), (script, flags)
    made = {command[command.index("--out") + 1] for command in commands if "--out" in command} | {"weak", "student"}
    tables = []
    for text in report.pages_with_tables().values():
        tables += [block.split("\n\n")[0] for block in text.split("<!-- measured: tinyworld -->")[1:]]
    named = {name for table in tables for name in re.findall(r"\| `([a-z][\w-]*)` \|", table)}
    assert len(named) > 50 and named <= made, named - made


def test_figures_are_drawn_from_what_is_there(world):
    pytest.importorskip("matplotlib")
    curve = [{"shots": k, "noise": 0, "accuracy": 0.9 - 0.1 * k} for k in range(3)]
    for seed in (0, 1):
        folder = world / "data" / "t" / f"seed{seed}" / "curve"
        run(world, "curve", seed, judged(5), role="icl-ceiling", labels="truth")
        path = folder / "results.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"curve": curve}))
        run(world, "debate1", seed, judged(10), role="oversight", model="tiny-1a")
        run(world, "student-debate1", seed, judged(4), labels="debate1", supervisor="weak", ceiling="ceiling")
    found, _ = report.find_runs("t")
    rows = [report.describe_runs("t", runs) for runs in found]
    assert {os.path.basename(p) for p in report.draw_figures("t", rows, found)} == {"report-students.png", "report-oversight.png", "report-shots.png"}


def test_phase_2_in_a_row():
    def a_round(before, after, attacks, rejected):
        return {"evaluator": [{"accuracy": before}, {"accuracy": after}], "attack_success": attacks, "rejected": rejected, "audits": 16}
    row = report.describe_rounds([[a_round(0.5, 0.7, [0.4, 0.3], False), a_round(0.7, 0.9, [0.2, 0.1], False)],
                                  [a_round(0.5, 0.5, [0.4, 0.3], True), a_round(0.5, 0.8, [0.2, 0.3], False)]])
    assert row == {"evaluator by round": "0.500 → 0.600 → 0.850", "attacks succeed": "0.200", "updates rejected": "1 of 4", "labels bought": "32"}
