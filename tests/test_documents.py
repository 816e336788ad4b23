"""The executor of the pages must see what is stale, broken or left out, and be able to mend it."""

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


@pytest.fixture
def page(tmp_path):
    """A small repo whose README is PAGE, and a way to run that page."""
    for name in "src", "benchmarks", "server", "tests":
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
