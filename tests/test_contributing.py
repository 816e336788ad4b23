"""CONTRIBUTING.md, followed in a copy of the repo: a lesson is changed, and one is added."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from running import ENV, ROOT, make_repo, run, tracked_files

pytestmark = pytest.mark.ci
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
SCRIPT = '''"""Log a depth.

What you learn: how a lesson is added.

    python src/my_lesson.py
"""

# %% Run
import mlflow

from tracking import connect

connect()
experiment_id = mlflow.set_experiment("my-lesson").experiment_id
with mlflow.start_run(experiment_id=experiment_id) as run:
    mlflow.log_param("depth", 2)
print(f'Run "{run.info.run_name}", ID {run.info.run_id}')
print("Next: python src/basic_run.py")
'''
LESSON = """# 19. Log a depth

```bash
python src/my_lesson.py
```

```text
...
Next: python src/basic_run.py
```

## Exercise

Log another depth. What does the run hold? Guess first.

<details>
<summary>Answer</summary>

```diff
-    mlflow.log_param("depth", 2)
+    mlflow.log_param("depth", 3)
```

```bash
python src/my_lesson.py
```

```python
import mlflow

print(mlflow.search_runs(experiment_names=["my-lesson"])["params.depth"][0])
```

```text
3
```

</details>

That was the last lesson. [All lessons](../../README.md#lessons)
"""
ROW = (
    "| [19. Log a depth](docs/lessons/my_lesson.md) | [`my_lesson`](src/my_lesson.py) | a depth |\n"
)


@pytest.fixture
def repo(tmp_path):
    """A copy of the repo with one commit."""
    for path in tracked_files():
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    make_repo(tmp_path)
    return tmp_path


def command(words):
    """The page's command that contains WORDS, in an environment that is active."""
    (found,) = re.findall(rf"^ *(python -m pytest.*{re.escape(words)}.*)$", PAGE, re.MULTILINE)
    return found


def shell(repo, command):
    # A pytest of its own, with its own forks, and with the environment's commands first.
    path = f"{Path(sys.executable).parent}{os.pathsep}{ENV['PATH']}"
    return run(["bash", "-c", command], repo, PATH=path, SHARED_BY_TESTS="")


def edit(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1, f"{path.name} has {old!r} {text.count(old)} times"
    path.write_text(text.replace(old, new))


def test_a_changed_lesson_is_proven_and_its_page_refreshed(repo):
    edit(repo / "src/basic_run.py", '"Next: python src/autolog.py"', '"Next: autolog.py"')
    stale = shell(repo, command("tests/test_basic_run.py docs/lessons/basic_run.md"))
    assert stale.returncode == 1, stale.stdout + stale.stderr
    assert "1 failed" in stale.stdout and "Next: autolog.py" in stale.stdout

    refreshed = shell(repo, command('docs/lessons/basic_run.md -m "" --refresh'))
    assert refreshed.returncode == 0, refreshed.stdout + refreshed.stderr
    changes = re.findall(r"^[+-] ?(?!--|\+\+)(.*)$", refreshed.stdout, re.MULTILINE)
    assert [line for line in changes if not re.search("[0-9a-f]{32}", line)] == [
        "Next: python src/autolog.py",
        "Next: autolog.py",
    ]


def test_an_added_lesson_needs_its_three_files(repo):
    (repo / "src/my_lesson.py").write_text(SCRIPT)
    checks = "python -m pytest -n0 -q tests/test_readme.py tests/test_repo.py"
    assert shell(repo, checks).returncode == 1
    (repo / "docs/lessons/my_lesson.md").write_text(LESSON)
    (test,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (repo / "tests/test_my_lesson.py").write_text(test)
    last = "| [18. A search that survives]"
    readme = (repo / "README.md").read_text()
    end = readme.index("\n", readme.index(last)) + 1
    (repo / "README.md").write_text(readme[:end] + ROW + readme[end:])
    edit(
        repo / "docs/lessons/hypertune3.md",
        "That was the last lesson. [All lessons](../../README.md#lessons)",
        "Next: [19. Log a depth](my_lesson.md)",
    )
    done = shell(repo, f"{checks} tests/test_my_lesson.py docs/lessons/my_lesson.md")
    assert done.returncode == 0, done.stdout
