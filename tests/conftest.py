"""Stores to run the lessons on, and the way a user runs them: new process, another folder."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from functools import cached_property
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient

ROOT = Path(__file__).resolve().parent.parent
# What a user's shell has, less what belongs to MLflow and to pytest.
ENV = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "PYTEST", "DAGSHUB"))}
ENV |= {"MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet"}
ENV["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{ENV['PATH']}"
os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"


def run_script(name, cwd, root=ROOT, **env):
    """Run src/NAME.py without arguments; return the finished process with its text."""
    command = [sys.executable, root / "src" / f"{name}.py"]
    return subprocess.run(
        command, cwd=cwd, env=ENV | env, capture_output=True, text=True, timeout=300
    )


def free_port():
    """A TCP port that nothing listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """`mlflow COMMAND` in FOLDER on a free port, ended with all its workers."""

    def __init__(self, folder, *command):
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        self.log = folder / "server.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                ["mlflow", *command, "--port", str(port)],
                cwd=folder,
                env=ENV,
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
        pytest.fail(f"mlflow {command[0]} didn't get ready:\n{self.log.read_text()}")

    def stop(self):
        """End the server and its workers."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Store:
    """A tracking store in which each lesson runs at most once."""

    def __init__(self, uri, folder):
        self.uri = uri
        self.folder = folder
        self.done = {}

    @cached_property
    def client(self):
        """A client that asks the store what it holds."""
        return MlflowClient(self.uri, registry_uri=self.uri)

    def run(self, name):
        """Run the lesson once, quietly and with success; return what it printed."""
        if name not in self.done:
            result = run_script(name, self.folder, MLFLOW_TRACKING_URI=self.uri)
            assert result.returncode == 0, result.stdout + result.stderr
            # register_model() reports on stderr; nothing else may print there.
            reports = re.compile("(Successfully registered model|Created version) '.*\n")
            assert not reports.sub("", result.stderr), result.stderr
            self.done[name] = result.stdout
        return self.done[name]

    def lesson(self, name):
        """Run the lesson; return the run that it names and what it printed."""
        output = self.run(name)
        run_id = re.search(r'^Run ".*", ID (\w+)', output, re.MULTILINE)[1]
        return self.client.get_run(run_id), output

    def files(self, run_id):
        """The names of the run's files, sorted."""
        return sorted(file.path for file in self.client.list_artifacts(run_id))

    def model_files(self, run):
        """The one model of the run and the names of its files, sorted."""
        (output,) = run.outputs.model_outputs
        files = self.client.list_logged_model_artifacts(output.model_id)
        return self.client.get_logged_model(output.model_id), sorted(f.path for f in files)


@pytest.fixture(scope="session", params=["sqlite", "file", "server"])
def store(request, tmp_path_factory):
    """The three kinds of store that a reader meets."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sqlite":
        yield Store(f"sqlite:///{folder}/mlflow.db", folder)
    elif request.param == "file":
        yield Store((folder / "mlruns").as_uri(), folder)
    else:
        ENV["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
        server = Server(folder, "server", "--workers", "1")
        yield Store(server.uri, tmp_path_factory.mktemp("client"))
        server.stop()


def checkout_state():
    """What git sees, and every file of a local store that git is told to ignore."""
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True
    )
    kept = [ROOT / "mlflow.db", *(ROOT / "mlruns").rglob("*")]
    return status.stdout, sorted((str(f), f.stat().st_mtime_ns) for f in kept if f.exists())


@pytest.fixture(scope="session", autouse=True)
def unchanged_checkout():
    """Fail the session if a test wrote into the checkout."""
    before = checkout_state()
    yield
    assert checkout_state() == before, "the tests changed the checkout"
