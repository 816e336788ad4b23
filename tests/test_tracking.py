import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import pytest
from connecting import LESSON, answering, at, connecting
from running import AS_ROOT, ENV, PYTHON, ROOT, run
from sentences import assert_one_sentence, assert_success
from services import free_port

HELP = "; see docs/reference/troubleshooting.md#the-place-for-the-runs"


def assert_refused(result, *words):
    """connect() said in one sentence which URI can't be used, why, and where help is."""
    sentence = assert_one_sentence(result, *words, longest=500)
    assert sentence.startswith("Can't use MLFLOW_TRACKING_URI=")
    assert sentence.endswith(f"{HELP}\n")
    assert result.seconds < 30  # MLflow alone: minutes


def test_the_help_that_is_named_exists():
    page, anchor = HELP.removeprefix("; see ").split("#")
    assert f"\n## {anchor.replace('-', ' ').capitalize()}\n" in (ROOT / page).read_text()


@pytest.mark.parametrize(
    "uri",
    [
        "127.0.0.1:5000",
        "localhost:5000",
        "sqlite:///",
        "sqlite:",
        "~/runs",
        "sqlite:///~/x.db",
        "sqlite:///what?/x.db",
        '"http://127.0.0.1:5000"',
        "'sqlite:///x.db'",
        "http://127.0.0.1:5000/#/experiments/1",
    ],
)
def test_uri_that_mlflow_would_take_for_another_place(uri, tmp_path):
    result = connecting(uri, tmp_path)
    assert_refused(result, uri, "write http://HOST:PORT or sqlite:///FILE, without quotes")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("htp://127.0.0.1:5000", "unsupported URI 'htp://127.0.0.1:5000'"),
        ("mongodb://host/db", "Supported URI schemes are"),
        ("postgres://host/db", "Supported URI schemes are"),
        ("mysql://host/db", "No module named 'MySQLdb'"),
        ("sqlite:x.db", "Could not parse SQLAlchemy URL"),
        ("sqlite://x.db", "sqlite:///relative/path/to/file.db"),
        ("http://", "Name or service not known"),
    ],
)
def test_malformed_uri(uri, words, tmp_path):
    assert_refused(connecting(uri, tmp_path), uri, words)
    assert not list(tmp_path.iterdir())


def test_dead_port(tmp_path):
    result = connecting(f"http://127.0.0.1:{free_port()}", tmp_path)
    assert_refused(result, "Connection refused")  # MLflow alone: after 246 s


def test_port_that_never_answers(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = connecting(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path)
    assert_refused(result, "timed out")  # MLflow alone: after 20 minutes


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, b"<html>hello</html>", "not in a valid JSON format. Response body: '<html>hello"),
        (404, b"not found", "failed with error code 404"),
        (401, b"who are you?", "failed with error code 401 != 200. Response body: 'who are you?'"),
        (403, b"", "failed with error code 403"),
        (503, b"busy", "too many 503 error responses"),
    ],
)
def test_server_that_refuses(status, body, words, tmp_path):
    with answering(lambda path: (status, body)) as port:
        result = connecting(f"http://127.0.0.1:{port}", tmp_path)
    assert_refused(result, words)


def test_server_older_than_mlflow_3(tmp_path):
    """MLflow 2 answers a search for experiments, and 404 to one for logged models."""

    def old(path):
        found = path.endswith("/experiments/search")
        return (200, b'{"experiments": []}') if found else (404, b"Not Found")

    with answering(old, "application/json") as port:
        uri = f"http://127.0.0.1:{port}"
        result = connecting(uri, tmp_path)
        assert_refused(result, "/logged-models/search failed with error code 404")
        assert_success(run([PYTHON, "-c", LESSON.replace("t()", "t(2)")], tmp_path, **at(uri)))


