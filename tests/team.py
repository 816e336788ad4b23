"""The team's server as server/compose.yaml describes it, its commands run on this machine."""

import os
import re
import secrets
import shlex
import shutil
import subprocess
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

import psycopg
import pytest
import yaml
from dotenv import dotenv_values
from mlflow.server import get_app_client
from running import ENV, ROOT, Service, free_port

FOLDER = ROOT / "server"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
POSTGRES = max(
    Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name), default=None
)


def missing(needs, package):
    """Skip a test that needs a program; fail it where the tests are to be complete."""
    give_up = pytest.fail if "CI" in os.environ else pytest.skip
    give_up(f"needs {needs}: apt-get install {package}")


class Postgres:
    """A cluster as Debian makes it: `postgres` by socket without a password, others with one."""

    def __init__(self, port=None):
        if not POSTGRES:
            missing("PostgreSQL", "postgresql")
        # Not in pytest's folder: that one is root's alone, and PostgreSQL refuses to run as root.
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

    def sql(self, *statements):
        """Execute as superuser in the database postgres."""
        command = [*self.owner, POSTGRES / "psql", "--quiet", "--set=ON_ERROR_STOP=1"]
        command += [f"--host={self.folder}", f"--port={self.port}", "--username=postgres"]
        for statement in statements:
            command += ["--command", statement]
        subprocess.run(command, check=True, cwd=self.folder, env=ENV)

    def dump(self, database):
        """All that the database holds, as text."""
        command = [
            *self.owner,
            POSTGRES / "pg_dump",
            f"--host={self.folder}",
            f"--port={self.port}",
        ]
        command += ["--username=postgres", database]
        return subprocess.run(
            command, check=True, cwd=self.folder, env=ENV, capture_output=True, text=True
        ).stdout


class Team:
    """PostgreSQL, an S3 store and `mlflow server` with users, each by its own command."""

    def __init__(self, folder):
        self.folder = folder
        self.secrets = {}
        text = (FOLDER / ".env.example").read_text()
        for name in re.findall(r"^(\w+)=$", text, re.MULTILINE):
            self.secrets[name] = secrets.token_hex(16)
            text = text.replace(f"\n{name}=\n", f"\n{name}={self.secrets[name]}\n")
        (folder / ".env").write_text(text)
        self.users = {user: secrets.token_hex(8) for user in ("ada", "bob")}
        self.users["admin"] = self.secrets["MLFLOW_AUTH_ADMIN_PASSWORD"]
        self.files = folder / "data" / "mlflow"  # the volume of the service s3
        self.files.mkdir(parents=True)
        with ExitStack() as started:
            self.postgres = Postgres()
            started.callback(self.postgres.remove)
            self.ports = {"5000": str(free_port()), "9000": str(free_port())}
            self.ports["5432"] = str(self.postgres.port)
            db = self.environment("db")
            self.postgres.sql(
                f"CREATE ROLE {db['POSTGRES_USER']} LOGIN PASSWORD '{db['POSTGRES_PASSWORD']}'",
                f"CREATE DATABASE {db['POSTGRES_DB']} OWNER {db['POSTGRES_USER']}",
            )
            self.start_s3()
            started.callback(lambda: self.s3.stop())
            self.start_mlflow()
            started.callback(lambda: self.mlflow.stop())
            for name in self.login("admin"):
                started.callback(os.environ.pop, name, None)
            os.environ |= self.login("admin")
            admin = get_app_client("basic-auth", tracking_uri=self.uri)
            for user in "ada", "bob":
                admin.create_user(user, self.users[user])
            os.environ |= self.login("ada")  # for what the tests themselves ask
            self.stop = started.pop_all().close

    def here(self, text):
        """TEXT of the compose file with this machine's ports instead of those of the containers."""
        for port, own in self.ports.items():
            text = re.sub(rf"\b{port}\b", own, text)
        names = r"\b(db|s3)(?=:\d|$)"  # as hosts
        text = re.sub(names, "127.0.0.1", text).replace("0.0.0.0", "127.0.0.1")
        return text.replace(" :", " 127.0.0.1:").replace("/data", f"{self.folder}/data")

    def environment(self, name):
        """The variables of a service, those of .env filled in."""
        service = COMPOSE[name]
        env = dotenv_values(self.folder / ".env") if "env_file" in service else {}
        env |= service["environment"]
        for key, value in env.items():
            value = re.sub(r"\$\{(\w+):\?\}", lambda found: self.secrets[found[1]], value)
            env[key] = self.here(value) if key not in self.secrets else value
        if "MLFLOW_AUTH_CONFIG_PATH" in env:
            env["MLFLOW_AUTH_CONFIG_PATH"] = str(ROOT / env["MLFLOW_AUTH_CONFIG_PATH"])
        return env

    def start_s3(self):
        command = ["rclone", *shlex.split(self.here(COMPOSE["s3"]["command"]))]
        env = self.environment("s3")
        self.s3 = Service(command, self.folder, self.ports["9000"], **env)

    def start_mlflow(self):
        command = shlex.split(self.here(COMPOSE["mlflow"]["command"]))
        command[-1] = str(self.folder / "metrics")
        env = self.environment("mlflow")
        self.mlflow = Service(command, self.folder, self.ports["5000"], path="/health", **env)
        self.uri = self.mlflow.uri

    def healthy(self, name):
        """Whether the service's own health check passes."""
        kind, *command = COMPOSE[name]["healthcheck"]["test"]
        assert kind == "CMD"
        command = [self.here(word) for word in command]
        if command[0] == "pg_isready":
            command[0] = str(POSTGRES / "pg_isready")
        return not subprocess.run(command, env=ENV | self.environment(name)).returncode

    def login(self, user):
        """The variables by which a client is this user."""
        password = self.users[user]
        return {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}

    def client(self, user):
        """All variables that a client needs."""
        return {"MLFLOW_TRACKING_URI": self.uri} | self.login(user)

    def query(self, sql):
        """The rows that the database itself holds."""
        env = self.environment("mlflow")
        with psycopg.connect(
            host=env["PGHOST"],
            port=env["PGPORT"],
            user=env["PGUSER"],
            password=env["PGPASSWORD"],
            dbname="mlflow",
        ) as connection:
            return connection.execute(sql).fetchall()
