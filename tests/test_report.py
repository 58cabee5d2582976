"""
report.py: numbers against a by-hand world, the tables of README.md and docs/ against what was measured.

python -m pytest tests/test_report.py        # 10 s, CPU, no network
"""
import doctest
import json
import os
import re
import shutil
import subprocess

import pytest

import data.measured
import report
import warm
from test_commands import ROOT

DRAW_FIGURES = report.draw_figures

TEST = [{"id": f"t{i}", "group": f"g{i // 2}", "text": "Q", "label": i % 2} for i in range(40)]


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(report).failed == doctest.testmod(data.measured).failed == 0


def test_no_line_of_a_text_ends_its_block():
    assert report.fenced_lines(["a", "```", "````text", "b"]) == ["`````text", "a", "```", "````text", "b", "`````"]
    assert report.fenced_lines(["a"]) == ["```text", "a", "```"]


def json_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def update(path, **values):
    """Change some values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def run(world, name, seed, p_yes, **config):
    """A finished run of the made-up task t."""
    folder = world / "data" / "t" / f"seed{seed}" / name
    folder.mkdir(parents=True)
    labels = [{"id": row["id"], "soft_label": [1 - p, p]} for row, p in zip(TEST, p_yes)]
    (folder / "labels.jsonl").write_text(json_lines(labels))
    config = {"role": "student", "model": "tiny-4", "max_rows": None, "task": "t", "seed": seed, "inputs": {}} | config
    (folder / "results.json").write_text(json.dumps({"config": config, "line": "x", "seconds": 10.0 * (seed + 1)}))


def judged(wrong, sure=0.9):
    """p(yes) of a judge that is wrong on the first `wrong` rows"""
    return [sure if (row["label"] == 1) != (i < wrong) else 1 - sure for i, row in enumerate(TEST)]


def build_world(tmp_path, monkeypatch):
    """The runs weak, ceiling and student of a made-up task t with two seeds -> the folder in ROOT's place"""
    import contract
    monkeypatch.setattr(report, "draw_figures", lambda task, charts: [])       # they have a test of their own
    for module in (report, contract, report.align_tasks, report.debate, report.page):
        monkeypatch.setattr(module, "ROOT", str(tmp_path))
    (tmp_path / "data" / "t").mkdir(parents=True)
    (tmp_path / "data" / "t" / "test.jsonl").write_text(json_lines(TEST))
    for seed in (0, 1):
        run(tmp_path, "weak", seed, judged(20), role="supervisor", model="tiny-1a")
        run(tmp_path, "ceiling", seed, judged(0), labels="truth", role="ceiling")
        run(tmp_path, "student", seed, judged(8 + 4 * seed), labels="weak", ceiling="ceiling", supervisor="")
    return tmp_path


@pytest.fixture
def world(tmp_path, monkeypatch):
    return build_world(tmp_path, monkeypatch)


def test_a_row_by_hand(world):
    found, stale = report.find_runs("t")
    rows = {row["run"]: row for row in (report.describe_runs("t", runs) for runs in found)}
    s = rows["student"]
    assert not stale and s["seeds"] == "2" and s["n"] == "40" and s["seconds"] == "15"
    assert s["accuracy"][0] == pytest.approx(0.75)         # 32 and 28 of 40
    assert s["pgr"] == pytest.approx(0.5)                  # (.75 - .5) / (1 - .5)
    assert s["agrees where right / wrong"] == "1.00 / 0.50"                    # repeats 8 and 12 of 20 mistakes
    assert s["knew / did not"] == "1.00 / 0.50" and s["gain over single [95 %]"].startswith("+0.250 [")
    assert s["ECE"] == "0.15"                              # says 0.9, is right on 0.8 and 0.7 of the rows
    # of two values each: .8 x .8 + ties .16 = .80, and .7 x .7 + .21 = .70
    assert s["AUROC"] == "0.750"
    assert rows["weak"]["accuracy [95 %]"].startswith("0.500 [") and "PGR [95 %]" not in rows["weak"]