@pytest.mark.parametrize(
    "address",
    [
        "http://ada:s3cret@127.0.0.1:{}",
        "http://ada:s3cret/#1@127.0.0.1:{}",
        "ada:s3cret@127.0.0.1:{}",
        "postgresql+psycopg://127.0.0.1:{}/x?password=s3cret",
    ],
)
def test_password_is_not_shown(address, tmp_path):
    result = connecting(address.format(free_port()), tmp_path)
    assert "s3cret" not in result.stdout + result.stderr
    assert_refused(result)


@pytest.mark.parametrize("uri", ["sqlite:///a@b.db", "me@corp/runs", "file:me@corp/runs"])
def test_an_address_with_an_at_sign_and_no_password_is_shown_whole(uri, tmp_path):
    assert f"Runs go to {uri}\n" in connecting(uri, tmp_path).stdout


def test_a_proxy_that_is_dead(tmp_path):
    result = connecting(
        "http://example.com", tmp_path, HTTP_PROXY=f"http://127.0.0.1:{free_port()}"
    )
    assert_refused(result, "Connection refused")


def test_python_stays_as_it_was(tmp_path):
    """No hook for exceptions and no signal handlers, also in a thread."""
    code = """
        import os, signal, sys, threading
        before = sys.excepthook, *map(signal.getsignal, (signal.SIGINT, signal.SIGTERM))
        from tracking import connect
        thread = threading.Thread(target=connect)
        thread.start()
        thread.join()
        after = sys.excepthook, *map(signal.getsignal, (signal.SIGINT, signal.SIGTERM))
        print(before == after)
        open("my_data.csv")
    """
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    result = run([PYTHON, "-c", textwrap.dedent(code)], tmp_path, **at(uri))
    assert result.stdout.endswith("\nTrue\n")
    assert (result.returncode, result.stderr.count("Traceback")) == (1, 1)
    assert result.stderr.endswith(
        "FileNotFoundError: [Errno 2] No such file or directory: 'my_data.csv'\n"
    )


def test_a_server_that_goes_away_is_said_while_mlflow_waits(tmp_path):
    code = """
        import os
        connect()  # a cell that is run again
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
        mlflow.MlflowClient("http://127.0.0.1:9").search_experiments()
    """
    with answering(lambda path: (200, b"{}"), "application/json") as port:
        result = connecting(f"http://127.0.0.1:{port}", tmp_path, "\n" + textwrap.dedent(code))
    assert result.returncode == 1
    assert re.match("Retrying .* after connection broken by .*Connection refused", result.stderr)
    assert result.stderr.count("Retrying") == 1


def test_a_server_that_answers_with_an_error_is_said_while_mlflow_waits(tmp_path):
    """As MLflow's server does while its database or its file store is away; the rest isn't said."""
    answers = iter([500, 503])
    code = """
        import logging
        logging.basicConfig(level="INFO")
        connect()
        mlflow.MlflowClient(mlflow.get_tracking_uri()).search_experiments()
        logging.getLogger("urllib3.connectionpool").warning("Connection pool is full")
    """

    def answer(path):
        return (next(answers, 200) if "experiments/search" in path else 200), b"{}"

    with answering(answer, "application/json") as port:
        result = connecting(f"http://127.0.0.1:{port}", tmp_path, "\n" + textwrap.dedent(code))
    assert result.returncode == 0
    first, second, third = result.stderr.splitlines()
    assert re.fullmatch(r"Retry: /api/2.0/mlflow/experiments/search.*", first)
    assert (second, third) == (first, "Connection pool is full")


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="needs Linux's /proc")
@pytest.mark.parametrize("uri", ["sqlite:////proc/mlflow.db", "/proc/mlruns"])
def test_folder_that_cannot_be_written(uri, tmp_path):
    assert_refused(connecting(uri, tmp_path), uri, "No such file")  # MLflow alone: after 103 s


def test_file_in_the_way(tmp_path):
    (tmp_path / "notes.txt").write_text("not a database, but a file of some length" * 100)
    assert_refused(connecting("sqlite:///notes.txt", tmp_path), "file is not a database")
    assert_refused(connecting("notes.txt", tmp_path), "Not a directory")


