"""
The course: its notebooks are what the chapters and the scripts make, solutions pass their graders, blanks fail them.

python -m pytest tests/test_course.py             # 25 s of CPU time
W2SG_COURSE=all python -m pytest tests/test_course.py     # executes every notebook: minutes
"""
import glob
import importlib.util
import json
import os
import re
import shutil

import pytest

import warm
from conftest import ROOT

COURSE = os.path.join(ROOT, "course")
SPEC = importlib.util.spec_from_file_location("course_build", os.path.join(COURSE, "build.py"))
build = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(build)
NAMES = build.chapters()
SHORT = ["01_supervisor"]                                  # executed in every run of the suite


@pytest.fixture(scope="module")
def notebooks():
    found = {}
    for name in NAMES:
        with open(os.path.join(COURSE, name + ".ipynb"), encoding="utf-8") as f:
            found[name] = json.load(f)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_what_its_chapter_and_the_scripts_make(name):
    """If this fails after an edit of a script or a chapter:  python course/build.py"""
    assert not build.differences(name)


@pytest.mark.parametrize("name", NAMES)
def test_report_docs_finds_the_same_accuracies_in_a_chapter_and_in_its_notebook(name):
    """report.py --docs fills them in both files as text, so that afterwards they still agree."""
    quoted = [re.findall(r"`[\w-]+` 0\.\d{3}", build.read_text(os.path.join(COURSE, *path)))
              for path in (("chapters", name + ".md"), (name + ".ipynb",))]
    assert quoted[0] == quoted[1]


def test_nine_chapters_have_all_their_parts(notebooks):
    assert [name[:2] for name in NAMES] == [f"0{k}" for k in range(1, 10)]
    for name, notebook in notebooks.items():
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        text = "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
        assert all(word in text for word in ("question of this chapter", "By hand", "To discuss", "Colab", "Hint 1",
                                             "Predict, then run", "Difficulty", "minutes")), name
        assert 2 <= sum("NotImplementedError" in "".join(cell["source"]) for cell in code) <= 3, name
        outputs = [output for cell in code for output in cell["outputs"]]
        assert not outputs or any("image/png" in output.get("data", {}) for output in outputs), name
        assert not any(output["output_type"] == "error" for output in outputs), name


def test_the_course_is_small_and_says_nothing_about_the_machine_that_ran_it(notebooks):
    sizes = [os.path.getsize(os.path.join(COURSE, name + ".ipynb")) for name in NAMES]
    assert sum(sizes) < 1_500_000
    for name, notebook in notebooks.items():
        text = json.dumps([cell.get("outputs") for cell in notebook["cells"]])
        text = re.sub(r'"image/png": "[^"]*"', "", text)
        assert not re.search(r"/(tmp|home|root|usr|work)/|it/s|stderr", text), name


def test_links_of_the_course_lead_to_files():
    pages = [os.path.join(COURSE, "README.md"), *glob.glob(os.path.join(COURSE, "*.ipynb"))]
    for page in pages:
        with open(page, encoding="utf-8") as f:
            text = f.read()
        if page.endswith(".ipynb"):
            cells = json.loads(text)["cells"]
            text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        for link in re.findall(r"\]\(([^)#:\s]+)[^)]*\)", re.sub(r"```.*?```", "", text, flags=re.S)):
            assert os.path.exists(os.path.join(COURSE, link)), (os.path.basename(page), link)


GRADE_ALL = '''
import contextlib, glob, json, os, sys
sys.path[:0] = [os.path.join("ROOT", "course"), "ROOT"]
import lesson


def results(pattern):
    """All functions of these files take their places at once -> {function: {test: what went wrong}}"""
    graded = {}
    with contextlib.ExitStack() as stack:
        for path in sorted(glob.glob(os.path.join("ROOT", "course", pattern))):
            names, tests = lesson.functions_and_checks(path)
            graded |= tests
            for name, ids in tests.items():
                stack.enter_context(lesson.replaced(lesson.script_of(name, ids), names[name]))
        found = lesson.run_tests(sorted({test for ids in graded.values() for test in ids}))
    wrong = {}
    for test, message in found:
        test = test.split("[")[0]
        wrong[test] = wrong.get(test, "") + message
    return {name: {test: wrong[test.split("::")[1].split("[")[0]] for test in ids} for name, ids in graded.items()}


print(json.dumps([results(os.path.join("solutions", "*.py")), results("*.ipynb")]))
'''


def test_every_solution_passes_its_grader_and_every_blank_fails_it(tmp_path):
    """All functions of a kind in one run of pytest: one by one, as in a notebook, it takes three times as long."""
    (tmp_path / "grade_all.py").write_text(GRADE_ALL.replace("ROOT", ROOT))
    done = warm.run(tmp_path, "grade_all.py")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    solutions, blanks = json.loads(done.stdout.splitlines()[-1])
    n = sum(len(build.split_chapter(build.read_chapter(name)[1])[1]) for name in NAMES)
    assert len(solutions) == len(blanks) == n >= 18
    for name, wrong in solutions.items():
        assert not any(wrong.values()), (name, wrong)
    for name, wrong in blanks.items():
        assert all("NotImplementedError" in message for message in wrong.values()), (name, wrong)


WRONG = '''
from lesson import grade


def pgr(supervisor, student, ceiling):
    return (student - supervisor) / max(ceiling - supervisor, 1e-9)


def soft_xent(logits, soft_labels):
    return -(soft_labels * logits.log_softmax(-1)).mean(-1)


grade(pgr, "test_metrics::test_pitfall_24_no_pgr_without_a_gap_and_the_reason_is_said")
grade(soft_xent, "test_train_weak::test_soft_xent_of_equal_scores_is_log_2_whatever_the_label")
'''


def test_a_wrong_function_is_told_what_is_wrong_and_a_broken_cell_is_named(tmp_path):
    path = tmp_path / "handed-in.py"
    path.write_text(WRONG)
    done = warm.run(ROOT, os.path.join("course", "lesson.py"), path)
    assert "0 of 2 functions pass" in done.stdout, done.stdout + done.stderr
    assert "FAILED  its worked example" in done.stdout and "FAILED  soft xent of equal scores" in done.stdout
    path.write_text("def :\n")
    assert "Python cannot read it" in warm.run(ROOT, os.path.join("course", "lesson.py"), path).stdout


RUN_CELLS = '''
import json, os, sys
os.chdir("course")                                         # where Jupyter starts a kernel
with open(sys.argv[1] + ".ipynb", encoding="utf-8") as f:
    cells = json.load(f)["cells"]
names = {"__name__": "__main__"}
for cell in cells:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), sys.argv[1], "exec"), names)
'''


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_from_its_first_cell_to_its_last(name, course_house):
    """In plain Python; with a kernel, as Jupyter does it:  python course/build.py --run"""
    if name not in SHORT and os.environ.get("W2SG_COURSE") != "all":
        pytest.skip("W2SG_COURSE=all executes all notebooks")
    done = warm.run(course_house, "-c", RUN_CELLS, name, before="import matplotlib; matplotlib.use('Agg')")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.fixture(scope="module")
def course_house(tmp_path_factory):
    """A copy of the repository without runs, as after git clone: the notebooks write into data/ and course/."""
    folder = str(tmp_path_factory.mktemp("course") / "copy")
    ignore = shutil.ignore_patterns(".git", "seed*", "__pycache__", ".pytest_cache", ".ruff_cache", "report-*", "*-raw")
    shutil.copytree(ROOT, folder, ignore=ignore)
    return folder