def test_the_pgr_on_another_task_is_in_the_metric_of_its_classes(world):
    """8 no and 2 yes. A student with 7 and 2 of them recovers half of the gap by accuracy, 7/8 by balanced accuracy."""
    far = [{"id": f"f{i}", "group": f"f{i}", "text": "Q", "label": int(i > 7)} for i in range(10)]
    (world / "data" / "far").mkdir()
    (world / "data" / "far" / "test.jsonl").write_text(json_lines(far))
    for name, says_yes in (("weak", []), ("student", [0, 8, 9]), ("ceiling", [8, 9])):
        soft_labels = [[0.1, 0.9] if i in says_yes else [0.9, 0.1] for i in range(10)]
        for seed in (0, 1):
            with open(world / "data" / "t" / f"seed{seed}" / name / "labels.jsonl", "a") as f:
                f.write(json_lines({"id": row["id"], "soft_label": pair} for row, pair in zip(far, soft_labels)))
    [runs] = [runs for runs in report.find_runs("t")[0] if runs[0][0].endswith("student")]
    for metric, pgr in (("auto", "0.88 [0.62, 1.00] (balanced accuracy)"), ("accuracy", "0.50 [open]"),
                        ("auroc", "0.88 (AUROC)")):        # 7 of 8 pairs are in order, and the rest are ties
        for _, results in runs:
            results["config"] |= {"also": "far", "metric": metric}
        row = report.describe_runs("t", runs)
        assert row["PGR on far [95 %]"] == pgr
        assert row["on far [95 %]"].startswith("0.900 [") and row["accuracy"][0] == pytest.approx(0.75)
    (world / "data" / "t" / "ann").mkdir()                 # an annotator has seen no row of it
    weak = world / "data" / "t" / "seed0" / "weak" / "labels.jsonl"
    (world / "data" / "t" / "ann" / "labels.jsonl").write_text("".join(weak.read_text().splitlines(True)[:40]))
    for _, results in runs:
        results["config"] |= {"supervisor": "ann", "labels": "ann"}
    assert report.describe_runs("t", runs)["PGR on far [95 %]"] == "no labels"


def test_a_copy_of_a_seed_is_no_other_seed_and_edited_labels_are_named(world, capsys):
    """Faults: a backup of seed0 made every row one of three seeds; swapped labels were scored without a word."""
    shutil.copytree(world / "data" / "t" / "seed0", world / "data" / "t" / "seed0.bak")
    results = world / "data" / "t" / "seed1" / "student" / "results.json"
    update(results, outputs={"labels.jsonl": "0" * 16})
    found, _ = report.find_runs("t")
    assert {len(runs) for runs in found} == {2}
    printed = capsys.readouterr().out
    assert printed.count(" was made with --seed 0: a copy?") == 3
    assert "note: " in printed and "seed1/student/labels.jsonl was changed since its run ended" in printed


def test_a_method_helps_or_costs_only_where_its_paired_interval_is_clear_of_0(world):
    run(world, "student-good", 0, judged(0), labels="weak", ceiling="ceiling")
    run(world, "student-good", 1, judged(0), labels="weak", ceiling="ceiling")
    for seed in (0, 1):
        run(world, "student-alike", seed, judged(8 + 4 * seed, sure=0.7), labels="weak", ceiling="ceiling")
        run(world, "student-other", seed, judged(20 - 8 * seed), labels="weak", ceiling="ceiling")
    found, _ = report.find_runs("t")
    cells = {row["run"]: row.get("minus student [95 %]") for row in (report.describe_runs("t", runs) for runs in found)}
    assert cells["student"] is None and cells["ceiling"] is None and cells["weak"] is None
    assert cells["student-alike"] == "+0.000 [+0.000, +0.000]"
    assert cells["student-other"].startswith("-0.150 [") and cells["student-other"].endswith("]")
    assert cells["student-good"].startswith("+0.250 [") and cells["student-good"].endswith("]")    # two seeds are few
    for seed in range(2, 6):
        for name, p_yes in (("weak", judged(20)), ("student", judged(10)), ("ceiling", judged(0))):
            role = {"weak": "supervisor", "ceiling": "ceiling"}.get(name, "student")
            run(world, name, seed, p_yes, role=role, labels="weak", ceiling="ceiling" if role == "student" else "")
        run(world, "student-good", seed, judged(0), labels="weak", ceiling="ceiling")
    report.predictions_on_test.cache_clear()
    runs = [runs for runs in report.find_runs("t")[0] if runs[0][0].endswith("student-good")]
    assert report.describe_runs("t", runs[0])["minus student [95 %]"].endswith("] helps")


