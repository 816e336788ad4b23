import os
import subprocess
import sys

import pytest
from lessons import copy_with_grid
from running import ENV, PYTHON, ROOT, run


def test_prints_the_best_and_leaves_nothing_behind(tmp_path):
    """README.md shows what it prints with the lesson's own grid, and is run."""
    script = copy_with_grid(tmp_path, "hypertune1", {"n_estimators": [2], "max_depth": [2]})
    result = run([PYTHON, script], tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "best parameters: {'max_depth': 2, 'n_estimators': 2}"
    for line, name in zip(
        lines[1:3], ("cross-validation accuracy: ", "test accuracy: "), strict=True
    ):
        assert 0.8 < float(line.removeprefix(name)) < 1
    assert lines[3:] == ["Next: python src/hypertune2.py"]
    assert [each.name for each in tmp_path.iterdir()] == ["src"]


@pytest.mark.ci
def test_a_terminal_shows_the_progress_bar(tmp_path):
    """The one use of scikit-learn's callbacks and of rich, which no piped run reaches."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, ROOT / "src" / "hypertune1.py"],
        cwd=tmp_path,
        env=ENV | {"TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:
            pass  # Linux's way to say that the other end is closed
    os.close(ours)
    assert process.returncode == 0, shown.decode()
    assert b"100%" in shown and b"best parameters: " in shown
