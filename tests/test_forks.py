"""A script that runs as a fork does what it does in a new process: streams, ends, and the store."""

import os
import signal
import subprocess
import sys
import time

import pytest
from documents import normalised
from filled import copy_before, repo_with, run_lesson
from running import ENV, PYTHON, run, uri
from stores import contents

pytestmark = [
    pytest.mark.ci,
    pytest.mark.skipif(sys.platform != "linux", reason="scripts are forks on Linux only"),
]


# test_cells.py compares every lesson in a kernel, which is a fork too.
@pytest.mark.parametrize("name", ["autolog", "hypertune3", "score_model"])
def test_a_lesson_leaves_the_same_store_and_prints_the_same(name, tmp_path):
    new, *printed = repo_with(name)
    copy_before(tmp_path, name)
    fork = run_lesson(tmp_path, name, PYTHON)
    assert fork.returncode == 0
    for text, by_new in zip((fork.stdout, fork.stderr), printed, strict=True):
        text, by_new = text.replace(str(tmp_path), ""), by_new.replace(str(new), "")
        assert normalised(text) == normalised(by_new)
    assert contents(uri(tmp_path)) == contents(uri(new))


@pytest.mark.parametrize(
    "code",
    [
        "import sys; print(sys.argv, sys.path[:1], sys.stdin.read(), __name__, flush=True)",
        "import os, sys; print(os.getcwd(), os.environ['GIVEN'], file=sys.stderr)",
        "import atexit; atexit.register(print, 'the end'); 1 / 0",
        "import sys; sys.exit('a sentence')",
        "import sys; sys.exit(7)",
        "raise KeyboardInterrupt",
        "import os; os.kill(os.getpid(), 9)",
        "import os; os.kill(os.getpid(), 15)",
        "import sys; print(sys.stdout.isatty(), sys.stdout.encoding, 'é')",
        "import threading; threading.Timer(0.2, print, ['later']).start()",
    ],
)
@pytest.mark.parametrize("how", ["-c", "file"])
def test_code_ends_in_the_same_way(code, how, tmp_path):
    (tmp_path / "code.py").write_text(code, encoding="utf-8")
    args = ["-c", code] if how == "-c" else ["code.py"]
    ended = []
    for python in PYTHON, sys.executable:
        result = run([python, *args, "one", "two words"], tmp_path, input="typed", GIVEN="given")
        ended.append((result.returncode, result.stdout, result.stderr))
    assert ended[0] == ended[1]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_signal_to_the_command_ends_the_fork(name, tmp_path):
    number = getattr(signal, name)  # here, because Windows has no SIGKILL
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with subprocess.Popen(
        [PYTHON, "-c", code], cwd=tmp_path, env=ENV, stdout=-1, stderr=subprocess.DEVNULL
    ) as process:
        fork = int(process.stdout.readline())
        process.send_signal(number)
        assert process.wait(30) == -number
        assert process.stdout.read() == b""  # its end is closed: the fork is gone
    deadline = time.monotonic() + 30
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:  # until its own parent has seen its end
            os.kill(fork, 0)


@pytest.mark.parametrize(
    ("args", "env"),
    [
        (["-X", "utf8", "-c", "import sys; print('mlflow' in sys.modules)"], {}),
        (["-c", "import sys; print('mlflow' in sys.modules)"], {"PYTHONHASHSEED": "1"}),
        (["-c", "import sys; print('mlflow' in sys.modules)"], {"MLFLOW_DISABLE_TELEMETRY": ""}),
    ],
)
def test_what_counts_when_python_starts_needs_a_new_process(args, env, tmp_path):
    assert run([PYTHON, *args], tmp_path, **env).stdout == "False\n"
    assert run([PYTHON, *args[-2:]], tmp_path).stdout == "True\n"
