"""The team's server as server/compose.yaml describes it, its commands run on this machine."""

import os
import re
import secrets
import shlex
import shutil
import subprocess
from contextlib import ExitStack, contextmanager
from functools import cache

import pytest
from dotenv import dotenv_values
from running import ROOT
from services import ENV, POSTGRES, Postgres, Service, free_port

FOLDER = ROOT / "server"


def missing(needs, package):
    """Skip a test that needs a program; fail it where the tests are to be complete."""
    give_up = pytest.fail if "CI" in os.environ else pytest.skip
    give_up(f"needs {needs}: apt-get install {package}")


def need_postgresql():
    """Skip or fail a test if PostgreSQL is missing."""
    if not POSTGRES:
        missing("PostgreSQL", "postgresql")


@cache
def compose():
    """The services of server/compose.yaml by name."""
    # Imported here, like the drivers below: most tests need none of them.
    import yaml

    return yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]


class Team:
    """PostgreSQL, an S3 store and `mlflow server` with users, each by its own command."""

    def __init__(self, folder):
        need_postgresql()
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
            assert db["POSTGRES_USER"] == db["POSTGRES_DB"]
            self.postgres.make_database(db["POSTGRES_DB"], db["POSTGRES_PASSWORD"])
            self.start_s3()
            started.callback(lambda: self.s3.stop())
            self.start_mlflow()
            started.callback(lambda: self.mlflow.stop())
            for name in self.login("admin"):
                started.callback(os.environ.pop, name, None)
            os.environ |= self.login("admin")
            from mlflow.server import get_app_client

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
        service = compose()[name]
        env = dotenv_values(self.folder / ".env") if "env_file" in service else {}
        env |= service["environment"]
        for key, value in env.items():
            value = re.sub(r"\$\{(\w+):\?\}", lambda found: self.secrets[found[1]], value)
            env[key] = self.here(value) if key not in self.secrets else value
        if "MLFLOW_AUTH_CONFIG_PATH" in env:
            env["MLFLOW_AUTH_CONFIG_PATH"] = str(ROOT / env["MLFLOW_AUTH_CONFIG_PATH"])
        return env

    def start_s3(self):
        command = ["rclone", *shlex.split(self.here(compose()["s3"]["command"]))]
        env = self.environment("s3")
        self.s3 = Service(command, self.folder, self.ports["9000"], **env)

    def start_mlflow(self):
        command = shlex.split(self.here(compose()["mlflow"]["command"]))
        command[-1] = str(self.folder / "metrics")
        env = self.environment("mlflow")
        self.mlflow = Service(command, self.folder, self.ports["5000"], path="/health", **env)
        self.uri = self.mlflow.uri

    def healthy(self, name):
        """Whether the service's own health check passes."""
        test = compose()[name]["healthcheck"]["test"]
        kind, *command = ["CMD", *shlex.split(test)] if isinstance(test, str) else test
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
        import psycopg

        env = self.environment("mlflow")
        with psycopg.connect(
            host=env["PGHOST"],
            port=env["PGPORT"],
            user=env["PGUSER"],
            password=env["PGPASSWORD"],
            dbname="mlflow",
        ) as connection:
            return connection.execute(sql).fetchall()


@contextmanager
def caddy(folder, server, port=None, tls="internal"):
    """Caddy with server/Caddyfile, on another port, with a certificate of its own; and its CA."""
    if not shutil.which("caddy"):
        missing("Caddy", "caddy")
    port = port or free_port()
    text = (FOLDER / "Caddyfile").read_text()
    assert "mlflow.example.com {\n" in text and "127.0.0.1:5000\n" in text
    text = text.replace("mlflow.example.com {", f"localhost:{port} {{\n\ttls {tls}")
    text = text.replace("127.0.0.1:5000", server.removeprefix("http://"))
    options = f"skip_install_trust\n\tauto_https disable_redirects\n\tstorage file_system {folder}"
    assert "{\n\t#" in text and "\n\tadmin off\n}" in text
    text = text.replace("\n\tadmin off\n", f"\n\tadmin off\n\t{options}\n")
    (folder / "Caddyfile").write_text(text)
    command = ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]
    proxy = Service(command, folder, port)
    try:
        yield f"https://localhost:{port}", str(folder / "pki/authorities/local/root.crt")
    finally:
        proxy.stop()
