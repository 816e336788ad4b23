"""The tables and code blocks of a page in docs/, for the tests that hold the page to the truth."""

import json
import re
import sys

from running import ROOT, run


def text_of(page):
    """The text of a guide or a reference page, by its name."""
    folders = [ROOT / "docs" / "guides", ROOT / "docs" / "reference"]
    (path,) = [folder / page for folder in folders if (folder / page).exists()]
    return path.read_text()


def tables(page):
    """{heading: rows} of PAGE, a row a list of its cells, less head and marks of surprise."""
    found = {}
    for part in re.split(r"^## ", text_of(page), flags=re.MULTILINE):
        # Cells are `code` and words: none holds a bar.
        lines = [line for line in part.splitlines() if line.startswith("|")]
        if lines:
            cells = [line[1:-1].split(" |") for line in lines[2:]]
            table = [[cell.strip().removesuffix(" **(!)**") for cell in row] for row in cells]
            found[part.splitlines()[0]] = table
    return found


def rows(page):
    """All rows of PAGE by their first cell."""
    listed = [row for table in tables(page).values() for row in table]
    named = {first: others for first, *others in listed}
    assert len(named) == len(listed), "two rows with the same first cell"
    return named


def codes(cell):
    """All inline codes of CELL; two backticks around one that holds a backtick."""
    return [text for _, text in re.findall(r"(?<!`)(`+)(?!`) ?(.+?) ?(?<!`)\1(?!`)", cell)]


def code(cell):
    """The first inline code of CELL."""
    return codes(cell)[0]


def blocks(page, kind, heading=""):
    """The fenced blocks of PAGE of one kind, such as python; of the section HEADING only."""
    text = text_of(page)
    text = text[text.index(heading) :]
    text = text.split("\n## ")[0] if heading else text
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.M | re.S)


def results(script, folder, **options):
    """Run tests/SCRIPT in FOLDER; return the JSON that it prints."""
    options["PYTHONPATH"] = str(ROOT / "benchmarks")  # for tests/running.py
    done = run([sys.executable, ROOT / "tests" / script], folder, timeout=600, **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
