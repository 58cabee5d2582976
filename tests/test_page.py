"""
page.py and page.html: what the page holds, against a world by hand; then the page in a real browser.

python -m pytest tests/test_page.py          # 3 s, and 10 s more with  pip install playwright  and Chromium
"""
import doctest
import json
import os
import re
import shutil

import numpy as np
import pytest

import page
import report
from test_report import TEST, build_world, json_lines, judged, run, talked, update

HOSTILE = "</script><script>document.title = 'owned'</script><!-- <b>bold</b> & \u2028 \u202e end"
FIELDS = ["animals", "plants <i>", "units"]
ROWS = [{**row, "text": f"Q: number {i}? A: {'green ' * (i % 3)}", "field": FIELDS[i % 3]}
        for i, row in enumerate(TEST)]
ROWS[9]["text"] = HOSTILE
NAME = "student-<img src=x onerror=alert(1)>"


def test_students_of_another_supervisor_are_not_set_against_the_gap_of_weak():
    def row(run, stage="train_strong.py", **config):
        return {"run": run, "stage": stage, "config": config, "accuracy": (0.8, 0.7, 0.9), "pgr": 0.5, "seeds": "1",
                "n": 10}
    rows = [row("weak", "train_weak.py"), row("student", labels="weak"), row("rule-student", labels="rule"),
            row("student-crowd", labels="crowd", supervisor="weak")]
    for name, evaluator in (("align", "weak,crowd"), ("align-coin", "data/tinyworld-coin/seed0/weak")):
        rows.append(row(name, "auto_align.py", role="align", ladder="tiny-4", evaluator=evaluator, audit=1))

    def shown(rows):
        return {dot["run"] for group in page.students(rows, [])["groups"] for dot in group["dots"]}
    assert shown(rows) == {"student", "student-crowd", "align"}
    assert shown(rows[2:3]) == {"rule-student"}            # with no run `weak`, all


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(page).failed == 0


def write_rows(world, name, rows):
    (world / "data" / "t" / name).write_text(json_lines(rows), encoding="utf-8")


def a_round(student, before, after):
    return {"student": student, "rows": 8, "attacks": 2, "audits": 2, "rejected": before > after,
            "attack_success": [0.5, 0.25], "guard_accuracy": [0.5, None], "untrained": {"accuracy": 0.5},
            "evaluator": [{"accuracy": before}, {"accuracy": after}], "learner_test": {"accuracy": after}}


def fill(world):
    """Runs of all stages, with texts that a page must not trust"""
    write_rows(world, "test.jsonl", ROWS)
    write_rows(world, "train1.jsonl", [])
    write_rows(world, "train2.jsonl", [{"id": "b0", "group": "b", "text": HOSTILE}])
    points = [{"step": step, "of": 8, "agrees_with_labels": 0.6, "agrees_with_truth": 0.8} for step in (0, 1, 2, 8)]
    talked(world, "debate1", "debate", {"for": HOSTILE + "\n| a | fake |\n|---|---|\n", "against": "It floats."})
    update(world / "data" / "t" / "seed0" / "debate1" / "results.json",
           order={"mean_change_of_p_yes": 0.125, "verdicts_changed": 0.25, "p_yes": {"t0": [0.625, 0.75]}})
    for seed in (0, 1):
        seed_folder = world / "data" / "t" / f"seed{seed}"
        update(seed_folder / "student" / "results.json", curve=points)
        run(world, NAME, seed, judged(4), labels="weak", loss="logconf", ceiling="ceiling", supervisor="weak")
        run(world, "models", seed, judged(16), role="ensemble", by="models", members=3)
        run(world, "icl", seed, judged(12), role="icl-student", labels="weak")
        run(world, "align", seed, judged(6), role="align", evaluator="weak", ladder="tiny-2,tiny-4", ceiling="ceiling")
        accuracies = [{"test": {"accuracy": 0.5 + 0.1 * k}} for k in range(3)]
        update(seed_folder / "models" / "results.json", curve=accuracies, supervisors=["a", "b", "c"])
        update(seed_folder / "icl" / "results.json", curve=[{"shots": k, "noise": 0, "accuracy": 0.6} for k in (0, 4)])
        rounds = [a_round("tiny-2", 0.5, 0.7), a_round("tiny-4", 0.7, 0.6)]
        update(seed_folder / "align" / "results.json", rounds=rounds, rounds_folder="rounds", supervisor="weak")
        for k in (1, 2):
            folder = seed_folder / "align" / "rounds" / f"round-{k}"
            folder.mkdir(parents=True)
            (folder / "audits.jsonl").write_text(json_lines([{"id": "b0", "use": "guard", "label": 1}]))