@pytest.mark.parametrize("of_weak,of_run", [(20, 30), (30, 20), (None, 20)])
def test_a_run_is_compared_only_with_a_run_on_the_same_rows(world, of_weak, of_run):
    """Fault: a baseline with a smaller --max-rows lacked labels, and no table of any run was written."""
    for seed in (0, 1):
        folder = world / "data" / "t" / f"seed{seed}" / "weak"
        found = json.loads((folder / "results.json").read_text())
        update(folder / "results.json", config=found["config"] | {"max_rows": of_weak})
        (folder / "labels.jsonl").write_text("".join((folder / "labels.jsonl").read_text().splitlines(True)[:of_weak]))
        run(world, "fewer", seed, judged(10), labels="truth", role="ceiling", max_rows=of_run)
    rows = {os.path.basename(runs[0][0]): report.describe_runs("t", runs) for runs in report.find_runs("t")[0]
            if not runs[0][0].endswith("student")}
    assert rows["fewer"]["n"] == str(of_run) and "gain over single [95 %]" not in rows["fewer"]
    assert ("gain over single [95 %]" in rows["ceiling"]) == (of_weak is None)


def test_rows_with_one_seed_say_so(world):
    assert "one seed" not in page(world)
    run(world, "once", 0, judged(3), labels="weak")
    assert "Rows with one seed: their intervals are about questions alone" in page(world)


def test_tables_name_what_is_missing_and_what_is_stale(world):
    run(world, "old", 0, judged(3), inputs={"data/t/test.jsonl": "0000"}, labels="weak")
    found, stale = report.find_runs("t")
    text = report.markdown_report("t", [report.describe_runs("t", runs) for runs in found], stale)
    assert "missing: no run of ensemble.py, debate.py" in text
    assert "left out: " in text and "seed0/old" in text and "| old |" not in text
    assert "| student | tiny-4 | weak | 2 |" in text


def test_rows_of_one_name_say_which_flags_differ(world):
    """Fault: seed 0 with one flag and seed 1 with another were two rows that looked alike."""
    run(world, "tuned", 0, judged(3), labels="weak", hard=True, epochs=2, shots=[2, 4])
    run(world, "tuned", 1, judged(5), labels="weak", hard=False, epochs=4, shots=[8])
    text = page(world)
    assert "| tuned (--hard, --epochs 2, --shots 2,4) | tiny-4 | weak | 1 | 0.925 [" in text
    assert "| tuned (no --hard, --epochs 4, --shots 8) | tiny-4 | weak | 1 | 0.875 [" in text
    assert "| student | tiny-4 | weak | 2 |" in text


def test_a_run_without_results_is_named(world, capsys):
    """It was killed, or somebody removed the file."""
    run(world, "cut", 0, judged(3), labels="weak")
    (world / "data" / "t" / "seed0" / "cut" / "checkpoint").mkdir(exist_ok=True)
    (world / "data" / "t" / "seed0" / "cut" / "results.json").unlink()
    report.report_task("t")
    printed = capsys.readouterr().out
    assert "missing: " in printed and "seed0/cut has no results.json" in printed and "seed0/weak has" not in printed