@pytest.fixture
def database(tmp_path, template):
    """An existing database in a folder of its own."""
    return Path(shutil.copy(template, tmp_path))


def test_database_that_a_browser_has_locked(database, tmp_path):
    with closing(sqlite3.connect(database)) as browser:
        browser.execute("BEGIN IMMEDIATE")
        assert_refused(connecting(f"sqlite:///{database}", tmp_path), "database is locked")


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's setpriv if root runs it")
def test_database_that_may_not_be_written(database, tmp_path):
    database.chmod(0o444)
    # Root may write it all the same, unless it gives up that right.
    command = ["setpriv", "--bounding-set", "-dac_override"] if AS_ROOT else []
    python = [*command, sys.executable]
    result = connecting(f"sqlite:///{database}", tmp_path, python=python)
    assert_refused(result, "attempt to write a readonly database")


def test_a_left_over_registry_uri_is_said_and_tried(database, tmp_path):
    uri = f"sqlite:///{database}"
    result = connecting(uri, tmp_path, MLFLOW_REGISTRY_URI="sqlite:///models.db")
    assert_success(result)
    assert "\nModels are registered at sqlite:///models.db" in result.stdout
    dead = f"http://ada:s3cret@127.0.0.1:{free_port()}"
    result = connecting(uri, tmp_path, MLFLOW_REGISTRY_URI=dead)
    sentence = assert_one_sentence(result, "Connection refused", HELP)
    assert sentence.startswith("Can't use MLFLOW_REGISTRY_URI=http://127.0.0.1:")
    assert "s3cret" not in result.stdout
    assert result.seconds < 30


@pytest.mark.parametrize("uri", ["runs", "http-runs", "file:runs"])
def test_folder_works(uri, tmp_path):
    folder = tmp_path / uri.removeprefix("file:")
    result = connecting(folder.as_uri() if uri.startswith("file:") else uri, tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("\nSee them: docs/guides/where-runs-go.md says how\n")
    assert (folder / "0" / "meta.yaml").exists()


@pytest.mark.parametrize(
    "name", ["My Documents", 'Jürgen\'s "runs"', "R&D (new); #1", "100%", "a'b$c"]
)
def test_the_command_that_shows_the_runs_can_be_pasted(name, database, tmp_path):
    """Into a shell, with a stand-in for mlflow that prints what it is given."""
    folder = tmp_path / name
    folder.mkdir()
    uri = f"sqlite:///{shutil.copy(database, folder)}"
    result = connecting(uri, tmp_path)
    assert_success(result)
    command = re.search("See them: (.*), then open http://127.0.0.1:5000\n", result.stdout)[1]
    stand_in = 'mlflow() { printf "%s\\n" "$@"; }; '
    pasted = run(["bash", "-c", stand_in + command], tmp_path).stdout.splitlines()
    assert pasted == ["ui", "--port", "5000", "--backend-store-uri", uri]


def test_without_git_no_line_is_printed(database, tmp_path):
    (tmp_path / "empty").mkdir()
    code = "mlflow.start_run(); mlflow.end_run()"
    env = at(f"sqlite:///{database}") | {"PATH": str(tmp_path / "empty")}
    env["GIT_PYTHON_REFRESH"] = "warn"
    assert_success(run([sys.executable, "-c", LESSON + code], tmp_path, **env))


@pytest.mark.parametrize(("switched_off", "client"), [("true", "None"), ("false", "Telemetry")])
def test_telemetry_can_be_switched_off(switched_off, client, tmp_path):
    code = "from mlflow.telemetry import get_telemetry_client as get; print(get())"
    # In the tests of some CI systems MLflow sends nothing anyway.
    env = {k: v for k, v in ENV.items() if k not in ("CI", "GITHUB_ACTIONS")}
    env |= {"MLFLOW_DISABLE_TELEMETRY": switched_off, "MLFLOW_TRACKING_URI": "sqlite:///x.db"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert client in result.stdout, result.stderr
