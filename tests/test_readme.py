"""The README is run: every bash block in reading order in one copy of the repo, and what the page
shows of a script's output or code is compared with the script's own."""

import re
import shutil
import subprocess
import textwrap

import pytest
from conftest import ENV, ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SCRIPTS = {path: path.read_text() for path in (ROOT / "src").glob("*.py")}
# Run elsewhere: both set-up commands by .ci/run, the server by test_hypertune2.py.
ELSEWHERE = ("python3 -m venv ", ".venv/bin/mlflow ui --port 5000")


def normalised(text):
    """TEXT without what differs from run to run: run IDs and the folder of a database."""
    return re.sub(r"sqlite:///\S*", "sqlite:///DB", re.sub(r"\b[0-9a-f]{32}\b", "ID", text))


def test_every_block_is_of_a_kind_that_is_checked():
    assert {kind for kind, _ in BLOCKS} == {"bash", "python", "text"}
    assert len(BLOCKS) == README.count("\n```") // 2


@pytest.mark.parametrize("code", [text for kind, text in BLOCKS if kind == "python"])
def test_quoted_code_stands_in_a_script(code):
    forms = [code, textwrap.indent(code, "    ")]
    assert any(form in script for form in forms for script in SCRIPTS.values())


def test_commands_run_and_print_what_is_shown(tmp_path):
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    printed, shown, ran = "", 0, set()
    # The first command of the page has made the database when the lessons begin.
    blocks = [("bash", "python src/hypertune2.py\n"), *BLOCKS]
    for kind, text in blocks:
        if kind == "bash" and not text.startswith(ELSEWHERE):
            result = subprocess.run(
                ["bash", "-ec", text],
                cwd=tmp_path,
                env=ENV,
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert result.returncode == 0, text + result.stderr
            printed = normalised(result.stdout)
            ran |= set(re.findall(r"src/\w+\.py", text))
        elif kind == "text":
            assert normalised(text) in printed, printed
            shown += 1
    lessons = {f"src/{path.name}" for path in SCRIPTS} - {"src/tracking.py"}
    assert ran == lessons
    assert shown == len(lessons) + 1
    assert (tmp_path / "another.db").exists()


def test_set_up_commands_are_there_once():
    commands = [text for kind, text in BLOCKS if text.startswith("python3 -m venv ")]
    assert [text.split()[-1] for text in commands] == ["src/hypertune2.py", "pytest"]
    assert [text.count("\n") for text in commands] == [1, 1]


def test_table_names_every_lesson_and_links_to_its_section():
    rows = re.findall(r"^\| \[`src/(\w+)\.py`\]\(#([\w-]+)\)", README, re.MULTILINE)
    assert {name for name, _ in rows} == {path.stem for path in SCRIPTS} - {"tracking"}
    headings = re.findall(r"^## (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}
    assert {anchor for _, anchor in rows} <= anchors


def test_links_to_files_lead_somewhere():
    for target in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (ROOT / target).exists(), target