def test_a_second_report_in_one_process_sees_what_has_changed(world):
    """As a notebook calls it. Fingerprints and labels are remembered within one report, and no longer."""
    test = world / "data" / "t" / "test.jsonl"
    run(world, "fresh", 0, judged(3), labels="weak", inputs={"data/t/test.jsonl": report.fingerprint(str(test))})
    assert "| fresh | tiny-4 | weak | 1 | 0.925 [" in page(world)
    labels = world / "data" / "t" / "seed0" / "fresh" / "labels.jsonl"
    labels.write_bytes((world / "data" / "t" / "seed0" / "ceiling" / "labels.jsonl").read_bytes())
    assert "| fresh | tiny-4 | weak | 1 | 1.000 [" in page(world)
    test.write_text(json_lines(reversed(TEST)))
    assert "left out: data/t/seed0/fresh" in page(world)


def talked(world, name, mode, arguments, supervisor="data/t/seed0/weak"):
    """A finished run of debate.py. arguments: of the two sides, about the first row of test"""
    path = world / "data" / "t" / "seed0" / "transcripts" / name / "transcripts.jsonl"
    path.parent.mkdir(parents=True)
    rounds = {row["id"]: [arguments if row["id"] == "t0" else {}] for row in reversed(TEST)}
    path.write_text(json_lines({"id": row_id, "rounds": x} for row_id, x in rounds.items()))
    run(world, name, 0, judged(10, sure=0.7), role="oversight", model="tiny-1a", mode=mode)
    groups = {"yes if the note states the answer": {"n": 40, "correct": 0.8}} if "note" in arguments else {}
    update(world / "data" / "t" / "seed0" / name / "results.json",
           supervisor=supervisor, transcripts=[os.path.relpath(path, world)], by_transcript=groups)


def page(world):
    """report.py as a command -> the report.md of the made-up task"""
    report.main([])
    return (world / "data" / "t" / "report.md").read_text(encoding="utf-8")


def test_one_debate_can_be_read_and_nobody_chose_it(world, capsys):
    """The first row of test, in the first debate by name; a note only if there is no debate. As debate.py --show."""
    assert "One row of" not in page(world)
    talked(world, "a-note", "interaction", {"note": "Gold is a metal."}, supervisor=None)
    text = page(world)
    assert "| string match |" in text and re.search(r"\| a-note \|.*\| 0.800 \| 40 \|", text)
    assert "One row of data/t/seed0/a-note" in text
    assert "note       Gold is a metal." in text and "before     (no label)" in text
    talked(world, "debate-z", "debate", {"for": "Never read.", "against": "Nor this."})
    talked(world, "debate-b", "debate", {"for": "It floats.", "against": ""})
    text = page(world)
    shown = text.split("```text\n")[1].split("```")[0]
    assert text.index("## oversight") < text.index("One row of data/t/seed0/debate-b") < text.index("missing:")
    assert text.count("```text") == 1 and "Never read" not in text
    assert shown.splitlines()[0] == "t0" and "for        It floats." in shown and "against    (empty)" in shown
    assert "before     the judge's p(yes) is 0.90" in shown and "after      the judge's p(yes) is 0.70" in shown
    assert "the answer is wrong" in shown
    capsys.readouterr()
    (world / "data" / "t" / "task.json").write_text("{}")
    for split in ("train1", "train2", "valid"):
        row = {"id": split, "group": split, "text": "Q", "label": 1}
        (world / "data" / "t" / f"{split}.jsonl").write_text(json_lines([row]))
    report.debate.main(["--task", "t", "--out", "debate-b", "--show", "t0"])
    assert capsys.readouterr().out.strip() == shown.strip()


