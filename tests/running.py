"""Run things as a user does: new process, another folder, and nothing of the tester's MLflow."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import requests
from forks import launchers

ROOT = Path(__file__).resolve().parent.parent
# What a user's shell has, less what belongs to MLflow, its stores and pytest.
OWN = ("MLFLOW", "PYTEST", "DAGSHUB", "AWS", "PG", "RCLONE")
ENV = {k: v for k, v in os.environ.items() if not k.startswith(OWN)}
ENV |= {"MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet"}
ENV["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{ENV['PATH']}"
# A search in one process: to start others takes longer than half of the search.
ENV["LOKY_MAX_CPU_COUNT"] = "1"
# What runs a script: a fork if the system has them, see forks.py.
PYTHON = sys.executable
if sys.platform == "linux":
    PYTHON = Path(launchers(ENV)) / "python"
    ENV["PATH"] = f"{PYTHON.parent}{os.pathsep}{ENV['PATH']}"

# For servers of which a test needs no more than runs: GenAI's jobs are eight processes more.
WITHOUT_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
LESSONS = sorted(path for path in (ROOT / "src").glob("*.py") if path.stem != "tracking")
# A shell that starts the tests in the background has Ctrl-C ignored, and so would what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def run(command, cwd, *, input=None, timeout=300, **env):
    """Run COMMAND in the folder CWD; return the finished process with its text."""
    return subprocess.run(
        command,
        cwd=cwd,
        env=ENV | env,
        input=input,
        timeout=timeout,
        capture_output=True,
        text=True,
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
    """Make FOLDER a git repo with one commit of all that is in it."""
    for command in [
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "m"],
    ]:
        subprocess.run(["git", *command], cwd=folder, check=True)


def clone_with_remote(folder, address):
    """Make FOLDER a git repo that holds src/, as if it were cloned from ADDRESS."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    make_repo(folder)
    subprocess.run(["git", "remote", "add", "origin", address], cwd=folder, check=True)


def free_port():
    """A TCP port that nothing listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Service:
    """COMMAND in FOLDER until it is stopped, with its workers; ready when its port answers."""

    def __init__(self, command, folder, port, *, path="", **env):
        self.uri = f"http://127.0.0.1:{port}"
        self.log = folder / f"{Path(command[0]).name}.log"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=ENV | env, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(OSError):  # requests' own errors too
                if path:
                    requests.get(self.uri + path, timeout=5).raise_for_status()
                else:
                    socket.create_connection(("127.0.0.1", port), 5).close()
                return
            time.sleep(0.5)
        self.stop()
        pytest.fail(f"{command} didn't get ready:\n{self.log.read_text()}")

    def stop(self, number=signal.SIGTERM):
        """End it and its workers, which may outlive it."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Server(Service):
    """`mlflow COMMAND` in FOLDER, on a free port unless it names one."""

    def __init__(self, folder, *command, **env):
        port = re.search(r"--port[ =](\d+)", " ".join(command))
        port = port[1] if port else str(free_port())
        if "--port" not in " ".join(command):
            command = [*command, "--port", port]
        super().__init__(["mlflow", *command], folder, port, path="/health", **env)
