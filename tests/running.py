"""Run things as a user does: another folder, and nothing of the tester's MLflow."""

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from forks import launchers
from services import ENV

ROOT = Path(__file__).resolve().parent.parent
HELPER_NAMES = ("centroid_model", "interrupts", "penguin_features", "tracking")
HELPERS = [ROOT / "src" / f"{name}.py" for name in HELPER_NAMES]
LESSONS = sorted(set((ROOT / "src").glob("*.py")) - set(HELPERS))
# Whether root runs the tests; Windows has none.
AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
# If tqdm is installed, and Optuna brings it, MLflow shows bars on stderr.
ENV["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
# What the processes of pytest-xdist have in common: the first process of pytest makes it.
SHARED = Path(os.environ.get("SHARED_BY_TESTS") or tempfile.mkdtemp(prefix="tests-"))
# What runs a script: a fork if the system has them, see forks.py.
PYTHON = SHARED / "python" if sys.platform == "linux" else sys.executable
if not os.environ.get("SHARED_BY_TESTS"):
    os.environ["SHARED_BY_TESTS"] = ENV["SHARED_BY_TESTS"] = str(SHARED)
    atexit.register(shutil.rmtree, SHARED)
    if sys.platform == "linux":
        launchers(SHARED, ENV)
ENV["PATH"] = f"{SHARED}{os.pathsep}{ENV['PATH']}"
# A shell that starts the tests in the background has Ctrl-C ignored, and so would what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def run(command, cwd, *, input=None, timeout=300, encoding=None, **env):
    """Run COMMAND in the folder CWD; return the finished process with its text."""
    return subprocess.run(
        command,
        cwd=cwd,
        env=ENV | env,
        input=input,
        timeout=timeout,
        capture_output=True,
        text=True,
        encoding=encoding,
    )


def at_once(*calls):
    """Make these calls, each without arguments, at the same time; return their results in order."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def run_script(name, cwd, *args, root=ROOT, python=PYTHON, **env):
    """Run src/NAME.py; return the finished process with its text."""
    return run([python, root / "src" / f"{name}.py", *args], cwd, **env)


def uri(folder):
    """The URI of the database mlflow.db in FOLDER."""
    return f"sqlite:///{folder}/mlflow.db"


def make_repo(folder):
    """Commit all that is in FOLDER, in a git repo of its own; equal files make the same commit."""
    dates = dict.fromkeys(["GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"], "2026-01-01T00:00:00Z")
    for command in [
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "m"],
    ]:
        subprocess.run(["git", *command], cwd=folder, check=True, env=os.environ | dates)


def clone_with_remote(folder, address):
    """Make FOLDER a git repo that holds src/, as if it were cloned from ADDRESS."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    make_repo(folder)
    subprocess.run(["git", "remote", "add", "origin", address], cwd=folder, check=True)


def tracked_files():
    """The files of this repo that git knows."""
    listed = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True)
    return [ROOT / name for name in listed.splitlines()]
