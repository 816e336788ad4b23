"""Run things as a user does: new process, another folder, and nothing of the tester's MLflow."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import requests

ROOT = Path(__file__).resolve().parent.parent
# What a user's shell has, less what belongs to MLflow and to pytest.
ENV = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "PYTEST", "DAGSHUB"))}
ENV |= {"MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet"}
ENV["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{ENV['PATH']}"


def run(command, cwd, **env):
    """Run COMMAND in the folder CWD; return the finished process with its text."""
    return subprocess.run(
        command, cwd=cwd, env=ENV | env, capture_output=True, text=True, timeout=300
    )


def run_script(name, cwd, root=ROOT, **env):
    """Run src/NAME.py without arguments; return the finished process with its text."""
    return run([sys.executable, root / "src" / f"{name}.py"], cwd, **env)


def free_port():
    """A TCP port that nothing listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """`mlflow COMMAND` in FOLDER, on a free port unless it names one; ended with its workers."""

    def __init__(self, folder, *command, **env):
        line = " ".join(command)
        port = re.search(r"--port[ =](\d+)", line)
        if not port:
            command = [*command, "--port", str(free_port())]
        self.uri = f"http://127.0.0.1:{port[1] if port else command[-1]}"
        self.log = folder / "server.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                ["mlflow", *command],
                cwd=folder,
                env=ENV | env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                requests.get(f"{self.uri}/health", timeout=5).raise_for_status()
                return
            except requests.RequestException:
                time.sleep(0.5)
        self.stop()
        pytest.fail(f"mlflow {line} didn't get ready:\n{self.log.read_text()}")

    def stop(self):
        """End the server and its workers, which may outlive it."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
