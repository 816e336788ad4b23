"""What the pages promise besides their blocks, which conftest.py collects and documents.py runs."""

import re

import pytest
from documents import EXERCISE, pages
from running import LESSONS, ROOT

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Blocks that aren't run on the page, by page: each gives its reason in the page.
LEFT_OUT = {
    "CONTRIBUTING.md": 6,
    "README.md": 3,
    "docs/reference/benchmarks.md": 10,
    "docs/guides/aws.md": 7,
    "docs/guides/interrupts.md": 1,
    "docs/lessons/check_server.md": 1,
    "docs/lessons/dagshub_run.md": 2,
    "docs/lessons/hypertune3.md": 1,
    "docs/lessons/hypertune_optuna.md": 1,
    "docs/guides/notebooks.md": 1,
    "docs/guides/server-operations.md": 1,
    "docs/reference/older-tutorials.md": 5,
    "docs/guides/team-server.md": 13,
    "docs/reference/troubleshooting.md": 5,
}
COMMENTS = [
    r'<!-- skip: next "\w.{10,}" -->',
    r"<!-- exits: \d+ -->",
    r"<!-- after: \w+(?: \w+)* -->",
    r"<!-- invisible-code-block: bash",
]
LINK = re.compile(r"\]\(([\w./-]*)(?:#([\w-]+))?\)")


def name(page):
    """The page's path in the repo."""
    return page.relative_to(ROOT).as_posix()


def lesson_page(script):
    """The page of the lesson."""
    return ROOT / "docs" / "lessons" / f"{script.stem}.md"


def linked(page):
    """The files that the page links to."""
    return {(page.parent / target).resolve() for target, _ in LINK.findall(page.read_text())}


each_page = pytest.mark.parametrize("page", PAGES, ids=name)
each_lesson = pytest.mark.parametrize("script", LESSONS, ids=lambda script: script.stem)


def anchors(page):
    """The anchors that GitHub gives the page's headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}


@each_page
def test_every_block_is_of_a_kind_that_is_run_or_for_powershell(page):
    assert pages.should_parse(page)
    fences = re.findall(r"^ *```(.*)$", page.read_text(), re.MULTILINE)
    assert set(fences[::2]) <= {"bash", "python", "text", "diff", "powershell"}
    assert set(fences[1::2]) <= {""}


@each_page
def test_comments_are_understood_and_blocks_left_out_are_counted_and_give_a_reason(page):
    comments = re.findall(r"<!--.*", page.read_text())
    assert sum("skip" in comment for comment in comments) == LEFT_OUT.get(name(page), 0)
    for comment in comments:
        assert any(re.fullmatch(form, comment) for form in COMMENTS), comment


def test_every_page_with_blocks_left_out_exists():
    assert set(LEFT_OUT) <= {name(page) for page in PAGES}


@each_page
def test_links_lead_somewhere(page):
    for target, anchor in LINK.findall(page.read_text()):
        file = page.parent / target if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), anchor


def test_the_readme_links_to_every_page():
    assert {page for page in PAGES if page != README} <= linked(README)


def test_the_front_door_stays_short():
    assert len(README.read_text().splitlines()) <= 220


def test_set_up_commands_are_there_once():
    commands = re.findall(r"^```bash\n(python3 -m venv .*)\n```$", README.read_text(), re.MULTILINE)
    assert [command.split()[-1] for command in commands] == ["src/hypertune2.py", "pytest"]


def test_set_up_commands_for_powershell_are_the_same_steps():
    bash, powershell = (
        re.findall(rf"^```{kind}\n(.*-m venv .*)\n```$", README.read_text(), re.MULTILINE)
        for kind in ("bash", "powershell")
    )
    words = [("python3 ", "py -3 "), (".venv/bin/", ".venv\\Scripts\\"), (" src/", " src\\")]
    words += [(" && ", "; "), ("\\pip ", "\\python -m pip ")]
    for command, expected in zip(powershell, bash, strict=True):
        for of_bash, of_powershell in words:
            expected = expected.replace(of_bash, of_powershell)
        assert command == expected


@each_lesson
def test_every_lesson_is_run_on_its_page(script):
    blocks = re.findall(
        r"(<!-- skip[^\n]*\n)?^```bash\n(.*?)^```$",
        lesson_page(script).read_text(),
        re.MULTILINE | re.DOTALL,
    )
    left_out = [skip for skip, block in blocks if f"python src/{script.name}" in block.splitlines()]
    assert left_out
    # DagsHub's wants an account there, so tests/test_dagshub_run.py runs it.
    assert any(left_out) == (script.stem == "dagshub_run")


@each_lesson
def test_every_lesson_has_an_exercise_whose_answer_is_folded_and_run(script):
    _, exercise = EXERCISE.split(lesson_page(script).read_text())
    question, answer = re.fullmatch(
        r"\n\n(?:<!-- after: .+ -->\n\n)?([^<]+)\n\n"
        r"<details>\n<summary>Answer</summary>\n\n((?s:.+))\n\n</details>\n\n.+\n",
        exercise,
    ).groups()
    assert "?" in question and "```" not in question
    # It shows what a block printed that was run.
    assert "\n```text\n" in answer and "skip" not in answer


def test_lessons_stand_in_the_table_in_their_order_and_each_leads_to_the_next():
    row = r"^\| \[(.+)\]\(docs/lessons/(\w+)\.md\) \| \[`(\w+)`\]\(src/(\w+)\.py\) \| \w.+ \|$"
    rows = re.findall(row, README.read_text(), re.MULTILINE)
    assert sorted(stem for _, stem, _, _ in rows) == [script.stem for script in LESSONS]
    assert {page.stem for page in PAGES if page.parent.name == "lessons"} == {
        script.stem for script in LESSONS
    }
    last = "That was the last lesson. [All lessons](../../README.md#lessons)"
    ends = [*(f"Next: [{title}]({stem}.md)" for title, stem, _, _ in rows[1:]), last]
    for number, ((title, *stems), end) in enumerate(zip(rows, ends, strict=True), 1):
        lines = (ROOT / "docs" / "lessons" / f"{stems[0]}.md").read_text().splitlines()
        assert title.startswith(f"{number}. ") and f"# {title}" in lines[:3]
        assert len(set(stems)) == 1
        assert lines[-1] == end
