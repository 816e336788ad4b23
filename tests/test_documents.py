"""The executor of the pages must see what is stale, broken or left out, and be able to mend it."""

import re
import shutil
import sys

import pytest
from running import ROOT, run

pytestmark = pytest.mark.ci
PAGE = """
```bash
echo "run 0123456789abcdef0123456789abcdef"
```

```text
run fedcba9876543210fedcba9876543210
```

<!-- exits: 3 -->
```bash
echo first; echo second; exit 3
```

```text
...
second
```

```python
print(open("src/hypertune1.py").readline().strip())
```

<!-- invisible-code-block: bash
touch made-by-the-page
-->

```bash
ls made-by-the-page; echo 127.0.0.1:5000
```

```text
made-by-the-page
127.0.0.1:5000
```
"""

EXERCISE = """
## Exercise

Which seed is it now?

<details>
<summary>Answer</summary>

```diff
--- src/hypertune1.py
 
-SEED = 42
+SEED = 43
+CHANGED = True
 MODEL = RandomForestClassifier(random_state=SEED)
```

```bash
grep -A1 ^SEED src/*1.py; ls made-by-the-page 2>/dev/null || echo a new copy
```

```text
SEED = 43
CHANGED = True
a new copy
```

</details>
"""


@pytest.fixture
def page(tmp_path):
    """A small repo whose README is PAGE, and a way to run that page."""
    for name in "src", "data", "benchmarks", "server", "tests":
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in "conftest.py", "pyproject.toml", "requirements.txt":
        shutil.copy(ROOT / name, tmp_path / name)

    def run_page(text, *options):
        (tmp_path / "README.md").write_text(text)
        command = [sys.executable, "-m", "pytest", "-q", "-n0", "README.md", *options]
        result = run(command, tmp_path)
        return result.stdout, (tmp_path / "README.md").read_text()

    return run_page


def test_a_true_page_passes_and_stays_as_it_is(page):
    output, after = page(PAGE, "--refresh")
    assert "10 passed" in output, output
    assert after == PAGE


@pytest.mark.parametrize(
    ("shown", "stale", "tells"),
    [
        ("\nsecond\n", "\nthird\n", "second"),
        ("...\nsecond\n", "second\n", "first"),
        ("<!-- exits: 3 -->\n", "", "exit code 3"),
        ("exits: 3", "exits: 4", "exit code 3"),
        ("127.0.0.1:5000\n```\n", "127.0.0.1:5001\n```\n", "127.0.0.1:5000"),
        ("src/hypertune1.py", "src/missing.py", "FileNotFoundError"),
        ("run fedcba", "job fedcba", "run 0123456789"),
    ],
)
def test_a_wrong_page_fails_and_tells(page, shown, stale, tells):
    assert PAGE.count(shown) >= 1
    output, _ = page(PAGE[::-1].replace(shown[::-1], stale[::-1], 1)[::-1])
    assert "1 failed" in output, output
    assert tells in output


def test_refresh_writes_what_was_printed(page):
    stale = PAGE.replace("...\nsecond", "...\nthird").replace("made-by-the-page\n127", "gone\n127")
    _, after = page(stale, "--refresh")
    assert after == PAGE


def test_blocks_for_powershell_are_left_alone(page):
    output, after = page(PAGE.replace("\n```text", "\n```powershell\nexit 1\n```\n\n```text", 1))
    assert "10 passed" in output, output
    assert "powershell" in after


def test_skipped_blocks_are_reported(page):
    output, _ = page('<!-- skip: next "not here" -->\n```bash\nexit 1\n```\n')
    assert "not here" in output and "2 passed, 1 skipped" in output


@pytest.mark.parametrize(
    ("marker", "passed"), [("not ci", "10 passed, 4 "), ("ci", "4 passed, 10 ")]
)
def test_an_exercise_is_run_by_ci_in_a_copy_of_its_own(page, marker, passed):
    output, after = page(PAGE + EXERCISE, "-m", marker, "--refresh")
    assert passed in output, output
    assert after == PAGE + EXERCISE


def test_refresh_writes_what_an_exercise_printed(page):
    text = PAGE + EXERCISE
    stale = text.replace("```text\nSEED = 43", "```text\nSEED").replace("...\nsecond", "...\nthird")
    output, after = page(stale, "-m", "", "--refresh")
    assert "14 passed" in output, output
    assert after == text


def test_a_diff_that_does_not_fit_fails_and_tells_the_line(page):
    diff = EXERCISE.split("```")[1]
    wrong = [  # what fits, what stands there instead, what the failure tells
        ("-SEED = 42\n", "-SEED = 41\n", "hypertune1.py has these lines 0 times:\n\nSEED = 41\n"),
        (" MODEL = ", " OTHER = ", "hypertune1.py has these lines 0 times:\n\nSEED = 42\nOTHER = "),
        (" MODEL = ", " ODEL = ", "hypertune1.py has these lines 0 times:\n\nSEED = 42\nODEL = "),
        ("-SEED = 42\n", "", "hypertune1.py has these lines 0 times:\n\nMODEL = "),
        ("--- src/hypertune1.py\n", "", "/src/README.py'"),
        ("/hypertune1.py\n", "/hypertune2.py\n", "hypertune2.py has these lines 0 times:\n\nSEED"),
        (diff, "diff\n--- src/tracking.py\n+import os\n", "tracking.py has these lines"),
    ]
    text = ""
    for fits, other, _ in wrong:
        assert diff.count(fits) == 1
        text += f"```{diff.replace(fits, other)}```\n"
    output, _ = page(text)
    assert f"{len(wrong)} failed, 1 passed" in output, output
    ends = [output.index(tells) for *_, tells in wrong]
    assert ends == sorted(ends)
    starts = [str(n) for n, line in enumerate(text.splitlines(), 1) if line == "```diff"]
    assert re.findall(r"^_+ README.md line=(\d+) column=1 _+$", output, re.M) == starts
