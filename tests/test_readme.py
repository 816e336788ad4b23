"""What the pages promise besides their blocks, which conftest.py collects and documents.py runs."""

import re

import pytest
from running import LESSONS, ROOT

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Blocks that aren't run on the page, by page: each gives its reason in the page.
LEFT_OUT = {
    "README.md": 5,
    "benchmarks.md": 8,
    "older-tutorials.md": 5,
    "team-server.md": 9,
    "troubleshooting.md": 2,
}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def anchors(page):
    """The anchors that GitHub gives the page's headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}


@each_page
def test_every_block_is_of_a_kind_that_is_run(page):
    fences = re.findall(r"^ *```(.*)$", page.read_text(), re.MULTILINE)
    assert set(fences[::2]) <= {"bash", "python", "text"}
    assert set(fences[1::2]) <= {""}


@each_page
def test_blocks_left_out_are_counted_and_give_a_reason(page):
    markers = re.findall(r"<!--.*\bskip\b.*", page.read_text())
    assert len(markers) == LEFT_OUT.get(page.name, 0)
    for marker in markers:
        assert re.fullmatch(r'<!-- skip: next "\w.{10,}" -->', marker), marker


@each_page
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", page.read_text()):
        file = page.parent / target if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), anchor


def test_set_up_commands_are_there_once():
    commands = re.findall(r"^```bash\n(python3 -m venv .*)\n```$", README, re.MULTILINE)
    assert [command.split()[-1] for command in commands] == ["src/hypertune2.py", "pytest"]


def test_every_lesson_is_run_and_stands_in_the_table():
    rows = re.findall(r"^\| \[`src/(\w+)\.py`\]\(#[\w-]+\)", README, re.MULTILINE)
    names = {path.stem for path in LESSONS}
    assert set(rows) == names
    assert set(re.findall(r"^python src/(\w+)\.py$", README, re.MULTILINE)) == names
