"""Start what the benchmarks and the tests run against: MLflow's server, PostgreSQL, any service.

Each is a process of its own, without the MLflow settings of whoever starts it.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import requests

# What a user's shell has, less what belongs to MLflow, its stores and pytest. Without byte code a
# new environment starts each program slowly.
OWN = ("MLFLOW", "PYTEST", "DAGSHUB", "AWS", "PG", "RCLONE", "PYTHONDONTWRITEBYTECODE")
ENV = {k: v for k, v in os.environ.items() if not k.startswith(OWN)}
ENV |= {"MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet"}
ENV["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{ENV['PATH']}"

# For servers that only log runs: GenAI's jobs are eight processes more.
WITHOUT_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
# The programs of the newest PostgreSQL, or None.
POSTGRES = max(
    Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name), default=None
)


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
            time.sleep(0.2)
        self.stop()
        raise RuntimeError(f"{command} didn't get ready:\n{self.log.read_text()}")

    def stop(self, number=signal.SIGTERM):
        """End it and its workers, which may outlive it."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and self.listens():  # a worker that is about to end
            time.sleep(0.05)

    def listens(self):
        """Whether something takes connections at its port."""
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", int(self.uri.rpartition(":")[2]))) == 0


class Server(Service):
    """`mlflow COMMAND` in FOLDER, on a free port unless it names one."""

    def __init__(self, folder, *command, **env):
        port = re.search(r"--port[ =](\d+)", " ".join(command))
        port = port[1] if port else str(free_port())
        if "--port" not in " ".join(command):
            command = [*command, "--port", port]
        super().__init__(["mlflow", *command], folder, port, path="/health", **env)


class Postgres:
    """A cluster as Debian makes it: `postgres` by socket without a password, others with one."""

    def __init__(self, port=None):
        if not POSTGRES:
            raise RuntimeError("needs PostgreSQL: apt-get install postgresql")
        # Root's own folders won't do, since PostgreSQL refuses to run as root.
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self.port = port or free_port()
        # For clients by socket.
        self.env = {"PGHOST": str(self.folder), "PGPORT": str(self.port)}
        self.owner = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self.owner:
            shutil.chown(self.folder, "postgres")
        access = {"auth-local": "peer" if self.owner else "trust", "auth-host": "scram-sha-256"}
        self.call("initdb", "--username=postgres", *(f"--{k}={v}" for k, v in access.items()))
        rules = self.folder / "data" / "pg_hba.conf"
        rules.write_text("local all mlflow scram-sha-256\n" + rules.read_text())
        self.start()

    def call(self, program, *options):
        data = f"--pgdata={self.folder}/data"
        command = [*self.owner, POSTGRES / program, data, *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.folder, env=ENV)

    def start(self):
        options = f"-h 127.0.0.1 -p {self.port} -k '{self.folder}'"
        self.call("pg_ctl", "start", "--wait", f"--log={self.folder}/log", f"--options={options}")

    def stop(self):
        self.call("pg_ctl", "stop", "--mode=immediate")

    def remove(self):
        with suppress(subprocess.CalledProcessError):
            self.stop()
        shutil.rmtree(self.folder)

    def client(self, program, *options):
        """Run a client program as superuser; return what it prints."""
        command = [*self.owner, POSTGRES / program, f"--host={self.folder}"]
        command += [f"--port={self.port}", "--username=postgres", *options]
        return subprocess.run(
            command, check=True, cwd=self.folder, env=ENV, stdout=subprocess.PIPE, text=True
        ).stdout

    def sql(self, *statements):
        """Execute as superuser in the database postgres."""
        commands = [f"--command={statement}" for statement in statements]
        self.client("psql", "--quiet", "--set=ON_ERROR_STOP=1", *commands)

    def make_database(self, name, password=None):
        """Make a role and its own database, both called NAME; return the role's URI of it."""
        password = password or name
        self.sql(
            f"CREATE ROLE {name} LOGIN PASSWORD '{password}'",
            f"CREATE DATABASE {name} OWNER {name}",
        )
        return f"postgresql+psycopg://{name}:{password}@127.0.0.1:{self.port}/{name}"

    def dump(self, database):
        """All that the database holds, as text."""
        return self.client("pg_dump", database)
