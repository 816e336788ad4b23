"""The stores that the lessons run on, and the pages whose blocks are run."""

import os
import re
import shutil
import subprocess
import sys
import time
from functools import cached_property
from importlib.metadata import version

import documents
import mlflow
import pytest
from filelock import FileLock
from guests import Host
from mlflow import MlflowClient
from registry import Registry
from running import AS_ROOT, ROOT, SHARED, run_script, uri
from sentences import assert_success
from services import POSTGRES, WITHOUT_JOBS, Server, free_port
from team import Team, missing

os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
pytest_collect_file = documents.pages.pytest()


def pytest_addoption(parser):
    parser.addoption(
        "--refresh", action="store_true", help="write what commands print into README.md and docs"
    )
    parser.addoption("--pictures", action="store_true", help="take the pictures in docs/images")
    parser.addoption("--server", metavar="URI", help="run the lessons' own tests on this server")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """A server of the reader's gets one test at a time."""
    if config.getoption("--server"):
        config.option.numprocesses = 0


def pytest_configure(config):
    documents.refresh = config.getoption("--refresh")
    if server := config.getoption("--server"):
        config.host = Host(server, SHARED)


# The pages that a reader's own set runs: the lessons', except those that take longest.
READERS = re.compile(r"README\.md$|docs/lessons/(?!hypertune[13_]|reproduce_run|check_server)")
# What takes longest comes first, so that no processor waits for it at the end.
LONGEST = ["test_containers.py"]
LONGEST += ["team-server.md", "test_team_server.py", "test_peers.py", "test_hypertune3.py"]
LONGEST += ["server-operations.md", "test_server_operations.py"]
LONGEST += ["test_cluster.py", "troubleshooting.md", "test_promote_model.py", "test_pictures.py"]
LONGEST += ["test_migrate_filestore.py", "housekeeping.md", "test_interruptions.py"]
LONGEST += ["test_windows.py"]


def choose(config, items):
    """With --server, keep the lessons' tests on it, and skip what it lacks. Else drop these."""
    host, kept, dropped = getattr(config, "host", None), [], []
    for item in items:
        given = hasattr(item, "callspec") and item.callspec.params.get("store") == "given"
        lesson = item.path.stem.removeprefix("test_")
        keep = given and lesson in host.lessons if host else not given
        (kept if keep else dropped).append(item)
        if host and keep and (why := host.refuses(lesson)):
            item.add_marker(pytest.mark.skip(why))
    items[:] = kept
    if host:
        config.hook.pytest_deselected(items=dropped)


def pytest_collection_modifyitems(config, items):
    """.ci/run runs exercises and the other pages; that on the team's server as root, as it says."""
    choose(config, items)
    items.sort(key=lambda item: (*LONGEST, item.path.name).index(item.path.name))
    for item in items:
        if item.path.suffix == ".md":
            name = item.path.relative_to(ROOT).as_posix()
            if not READERS.match(name) or documents.of_exercise(item.example):
                item.add_marker(pytest.mark.ci)
        if item.path.name in ("team-server.md", "server-operations.md"):
            if not AS_ROOT:
                item.add_marker(pytest.mark.skip("its commands are root's"))
            elif not POSTGRES and "CI" not in os.environ:
                item.add_marker(pytest.mark.skip("needs PostgreSQL: apt-get install postgresql"))


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A new, empty database, made once."""
    folder = tmp_path_factory.mktemp("template")
    MlflowClient(uri(folder)).search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def folder(tmp_path, template):
    """A folder with an empty database."""
    shutil.copy(template, tmp_path)
    return tmp_path


class Store:
    """A tracking store in which each lesson runs at most once."""

    def __init__(self, uri, folder, **login):
        self.uri = uri
        self.folder = folder
        self.env = {"MLFLOW_TRACKING_URI": uri} | login
        self.done = {}

    @cached_property
    def client(self):
        """A client that asks the store what it holds."""
        return MlflowClient(self.uri, registry_uri=self.uri)

    def run(self, name):
        """Run the lesson once, quietly and with success; return what it printed."""
        if name not in self.done:
            self.done[name] = assert_success(run_script(name, self.folder, **self.env))
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


@pytest.fixture(scope="session")
def team(tmp_path_factory):
    """The team's server: PostgreSQL, S3, users."""
    team = Team(tmp_path_factory.mktemp("team"))
    yield team
    team.stop()


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        missing("Chromium", "chromium")
    options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-sync"]
    options += ["--disable-quic", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=options)
        yield chromium
        chromium.close()