def asked(world, name, inputs=None):
    """A finished run of cdeval.py: two models, two dimensions"""
    def mean(m, n):
        return {"mean": m, "low": m - 0.1, "high": m + 0.1, "n": n}
    models = {}
    for label, m in (("tiny-1a", 0.4), ("t/seed0/student", 0.6)):
        models[label] = {"dimensions": {"PDI": mean(m, 20), "IDV": mean(0.5, 22)},
                         "consistency": {"order": {"ab": 0.25, "repeat": 1.0}}, "mass": {"ab": 0.75, "compare": 0.002},
                         "unread": 1, "asked": 252}
    folder = world / "data" / "cdeval" / "seed0" / name
    folder.mkdir(parents=True)
    config = {"role": "culture", "seed": 0, "task": "cdeval", "inputs": inputs or {}}
    differences = {"t/seed0/student": {"PDI": mean(0.2, 20), "IDV": mean(0.0, 22)}}
    results = {"config": config, "line": "x", "models": models, "differences": differences}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "radar.png").write_bytes(b"")


def test_cultures_stand_in_the_report_with_their_radar_or_are_named_as_missing(world):
    assert re.search("missing: no run of .*, cdeval.py$", page(world), re.M)
    asked(world, "culture")
    asked(world, "old", {"data/t/test.jsonl": "0000"})
    text = page(world)
    assert ("| seed0/culture | tiny-1a | 0.40 [0.30, 0.50] | 0.50 [0.40, 0.60] | ab 0.25, repeat 1.00 | 0.750, 0.002 "
            "| 1 of 252 | 42 |") in text
    assert ("| seed0/culture | t/seed0/student - tiny-1a | +0.200 [+0.100, +0.300] | +0.000 [-0.100, +0.100] "
            "|") in text
    table = [line for line in text.split("## culture")[1].splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1   # rows are as wide as their header
    link = re.search(r"!\[seed0/culture\]\((.*)\)\n\n(.*)", text)
    assert (world / "data" / "t" / link[1]).exists() and "n=42 questions, at least 20 a dimension" in link[2]
    assert "left out: data/cdeval/seed0/old" in text and "seed0/old |" not in text
    assert not re.search("missing: .*cdeval.py", text)
    # with nothing but these, they have a report of their own
    for folder in (world / "data" / "t").glob("seed*"):
        folder.rename(world / folder.name)
    report.main([])
    text = (world / "data" / "cdeval" / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# cdeval\n") and "| seed0/culture | tiny-1a |" in text
    assert "(seed0/culture/radar.png)" in text and text.count("left out: ") == 1


def test_readme_rows_are_filled_by_their_run_and_nothing_else_is_touched():
    text = "\n".join(["<!-- measured: t -->",
                      "| what | run | ECE | student ECE | remark |", "|---|---|---|---|---|",
                      "| mine | `a` | old | ? | keep |", "| other | `unknown` | as it was | 0.1 | |", "",
                      "| run | ECE |", "|---|---|", "| `a` | not marked |"])
    measured = {"t": {"a": {"ECE": "0.06"}, "student-a": {"ECE": "0.22"}}}
    filled = data.measured.fill_tables(text, measured)
    assert "| mine | `a` | 0.06 | 0.22 | keep |" in filled
    assert "| other | `unknown` |  |  |  |" in filled and "| `a` | not marked |" in filled       # no old number stays
    assert "as it was" in data.measured.fill_tables(text, {"another task": {}})
    assert data.measured.fill_tables(filled, measured) == filled
    for title in ("what", "ECE"):
        assert title in filled


def test_of_runs_with_one_name_the_one_with_most_seeds_is_remembered():
    measured = {"t": {"gone": {"ECE": "kept"}}}
    rows = [{"run": "a", "stage": "x", "seeds": "5", "ECE": "five", "accuracy": [1]},
            {"run": "a", "stage": "x", "seeds": "1", "ECE": "one"}]
    data.measured.update_measured(measured, "t", rows, {})
    assert measured == {"t": {"gone": {"ECE": "kept"}, "a": {"seeds": "5", "ECE": "five"}}}
    # the same for a table of align_tasks.py, whose columns stand beside the others
    data.measured.update_measured(measured, "t", [], {"a": {"seeds": "1", "balanced": "one"}})
    assert measured["t"]["a"] == {"seeds": "5", "ECE": "five"}
    data.measured.update_measured(measured, "t", [], {"a": {"seeds": "6", "balanced": "six"}})
    assert measured["t"]["a"] == {"seeds": "6", "ECE": "five", "balanced": "six"}
    # and for cdeval.py's runs and those of data/sciq/released.py
    data.measured.add_texts(measured["t"], {"a": {"seeds": "2", "ECE": "two"}, "b": {"seeds": "1", "ECE": "new"}})
    assert measured["t"]["a"]["ECE"] == "five" and measured["t"]["b"] == {"seeds": "1", "ECE": "new"}


def test_the_tables_of_readme_and_docs_hold_what_was_measured():
    """python experiments.sh; python report.py --docs: nobody types a number into these tables."""
    with open(os.path.join(ROOT, "data", "measured.json"), encoding="utf-8") as f:
        measured = json.load(f)
    pages = data.measured.pages_with_tables()
    assert len(pages) > 8
    for text in pages.values():
        assert data.measured.fill_tables(text, measured) == text
        assert "<!-- measured: " in text


def test_experiments_sh_shows_commands_that_exist_and_makes_the_runs_that_the_docs_name():
    def printed(*command):
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    dry = ["bash", "experiments.sh", "--dry-run", "--seeds"]
    listed = printed(*dry, "0") + printed("env", "MODELS=.", "ROWS=.", *dry, "0", "--chapters", "real")
    commands = [line.removeprefix("$ python ").split() for line in listed.splitlines()]
    assert len(commands) > 100
    usage = {script: warm.run(ROOT, script, "--help").stdout for script in {command[0] for command in commands}}
    for script, *flags in commands:
        assert all(flag in usage[script] for flag in flags if flag.startswith("--")), (script, flags)
    few = printed(*dry, "3")
    assert 15 < few.count(".py") < 50                      # seeds 3 and 4 make only what README.md shows
    made = {"weak", "student"}
    for command in commands:
        if "--out" in command:
            made.add(command[command.index("--out") + 1])
    tables = []
    for text in data.measured.pages_with_tables().values():
        tables += [block.split("\n\n")[0] for block in text.split("<!-- measured: tinyworld -->")[1:]]
    named = {name for table in tables for name in re.findall(r"\| `([a-z][\w-]*)` \|", table)}
    assert len(named) > 50 and named <= made, named - made


def test_figures_are_drawn_from_what_is_there(world):
    pytest.importorskip("matplotlib")
    curve = [{"shots": k, "noise": 0, "accuracy": 0.9 - 0.1 * k} for k in range(3)]
    for seed in (0, 1):
        run(world, "curve", seed, judged(5), role="icl-ceiling", labels="truth")
        update(world / "data" / "t" / f"seed{seed}" / "curve" / "results.json", curve=curve)
        run(world, "debate1", seed, judged(10), role="oversight", model="tiny-1a")
        run(world, "student-debate1", seed, judged(4), labels="debate1", supervisor="weak", ceiling="ceiling")
        points = [{"step": 2 ** k, "of": 8, "agrees_with_labels": 0.6, "agrees_with_truth": 0.8} for k in range(4)]
        update(world / "data" / "t" / f"seed{seed}" / "student" / "results.json", curve=points)
    found, _ = report.find_runs("t")
    rows = [report.describe_runs("t", runs) for runs in found]
    charts = report.page.draw_charts(rows, found)
    names = {os.path.basename(path) for path in DRAW_FIGURES("t", charts)}
    assert names == {"report-elicitation.png", "report-students.png", "report-oversight.png", "report-shots.png"}


def test_phase_2_in_a_row():
    def a_round(before, after, attacks, rejected):
        return {"evaluator": [{"accuracy": before}, {"accuracy": after}], "attack_success": attacks,
                "rejected": rejected, "audits": 16, "untrained": {"accuracy": after - 0.1}}
    row = report.describe_rounds([
        [a_round(0.5, 0.7, [0.4, 0.3], False), a_round(0.7, 0.9, [0.2, 0.1], False)],
        [a_round(0.5, 0.5, [0.4, 0.3], True), a_round(0.5, 0.8, [0.2, 0.3], False)]])
    assert row == {"evaluator by round": "0.500 → 0.600 → 0.850", "untrained by round": "0.500 → 0.750",
                   "attacks succeed": "0.200", "updates rejected": "1 of 4", "labels bought": "32"}


def test_long_names_do_not_take_the_place_of_the_axis():
    """Fault: beside names of 70 characters all dots of a figure stood within an inch."""
    pytest.importorskip("matplotlib")
    dots = [{"name": "a" * 90, "seeds": 3, "marks": [{"kind": "student", "mean": 0.7, "low": 0.6, "high": 0.8}]}]
    figure = report.draw_dots({"groups": [{"name": "g", "dots": dots}], "kinds": ["student"], "levels": [], "bars": "b",
                               "title": "t", "xlabel": "x"})
    figure.draw_without_rendering()
    assert figure.axes[0].get_position().width * figure.get_size_inches()[0] > 2


def test_seeds_of_other_code_are_named_and_a_stage_with_stale_runs_alone_is_not_missing(world, capsys):
    text, note = "", "note: weak: seeds 0, 1 were made by different versions of train_weak.py"
    for code in ("old", "new"):                            # world's runs have the same code, none
        for seed, its in ((0, "new"), (1, code)):
            path = world / "data" / "t" / f"seed{seed}" / "weak" / "results.json"
            config = json.loads(path.read_text())["config"]
            update(path, config=config | {"code": {"train_weak.py": its}})
        report.main(["--task", "t"])
        text = capsys.readouterr().out
        assert (note in text) == (code == "old") and "icl.py" in text.split("missing:")[1]
    run(world, "icl", 0, judged(8), role="icl-student", inputs={"data/t/test.jsonl": "another"})
    report.main(["--task", "t"])
    text = capsys.readouterr().out
    assert "left out: data/t/seed0/icl" in text and "icl.py" not in text.split("missing:")[1].split("\n")[0]


def test_what_has_no_labels_to_compare_with_never_stops_a_report(world, capsys):
    """A writer called weak; rounds of an earlier version, which wrote down all ceilings and not the one they used."""
    for seed in (0, 1):
        (world / "data" / "t" / f"seed{seed}" / "student" / "results.json").unlink()       # it has learnt from weak
        path = world / "data" / "t" / f"seed{seed}" / "weak"
        rows = [{"id": row["id"], "prompt": "a", "continuation": "b"} for row in TEST]
        (path / "labels.jsonl").write_text(json_lines(rows))
        results = json.loads((path / "results.json").read_text())
        update(path / "results.json", config=results["config"] | {"role": "writer"})
    run(world, "lone", 0, judged(10), labels="truth", ceiling="ceiling-2,ceiling")
    report.main(["--task", "t"])
    assert "| lone | tiny-4 | truth | 1 | 0.750 [" in capsys.readouterr().out


@pytest.mark.parametrize("judge,model", [("prompted", "tiny-1a"), ("human", "human")])
def test_a_judge_that_is_not_trained_learns_from_nothing(world, judge, model, capsys):
    run(world, "judge", 0, judged(10), role="oversight", model="tiny-1a", judge=judge)
    report.main(["--task", "t"])
    assert f"| judge | {model} | nothing | 1 |" in capsys.readouterr().out
