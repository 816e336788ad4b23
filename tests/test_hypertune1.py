import os
import subprocess
import sys

import pytest
from running import ENV, ROOT, run_script


def test_prints_the_best_and_leaves_nothing_behind(tmp_path):
    result = run_script("hypertune1", tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "best parameters: {'max_depth': 8, 'n_estimators': 128}",
        "cross-validation accuracy: 0.9626",
        "test accuracy: 0.9649",
        "Next: python src/hypertune2.py",
    ]
    assert not list(tmp_path.iterdir())


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