@pytest.fixture
def mariadb(tmp_path):
    """The URI of an empty database in a MariaDB of the test's own."""
    if not shutil.which("mariadbd"):
        missing("MariaDB", "mariadb-server")
    port, data = free_port(), tmp_path / "mariadb"
    user = ["--user=root"] if AS_ROOT else []
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", *user]
    subprocess.run(
        [*install, "--auth-root-authentication-method=normal"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    socket = ["--no-defaults", f"--socket={tmp_path}/socket"]
    options = [f"--datadir={data}", f"--port={port}", "--bind-address=127.0.0.1", *user]
    with (tmp_path / "mariadb.log").open("w") as log:
        process = subprocess.Popen(["mariadbd", *socket, *options], stdout=log, stderr=log)
    sql = """CREATE DATABASE mlflow CHARACTER SET utf8mb4;
             CREATE USER mlflow@'127.0.0.1' IDENTIFIED BY 'maria';
             GRANT ALL ON mlflow.* TO mlflow@'127.0.0.1';"""
    deadline = time.monotonic() + 60
    while subprocess.run(
        ["mariadb", *socket, "-u", "root", "-e", sql], stderr=subprocess.DEVNULL
    ).returncode:
        assert time.monotonic() < deadline, (tmp_path / "mariadb.log").read_text()
        time.sleep(0.5)
    yield f"mysql+pymysql://mlflow:maria@127.0.0.1:{port}/mlflow"
    process.terminate()
    process.wait(60)


def tracking_uri():
    """A call that says where this process logs and loads; in the end all is as before."""
    before = mlflow.get_tracking_uri()
    yield mlflow.set_tracking_uri
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(before)


# For a test that asks, and after each file: "" as the URI would be ./mlruns of the checkout.
track_in = pytest.fixture(tracking_uri)
default_store = pytest.fixture(tracking_uri, scope="module", autouse=True)


@pytest.fixture
def track_in_default(folder, track_in, monkeypatch):
    """This process logs into the experiment Default of the database in FOLDER."""
    # What set_experiment() leaves in a process, as in that of another test.
    monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", None)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    track_in(uri(folder))


KINDS = [
    "sqlite",
    "file",
    "given",  # by --server, else no test has it
    *[pytest.param(kind, marks=pytest.mark.ci) for kind in ("server", "team")],
]


@pytest.fixture(scope="session", params=KINDS)
def store(request, tmp_path_factory):
    """The kinds of store that a reader meets."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sqlite":
        yield Store(f"sqlite:///{folder}/mlflow.db", folder)
    elif request.param == "file":
        yield Store((folder / "mlruns").as_uri(), folder)
    elif request.param == "team":
        team = request.getfixturevalue("team")
        yield Store(team.uri, folder, **team.login("ada"))
    elif request.param == "given":
        host = request.config.host
        yield Store(request.config.getoption("--server"), folder, **host.login)
        host.clean()
    else:
        server = Server(folder, "server", "--workers", "1", **WITHOUT_JOBS)
        yield Store(server.uri, tmp_path_factory.mktemp("client"))
        server.stop()


@pytest.fixture(scope="session")
def old_python(tmp_path_factory):
    """The Python of a new virtual environment with the last MLflow 2."""
    folder = tmp_path_factory.mktemp("mlflow-2")
    uv, python = [sys.executable, "-m", "uv"], folder / "bin" / "python"
    subprocess.run([*uv, "venv", "-q", "--seed", folder], check=True)
    # mlflow 2.22 doesn't start on SQLAlchemy 2.1. Pickles want the same scikit-learn again.
    packages = ["mlflow==2.22.*", "sqlalchemy<2.1", f"scikit-learn=={version('scikit-learn')}"]
    install = [*uv, "pip", "install", "-q", "--python", python, *packages]
    subprocess.run(install, check=True, timeout=1200)
    return python


def checkout_state(but):
    """What git sees, and every file of a local store that git is told to ignore."""
    status = subprocess.run(
        ["git", "status", "--porcelain", ".", *but], cwd=ROOT, capture_output=True, text=True
    )
    kept = [ROOT / "mlflow.db", *(ROOT / "mlruns").rglob("*")]
    return status.stdout, sorted((str(f), f.stat().st_mtime_ns) for f in kept if f.exists())


@pytest.fixture(scope="session", autouse=True)
def unchanged_checkout(request, tmp_path_factory):
    """Fail the session if a test wrote into the checkout."""
    # A folder's model registry opens the default store too, which would be ./mlflow.db.
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path_factory.mktemp('default')}/mlflow.db")
    but = [":!docs/images"] if request.config.getoption("--pictures") else []
    before = checkout_state(but)
    yield
    assert checkout_state(but) == before, "the tests changed the checkout"


@pytest.fixture(scope="session")
def staged_once(template):
    """What `staged` copies; made once for all processes of the tests."""
    registry = Registry(SHARED / "registry")
    done = registry.folder / "done"
    with FileLock(f"{registry.folder}.lock"):
        if not done.exists():
            registry.folder.mkdir(exist_ok=True)
            shutil.copy(template, registry.folder)
            registry.search(16)
            registry.done("register_model")
            registry.done("promote_model")
            registry.search(64)
            registry.done("register_model")
            done.touch()
    return registry


@pytest.fixture
def staged(staged_once, tmp_path):
    """A registry with version 1 in production and version 2 in staging."""
    return staged_once.copy(tmp_path)


@pytest.fixture(scope="session")
def promoted_once(staged_once, tmp_path_factory):
    registry = staged_once.copy(tmp_path_factory.mktemp("promoted"))
    registry.done("promote_model")
    return registry


@pytest.fixture
def promoted(promoted_once, tmp_path):
    """A registry with version 2 in production, before it version 1."""
    return promoted_once.copy(tmp_path)


@pytest.fixture
def empty_registry(folder):
    """A store with nothing in it."""
    return Registry(folder)