def read_page(world, task="t"):
    """report.html -> (its text, its data)"""
    text = (world / "data" / task / "report.html").read_text(encoding="utf-8")
    return text, json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


@pytest.fixture
def world(tmp_path, monkeypatch):
    return build_world(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """One page with everything. No test changes it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        world = build_world(tmp_path_factory.mktemp("page"), monkeypatch)
        fill(world)
        report.main(["--html"])
    return world


def test_the_data_of_a_page_by_hand(full):
    text, data = read_page(full)
    assert len(text) < 100_000
    models = {model["role"]: model for model in data["story"]["models"]}
    assert {role: model["mean"] for role, model in models.items()} == {
        "supervisor": 0.5, "student": 0.75, "phase 2": 0.85, "ceiling": 1.0}
    assert data["story"]["pgr"].startswith("0.50 [") and data["missing"] == {} and data["sections"] == page.SECTIONS
    assert set(data["charts"]) == {"elicitation", "students", "ensembles", "oversight", "shots", "rounds"}
    groups = {group["name"]: [dot["name"] for dot in group["dots"]] for group in data["charts"]["students"]["groups"]}
    assert groups == {"naive": ["naive student"], "losses": ["confidence loss"],
                      "phase 2": ["2 rounds, tiny-2 to tiny-4"]}
    evaluator = data["charts"]["rounds"]["lines"][0]
    assert evaluator["x"] == [0, 1, 2] and evaluator["mean"] == [0.5, 0.7, 0.6]
    assert evaluator["name"] == "evaluator, 2 seeds"
    reading = data["reading"]
    assert reading["seed"] == 0 and [row[0] for row in reading["rows"][:2]] == [row["text"] for row in ROWS[:2]]
    p_of = {model["run"]: model["p"] for model in reading["models"]}
    assert p_of["weak"][:4] == page.pack(np.array(judged(20)[:2])) and len(p_of["weak"]) == 80
    supervisor = next(model for model in data["calibration"] if model["run"] == "weak")
    assert supervisor["bins"] == [[0.9, 0.5, 80]] and supervisor["ece"] == pytest.approx(0.4)
    debate = data["debates"][0]
    assert debate["rows"][0]["rounds"][0]["against"] == "It floats." and debate["order"]["verdicts_changed"] == 0.25
    assert (debate["rows"][0]["before"], debate["rows"][0]["after"]) == (0.9, 0.7)
    assert debate["rows"][0]["orders"] == [0.625, 0.75] and debate["rows"][1]["orders"] is None
    audits = data["audits"][0]["audits"]["rows"]
    assert [row[0] for row in audits] == ["1", "2"] and audits[0][1].startswith("</script>")
    assert [row[7] for row in data["audits"][0]["rounds"]["rows"]] == ["accepted", "rejected"]
    tables = {table["title"]: table for table in data["tables"]}
    assert len(tables) == len(data["tables"]) == 6
    assert [row[0] for row in tables["students and their ceiling: train_strong.py"]["rows"]] == [
        "student", NAME, "ceiling"]


def test_texts_of_files_stay_texts(full):
    text, data = read_page(full)
    assert text.count("</script>") == 2 and text.count("<script") == 2       # the template's own
    assert "<!--" not in text and "<img" not in text
    assert not re.search("[\u2028\u2029\u202a-\u202e]", text)
    assert data["reading"]["rows"][9][0] == HOSTILE.replace("\u202e", "\\u202e")
    assert "innerHTML" not in text and "http" not in text.replace("http://www.w3.org/2000/svg", "").replace(
        "http-equiv", "")


def test_a_page_says_what_is_missing_and_how_to_make_it(world):
    for name in ("student", "ceiling"):
        for seed in (0, 1):
            shutil.rmtree(world / "data" / "t" / f"seed{seed}" / name)
    report.main(["--html"])
    _, data = read_page(world)
    ceiling = "python train_strong.py --labels truth --out ceiling --task t"
    assert data["missing"]["students"] == ["no student with a ceiling yet", ceiling]
    assert data["missing"]["story"] == ["no ceiling yet", ceiling]
    assert data["missing"]["rounds"][1] == "python auto_align.py --evaluator weak --ceiling ceiling --task t"
    assert set(data["missing"]) == {"story", "students", "curves", "oversight", "debates", "ensembles", "shots",
                                    "rounds", "audits"}
    assert data["reading"]["roles"] == {"supervisor": "weak"} and data["story"]["models"][0]["role"] == "supervisor"
    # a run that labels a part of test does not take its place, and a stale run is named
    run(world, "old", 0, judged(4), inputs={"data/t/test.jsonl": "0000"})
    report.main(["--html"])
    assert any("data/t/seed0/old" in note for note in read_page(world)[1]["notes"])


def test_writers_have_texts_instead_of_labels(world):
    shutil.rmtree(world / "data" / "t" / "seed0")
    shutil.rmtree(world / "data" / "t" / "seed1")
    write_rows(world, "test.jsonl", ROWS)
    write_rows(world, "train1.jsonl", [{"id": "a", "group": "a", "text": "Q", "label": 1, "continuation": "x"}])
    run(world, "weak", 0, judged(0), role="writer")
    lines = [{"id": row["id"], "text": f"reply {i} {HOSTILE}"} for i, row in enumerate(TEST)]
    (world / "data" / "t" / "seed0" / "weak" / "labels.jsonl").write_text(json_lines(reversed(lines)))
    report.main(["--html"])
    _, data = read_page(world)
    assert data["sections"] == ["story", "reading", "tables"]
    assert data["missing"] == {"story": ["no texts yet", "python align_tasks.py --task t"]}
    assert data["reading"]["models"][0]["texts"][7].startswith("reply 7 </script>")


def test_a_long_test_set_is_cut_and_the_page_says_so(world, monkeypatch):
    write_rows(world, "test.jsonl", ROWS)
    monkeypatch.setattr(page, "MAX_TEXTS", 300)
    report.main(["--html"])
    reading = read_page(world)[1]["reading"]
    n = len(reading["rows"])
    assert 0 < n < reading["n"] == 40 and len(reading["models"][0]["p"]) == 2 * n


# --------------------------------------------------------------------------- in a browser

def find_browser(playwright):
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if shutil.which(name):
            return shutil.which(name)
    return playwright.chromium.executable_path


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="pip install playwright, for development only")
    with api.sync_playwright() as playwright:
        path = find_browser(playwright)
        if not os.path.exists(path):
            pytest.skip("no Chromium: playwright install chromium, or a package of your system")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, full):
    """Open the page from disk -> function (width, colour scheme) -> its tab; nothing may appear in the console."""
    printed = []

    def open_page(width=1280, scheme="light"):
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab.on("console", lambda message: printed.append(message.text))
        tab.on("pageerror", lambda error: printed.append(str(error)))
        tab.goto(f"file://{full}/data/t/report.html")
        return tab
    yield open_page
    assert printed == []


def labels_of(world, name):
    path = world / "data" / "t" / "seed0" / name / "labels.jsonl"
    return {row["id"]: row["soft_label"][1] for row in map(json.loads, path.read_text().splitlines())}


def test_a_filter_leaves_the_right_rows(opened, full):
    tab = opened()
    hits = {role: np.array([(labels_of(full, name)[row["id"]] > 0.5) == (row["label"] == 1) for row in ROWS])
            for role, name in (("supervisor", "weak"), ("student", "student"), ("ceiling", "ceiling"))}
    assert (~hits["supervisor"] & hits["student"]).sum() == 12
    assert tab.text_content("#count") == "12 of 40 rows"   # a page opens on what the student knows better
    for verdicts in (("right", "", ""), ("wrong", "wrong", ""), ("wrong", "right", "wrong"), ("", "wrong", "right")):
        expected = np.ones(40, bool)
        for role, verdict in zip(hits, verdicts):
            tab.select_option(f"#verdict-{role}", verdict)
            expected &= {"": True, "right": hits[role], "wrong": ~hits[role]}[verdict]
        assert tab.text_content("#count") == f"{expected.sum()} of 40 rows"
        shown = [item.text_content() for item in tab.query_selector_all("#rows .words")]
        texts = [page.plain(row["text"]) for row, keep in zip(ROWS, expected) if keep]
        assert shown == texts[:10]
    tab.click("text=Show all rows")
    tab.select_option("#field", label="plants <i>")
    tab.fill("#query", "GREEN green")
    expected = [row for row in ROWS if row["field"] == "plants <i>" and "green green" in row["text"]]
    assert tab.text_content("#count") == f"{len(expected)} of 40 rows"
    tab.fill("#query", "</script>")
    tab.select_option("#field", "")
    assert [item.text_content() for item in tab.query_selector_all("#rows .words")] == [page.plain(HOSTILE)]
    assert tab.title() == "t: weak-to-strong generalization" and not tab.query_selector_all("main img, main script")
    tab.close()


def test_tables_sort_with_the_keyboard(opened, full):
    tab = opened()
    table = tab.locator("#tables .wide", has_text=NAME).first
    columns = [text.strip() for text in table.locator("th").all_text_contents()]
    k = next(k for k, column in enumerate(columns) if column.startswith("accuracy"))

    def column():
        return [row.locator("td").nth(k).text_content() for row in table.locator("tbody tr").all()]
    before = column()
    assert len(before) == 3
    table.locator("th button").nth(k).focus()
    for direction in ("ascending", "descending"):
        tab.keyboard.press("Enter")
        assert table.locator("th").nth(k).get_attribute("aria-sort") == direction
        assert column() == sorted(before, key=lambda cell: float(cell.split()[0]), reverse=direction == "descending")
    tab.close()


BOXES = """() => {
  const found = [];
  const box = (node) => { const r = node.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
  const name = (node) => node.tagName + " " + node.textContent.trim().slice(0, 40);
  const common = (a, b, c, d) => Math.min(b, d) - Math.max(a, c);          // of two intervals
  const overlap = (p, q) => common(p[0], p[2], q[0], q[2]) > 1 && common(p[1], p[3], q[1], q[3]) > 2;
  for (const picture of document.querySelectorAll("figure svg")) {
    const [left, top, right, bottom] = box(picture), texts = [...picture.querySelectorAll("text")];
    for (const text of texts) {
      const [a, b, c, d] = box(text);
      if (a < left - 1 || b < top - 1 || c > right + 1 || d > bottom + 1) found.push("cut off: " + name(text));
    }
    texts.forEach((x, i) => texts.slice(i + 1).forEach((y) => {
      if (overlap(box(x), box(y))) found.push(`overlap: ${name(x)} / ${name(y)}`);
    }));
  }
  const scrolls = (node) => node.closest(".wide");
  for (const node of document.querySelectorAll("main *, header *, nav *")) {
    if (scrolls(node) && !node.matches(".wide")) continue;
    if (!node.getClientRects().length) continue;
    const [a, , c] = box(node);
    if (a < -1 || c > innerWidth + 1) found.push("outside: " + name(node));
    if (node.matches("p, h1, h2, h3, li, label, legend, button, figcaption, summary, .verdict, .verdict > *")
        && node.scrollWidth > node.clientWidth + 1 && node.clientWidth) found.push("clipped: " + name(node));
  }
  const parts = "select, input, button, h1, h2, h3, p, figure, .wide, .verdict > *, legend";
  const blocks = [...document.querySelectorAll(parts)]
    .filter((node) => node.getClientRects().length && !(scrolls(node) && !node.matches(".wide")));
  blocks.forEach((x, i) => blocks.slice(i + 1).forEach((y) => {
    if (!x.contains(y) && !y.contains(x) && overlap(box(x), box(y))) found.push(`overlap: ${name(x)} / ${name(y)}`);
  }));
  return found;
}"""


@pytest.mark.parametrize("width,scheme", [(360, "light"), (360, "dark"), (1280, "light"), (1280, "dark")])
def test_nothing_overlaps_or_is_cut_off(opened, width, scheme):
    tab = opened(width, scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.evaluate("document.querySelectorAll('details').forEach((node) => { node.open = true; })")
    found = tab.evaluate(BOXES)
    assert not found, found
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    tab.close()


def test_a_debate_and_its_verdicts_can_be_read(opened):
    tab = opened(360)
    text = tab.text_content("#oversight")
    assert "For speaks first" in text and "Against speaks first" in text and "</script>" in text
    assert "before0.90 yes ✗ wrong" in text and "after0.70 yes ✗ wrong" in text
    assert "judge0.63 yes" in text and "judge0.75 yes" in text and "changes p(yes) by 0.125" in text
    tab.click("text=next row")
    assert "number 1?" in tab.text_content("#oversight")
    tab.set_viewport_size({"width": 1280, "height": 900})      # charts are drawn again for the new width
    tab.wait_for_function("document.querySelector('#story svg').getBoundingClientRect().width > 500")
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not tab.is_visible("#nav")
    tab.close()


def test_curves_of_several_runs_share_one_axis():
    """A run with 0 and 4 flipped labels beside one with 0 to 4: both points for 4 are above the tick "4"."""
    def runs(name, values):
        results = {"config": {"labels": "truth"}, "curve": [{"noise": v, "accuracy": 0.9 - v / 10} for v in values]}
        return [(f"data/t/seed0/{name}", results)]
    chart = page.icl_curves([], [runs("few", [0, 4]), runs("all", [0, 1, 2, 3, 4])], "noise", "noise")
    assert chart["ticks"] == [[k, str(k)] for k in range(5)]
    assert {line["run"]: list(line["x"]) for line in chart["lines"]} == {"few": [0, 4], "all": [0, 1, 2, 3, 4]}
